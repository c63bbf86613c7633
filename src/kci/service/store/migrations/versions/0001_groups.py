"""The first schema: groups, addresses, facts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _create_groups()
    op.create_table(
        "addresses",
        sa.Column("subnet_id", sa.String(36), primary_key=True),
        sa.Column("address", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("group_id", sa.String(36), nullable=True),
        sa.Column("released_at_ms", sa.BigInteger, nullable=True),
        sa.UniqueConstraint("group_id", name="one_address_per_group"),
    )
    op.create_index("free_addresses", "addresses", ["subnet_id", "released_at_ms"])
    op.create_table(
        "facts",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )


def _create_groups() -> None:
    op.create_table(
        "groups",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("group_id", sa.String(36), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("lifecycle", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String(128), nullable=False),
        sa.Column("message", sa.String(1024), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("cluster_id", sa.String(63), nullable=False),
        sa.Column("pod_uid", sa.String(63), nullable=False),
        sa.Column("client_token", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("kubeconfig_sealed", sa.LargeBinary, nullable=True),
        sa.Column("project_id", sa.BigInteger, nullable=False),
        sa.Column("cpu_milli", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("interface_id", sa.String(36), nullable=False),
        sa.Column("subnet_id", sa.String(36), nullable=False),
        sa.Column("address", sa.String(15), nullable=False),
        sa.Column("prefix_length", sa.Integer, nullable=False),
        sa.Column("gateway", sa.String(15), nullable=False),
        sa.Column("mac_address", sa.String(17), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("deleted_at_ms", sa.BigInteger, nullable=True),
        sa.UniqueConstraint("group_id", name="one_row_per_group"),
        sqlite_autoincrement=True,
    )
    op.create_index("groups_of_tenant", "groups", ["tenant_id", "lifecycle"])
    op.create_index("groups_by_lifecycle", "groups", ["lifecycle"])
    for name, columns in (
        ("one_group_per_pod", ["tenant_id", "cluster_id", "pod_uid"]),
        ("one_group_per_token", ["tenant_id", "client_token"]),
    ):
        given = sa.text(f"{columns[-1]} <> ''")
        op.create_index(name, "groups", columns, unique=True, sqlite_where=given, postgresql_where=given)
