"""Run by alembic: applies the steps on the connection that `database.py` hands over."""

from __future__ import annotations

from alembic import context

# transactional_ddl: SQLite can take back a half-done step, which alembic does not assume.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
