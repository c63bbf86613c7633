"""The store gets an id, so that a machine knows it from another one."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    facts = sa.table("facts", sa.column("name", sa.String), sa.column("value", sa.LargeBinary))
    op.execute(facts.insert().values(name="id", value=uuid.uuid4().hex.encode()))
