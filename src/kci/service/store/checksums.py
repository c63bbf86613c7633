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


def of(table: sa.Table) -> sa.ColumnElement[str]:
    """What the checksum of a row must be, as an expression in SQL."""
    left_out = {"number", "kubeconfig_sealed", "checksum"}
    return sa.func.kci_checksum(*(column for column in table.c if column.name not in left_out))


OF_GROUP = of(schema.groups)
# Each table that has checksums, and what a row of it is to a person.
_SUMMED = {
    schema.groups: "container groups",
    schema.vpcs: "VPCs",
    schema.subnets: "subnets",
    schema.security_groups: "security groups",
    schema.security_group_rules: "entries of security groups",
    schema.retained_addresses: "retained addresses",
    schema.node_kubeconfigs: "kubeconfigs of nodes",
}


def find_damaged(connection: sa.Connection) -> str:
    """What is not as it was written, in words; empty if all is."""
    for table, name in _SUMMED.items():
        damaged = sa.select(sa.func.count()).select_from(table).where(table.c.checksum != of(table))
        if count := connection.scalar(damaged):
            return f"{count} {name} are not as they were written"
    return ""


def sum_up(connection: sa.Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> None:
    """After these rows were written."""
    connection.execute(table.update().where(*where).values(checksum=of(table)))


def of_schema(connection: sa.Connection) -> bytes:
    """Over the text of all tables and indexes."""
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")
    return _checksum(*(value for row in rows for value in row)).encode()


def _checksum(*values: str | float | bytes | None) -> str:
    # repr tells 1 from '1' and an absent value from an empty one, and quotes what would end a value.
    return hashlib.blake2b(repr(values).encode(), digest_size=_BYTES).hexdigest()
