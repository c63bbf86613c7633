"""The tables, as they are after the last migration. A change here comes with a migration."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

groups = sa.Table(
    "groups",
    metadata,
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
    # The create call as JSON, without its secrets.
    sa.Column("request", sa.Text, nullable=False),
    # NULL once the group is deleted.
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
    # Over all columns above but the number and the kubeconfig, whose seal tells damage by itself.
    sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
    sa.UniqueConstraint("group_id", name="one_row_per_group"),
    sqlite_autoincrement=True,
)
sa.Index("groups_of_tenant", groups.c.tenant_id, groups.c.lifecycle)
sa.Index("groups_by_lifecycle", groups.c.lifecycle)
# One group per pod for ever: a deleted group still holds its pod's UID until its tombstone is removed.
sa.Index(
    "one_group_per_pod",
    groups.c.tenant_id,
    groups.c.cluster_id,
    groups.c.pod_uid,
    unique=True,
    sqlite_where=groups.c.pod_uid != "",
    postgresql_where=groups.c.pod_uid != "",
)
sa.Index(
    "one_group_per_token",
    groups.c.tenant_id,
    groups.c.client_token,
    unique=True,
    sqlite_where=groups.c.client_token != "",
    postgresql_where=groups.c.client_token != "",
)

addresses = sa.Table(
    "addresses",
    metadata,
    sa.Column("subnet_id", sa.String(36), primary_key=True),
    # The address as a number, so that it sorts.
    sa.Column("address", sa.BigInteger, primary_key=True, autoincrement=False),
    # NULL while it is free.
    sa.Column("group_id", sa.String(36), nullable=True),
    sa.Column("released_at_ms", sa.BigInteger, nullable=True),
    sa.UniqueConstraint("group_id", name="one_address_per_group"),
)
sa.Index("free_addresses", addresses.c.subnet_id, addresses.c.released_at_ms)

# Addresses that are kept for the next group of a name in a cluster (RetainIp). They are free, and others get
# them last.
retained_addresses = sa.Table(
    "retained_addresses",
    metadata,
    sa.Column("subnet_id", sa.String(36), primary_key=True),
    sa.Column("tenant_id", sa.String(64), primary_key=True),
    sa.Column("cluster_id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("address", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
    sa.UniqueConstraint("subnet_id", "address", name="one_name_per_retained_address"),
)
sa.Index("retained_addresses_by_end", retained_addresses.c.until_ms)

vpcs = sa.Table(
    "vpcs",
    metadata,
    sa.Column("vpc_id", sa.String(36), primary_key=True),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("cidr", sa.String(18), nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
)
sa.Index("vpcs_of_tenant", vpcs.c.tenant_id, vpcs.c.created_at_ms)

subnets = sa.Table(
    "subnets",
    metadata,
    sa.Column("subnet_id", sa.String(36), primary_key=True),
    sa.Column("vpc_id", sa.String(36), sa.ForeignKey("vpcs.vpc_id"), nullable=False),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("cidr", sa.String(18), nullable=False),
    sa.Column("gateway", sa.String(15), nullable=False),
    # Empty: as far as the range goes.
    sa.Column("first_address", sa.String(15), nullable=False),
    sa.Column("last_address", sa.String(15), nullable=False),
    # With a comma between them.
    sa.Column("name_servers", sa.String(31), nullable=False),
    sa.Column("mtu", sa.Integer, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
)
sa.Index("subnets_of_tenant", subnets.c.tenant_id, subnets.c.created_at_ms)
sa.Index("subnets_of_vpc", subnets.c.vpc_id)

security_groups = sa.Table(
    "security_groups",
    metadata,
    sa.Column("security_group_id", sa.String(36), primary_key=True),
    sa.Column("vpc_id", sa.String(36), sa.ForeignKey("vpcs.vpc_id"), nullable=False),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("description", sa.String(256), nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
)
sa.Index("security_groups_of_tenant", security_groups.c.tenant_id, security_groups.c.created_at_ms)
sa.Index("security_groups_of_vpc", security_groups.c.vpc_id)

security_group_rules = sa.Table(
    "security_group_rules",
    metadata,
    sa.Column("rule_id", sa.String(36), primary_key=True),
    sa.Column(
        "security_group_id",
        sa.String(36),
        sa.ForeignKey("security_groups.security_group_id"),
        nullable=False,
    ),
    sa.Column("direction", sa.String(3), nullable=False),
    sa.Column("is_allowed", sa.Boolean, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("protocol", sa.String(4), nullable=False),
    sa.Column("first_port", sa.Integer, nullable=False),
    sa.Column("last_port", sa.Integer, nullable=False),
    sa.Column("icmp_type", sa.Integer, nullable=True),
    sa.Column("icmp_code", sa.Integer, nullable=True),
    # One of the two is empty.
    sa.Column("cidr", sa.String(18), nullable=False),
    sa.Column("peer_id", sa.String(36), nullable=False),
    sa.Column("description", sa.String(256), nullable=False),
    sa.Column("tag", sa.String(256), nullable=False),
    # The subnet that the rule came with; empty if somebody wrote it.
    sa.Column("subnet_id", sa.String(36), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
)
sa.Index(
    "rules_of_security_group",
    security_group_rules.c.security_group_id,
    security_group_rules.c.created_at_ms,
)
sa.Index("rules_by_peer", security_group_rules.c.peer_id)
sa.Index("rules_by_subnet", security_group_rules.c.subnet_id)

# The kubeconfig that each node gave last, which serves all of its groups.
node_kubeconfigs = sa.Table(
    "node_kubeconfigs",
    metadata,
    sa.Column("tenant_id", sa.String(64), primary_key=True),
    sa.Column("cluster_id", sa.String(63), primary_key=True),
    sa.Column("node_name", sa.String(63), primary_key=True),
    # Under the store's key: by it the same kubeconfig is known without opening the one that is kept.
    sa.Column("fingerprint", sa.String(64), nullable=False),
    # When the call was signed that gave it, in seconds since 1970: a call may come late, or once more.
    sa.Column("given_at", sa.Integer, nullable=False),
    sa.Column("kubeconfig_sealed", sa.LargeBinary, nullable=False),
    # Without the kubeconfig, as for groups.
    sa.Column("checksum", sa.String(32), nullable=False, server_default=""),
)

# The highest epoch in which each holder has written.
fences = sa.Table(
    "fences",
    metadata,
    sa.Column("tenant_id", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(512), primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("used_at_ms", sa.BigInteger, nullable=False),
)
# The epoch is in it so that a damaged one does not agree with its index.
sa.Index("fences_by_use", fences.c.used_at_ms, fences.c.epoch)

# Signatures that may be used once only, as long as their request would pass the verifier again.
signatures = sa.Table(
    "signatures",
    metadata,
    sa.Column("tenant_id", sa.String(64), primary_key=True),
    sa.Column("signature", sa.String(64), primary_key=True),
    sa.Column("good_until_ms", sa.BigInteger, nullable=False),
)
sa.Index("signatures_by_end", signatures.c.good_until_ms)

# Small facts about the store itself: which key it was sealed with, how often it was changed, its schema.
facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
