"""What tells damage that SQLite itself does not see: bytes that changed inside a row, and in the schema.

SQLite's own check compares tables with their indexes and knows its pages' form; the content of a column
that has no index could be anything. A row's checksum is computed by a function in SQL, so that the values
are those that the database holds.
"""

from __future__ import annotations

import hashlib
import sqlite3

import sqlalchemy as sa

from kci.service.store import schema

_BYTES = 16


def install(connection: sqlite3.Connection) -> None:
    """Make the function known to SQL on this connection; the migrations use it, too."""
    connection.create_function("kci_checksum", -1, _checksum, deterministic=True)


# What the checksum of a group must be, as an expression in SQL.
OF_GROUP: sa.ColumnElement[str] = sa.func.kci_checksum(
    *(column for column in schema.groups.c if column.name not in {"number", "kubeconfig_sealed", "checksum"})
)


def count_damaged(connection: sa.Connection) -> int:
    """How many groups are not as they were written."""
    damaged = sa.select(sa.func.count()).select_from(schema.groups)
    return connection.scalar(damaged.where(schema.groups.c.checksum != OF_GROUP)) or 0


def of_schema(connection: sa.Connection) -> bytes:
    """Over the text of all tables and indexes."""
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")
    return _checksum(*(value for row in rows for value in row)).encode()


def _checksum(*values: str | float | bytes | None) -> str:
    # repr tells 1 from '1' and an absent value from an empty one, and quotes what would end a value.
    return hashlib.blake2b(repr(values).encode(), digest_size=_BYTES).hexdigest()
