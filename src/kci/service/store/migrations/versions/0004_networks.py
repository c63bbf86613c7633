"""VPCs, subnets, security groups and their rules, and addresses that are kept for a name.

What the service was told by its flags is made into rows when it starts, not here: only it knows them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def _checksum() -> sa.Column[str]:
    return sa.Column("checksum", sa.String(32), nullable=False, server_default="")


def upgrade() -> None:
    op.create_table(
        "retained_addresses",
        sa.Column("subnet_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("cluster_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("address", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        _checksum(),
        sa.UniqueConstraint("subnet_id", "address", name="one_name_per_retained_address"),
    )
    op.create_index("retained_addresses_by_end", "retained_addresses", ["until_ms"])
    op.create_table(
        "vpcs",
        sa.Column("vpc_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("cidr", sa.String(18), nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        _checksum(),
    )
    op.create_index("vpcs_of_tenant", "vpcs", ["tenant_id", "created_at_ms"])
    _create_subnets()
    _create_security_groups()


def _create_subnets() -> None:
    op.create_table(
        "subnets",
        sa.Column("subnet_id", sa.String(36), primary_key=True),
        sa.Column("vpc_id", sa.String(36), sa.ForeignKey("vpcs.vpc_id"), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("cidr", sa.String(18), nullable=False),
        sa.Column("gateway", sa.String(15), nullable=False),
        sa.Column("first_address", sa.String(15), nullable=False),
        sa.Column("last_address", sa.String(15), nullable=False),
        sa.Column("name_servers", sa.String(31), nullable=False),
        sa.Column("mtu", sa.Integer, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        _checksum(),
    )
    op.create_index("subnets_of_tenant", "subnets", ["tenant_id", "created_at_ms"])
    op.create_index("subnets_of_vpc", "subnets", ["vpc_id"])


def _create_security_groups() -> None:
    op.create_table(
        "security_groups",
        sa.Column("security_group_id", sa.String(36), primary_key=True),
        sa.Column("vpc_id", sa.String(36), sa.ForeignKey("vpcs.vpc_id"), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.String(256), nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        _checksum(),
    )
    op.create_index("security_groups_of_tenant", "security_groups", ["tenant_id", "created_at_ms"])
    op.create_index("security_groups_of_vpc", "security_groups", ["vpc_id"])
    owner = sa.ForeignKey("security_groups.security_group_id")
    op.create_table(
        "security_group_rules",
        sa.Column("rule_id", sa.String(36), primary_key=True),
        sa.Column("security_group_id", sa.String(36), owner, nullable=False),
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("is_allowed", sa.Boolean, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("protocol", sa.String(4), nullable=False),
        sa.Column("first_port", sa.Integer, nullable=False),
        sa.Column("last_port", sa.Integer, nullable=False),
        sa.Column("icmp_type", sa.Integer, nullable=True),
        sa.Column("icmp_code", sa.Integer, nullable=True),
        sa.Column("cidr", sa.String(18), nullable=False),
        sa.Column("peer_id", sa.String(36), nullable=False),
        sa.Column("description", sa.String(256), nullable=False),
        sa.Column("tag", sa.String(256), nullable=False),
        sa.Column("subnet_id", sa.String(36), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        _checksum(),
    )
    op.create_index("rules_of_security_group", "security_group_rules", ["security_group_id", "created_at_ms"])
    op.create_index("rules_by_peer", "security_group_rules", ["peer_id"])
    op.create_index("rules_by_subnet", "security_group_rules", ["subnet_id"])
