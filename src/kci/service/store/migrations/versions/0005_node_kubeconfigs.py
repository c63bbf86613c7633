"""The kubeconfig that each node gave last. Until its next create a node has none: its groups use theirs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "node_kubeconfigs",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("cluster_id", sa.String(63), primary_key=True),
        sa.Column("node_name", sa.String(63), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("given_at", sa.Integer, nullable=False),
        sa.Column("kubeconfig_sealed", sa.LargeBinary, nullable=False),
        sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
    )
