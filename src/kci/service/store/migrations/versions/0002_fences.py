"""Epochs of holders, signatures that were used, and what tells damage: checksums and a count of changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SUMMED = (
    "group_id", "tenant_id", "name", "lifecycle", "status", "gone", "reason", "message", "generation",
    "revision", "cluster_id", "pod_uid", "client_token", "fingerprint", "request", "project_id", "cpu_milli",
    "memory_mib", "interface_id", "subnet_id", "address", "prefix_length", "gateway", "mac_address",
    "created_at_ms", "deleted_at_ms",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "fences",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(512), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("used_at_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("fences_by_use", "fences", ["used_at_ms", "epoch"])
    op.create_table(
        "signatures",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("signature", sa.String(64), primary_key=True),
        sa.Column("good_until_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("signatures_by_end", "signatures", ["good_until_ms"])
    op.add_column("groups", sa.Column("checksum", sa.String(32), nullable=False, server_default=""))
    groups = sa.table("groups", sa.column("checksum"), *(sa.column(name) for name in _SUMMED))
    op.execute(groups.update().values(checksum=sa.func.kci_checksum(*(groups.c[name] for name in _SUMMED))))
    op.execute("INSERT INTO facts (name, value) VALUES ('changes', X'30')")
