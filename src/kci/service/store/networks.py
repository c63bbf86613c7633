"""SQL for VPCs and subnets. Each function works inside the session that it is given."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

import sqlalchemy as sa

from kci.contract import ids
from kci.service.domain import addresses, networks
from kci.service.store import checksums, database, schema

_VPCS = schema.vpcs
_SUBNETS = schema.subnets


# ---- VPCs


def get_vpc(
    session: database.Session, vpc_id: str, *, tenant_id: ids.TenantId | None = None
) -> networks.Vpc | None:
    """The VPC, of this tenant if one is named."""
    query = sa.select(_VPCS).where(_VPCS.c.vpc_id == vpc_id)
    if tenant_id is not None:
        query = query.where(_VPCS.c.tenant_id == tenant_id)
    row = session.connection.execute(query).one_or_none()
    return None if row is None else _to_vpc(row)


def list_vpcs(
    session: database.Session, tenant_id: ids.TenantId, vpc_ids: Sequence[str], *, offset: int, limit: int
) -> tuple[list[networks.Vpc], int]:
    """One page in the order of creation, and how many there are in all. No ids: all of the tenant's."""
    wanted = [_VPCS.c.tenant_id == tenant_id]
    if vpc_ids:
        wanted.append(_VPCS.c.vpc_id.in_(vpc_ids))
    total = session.connection.scalar(sa.select(sa.func.count()).select_from(_VPCS).where(*wanted)) or 0
    page = sa.select(_VPCS).where(*wanted).order_by(_VPCS.c.created_at_ms, _VPCS.c.vpc_id)
    return [_to_vpc(row) for row in session.connection.execute(page.offset(offset).limit(limit))], total


def insert_vpc(session: database.Session, vpc: networks.Vpc) -> None:
    values = {
        "vpc_id": vpc.vpc_id,
        "tenant_id": vpc.tenant_id,
        "name": vpc.name,
        "cidr": str(vpc.network),
        "is_default": vpc.is_default,
        "created_at_ms": _to_ms(vpc.created_at),
    }
    session.connection.execute(_VPCS.insert(), values)
    checksums.sum_up(session.connection, _VPCS, _VPCS.c.vpc_id == vpc.vpc_id)


def update_vpc(session: database.Session, vpc: networks.Vpc) -> None:
    """Write what can change of a VPC: its range."""
    this = _VPCS.c.vpc_id == vpc.vpc_id
    session.connection.execute(_VPCS.update().where(this).values(cidr=str(vpc.network)))
    checksums.sum_up(session.connection, _VPCS, this)


def remove_vpc(session: database.Session, vpc_id: ids.VpcId) -> None:
    session.connection.execute(_VPCS.delete().where(_VPCS.c.vpc_id == vpc_id))


# ---- subnets


def get_subnet(
    session: database.Session, subnet_id: str, *, tenant_id: ids.TenantId | None = None
) -> networks.Subnet | None:
    """The subnet, of this tenant if one is named."""
    query = sa.select(_SUBNETS).where(_SUBNETS.c.subnet_id == subnet_id)
    if tenant_id is not None:
        query = query.where(_SUBNETS.c.tenant_id == tenant_id)
    row = session.connection.execute(query).one_or_none()
    return None if row is None else _to_subnet(row)


def list_subnets(
    session: database.Session,
    tenant_id: ids.TenantId,
    subnet_ids: Sequence[str],
    *,
    vpc_ids: Sequence[str] | None = None,
    offset: int,
    limit: int,
) -> tuple[list[networks.Subnet], int]:
    """One page in the order of creation, and how many there are in all."""
    wanted = [_SUBNETS.c.tenant_id == tenant_id]
    if subnet_ids:
        wanted.append(_SUBNETS.c.subnet_id.in_(subnet_ids))
    if vpc_ids is not None:
        wanted.append(_SUBNETS.c.vpc_id.in_(vpc_ids))
    total = session.connection.scalar(sa.select(sa.func.count()).select_from(_SUBNETS).where(*wanted)) or 0
    page = sa.select(_SUBNETS).where(*wanted).order_by(_SUBNETS.c.created_at_ms, _SUBNETS.c.subnet_id)
    return [_to_subnet(row) for row in session.connection.execute(page.offset(offset).limit(limit))], total


def list_all_subnets(session: database.Session) -> list[networks.Subnet]:
    """Of every tenant."""
    return [_to_subnet(row) for row in session.connection.execute(sa.select(_SUBNETS))]


def list_subnets_of_vpc(session: database.Session, vpc_id: ids.VpcId) -> list[networks.Subnet]:
    query = sa.select(_SUBNETS).where(_SUBNETS.c.vpc_id == vpc_id)
    return [_to_subnet(row) for row in session.connection.execute(query)]


def insert_subnet(session: database.Session, subnet: networks.Subnet) -> None:
    values = {
        "subnet_id": subnet.subnet_id,
        "vpc_id": subnet.vpc_id,
        "tenant_id": subnet.tenant_id,
        "created_at_ms": _to_ms(subnet.created_at),
        **_changeable(subnet),
    }
    session.connection.execute(_SUBNETS.insert(), values)
    checksums.sum_up(session.connection, _SUBNETS, _SUBNETS.c.subnet_id == subnet.subnet_id)


def update_subnet(session: database.Session, subnet: networks.Subnet) -> None:
    """Write what can change of a subnet."""
    this = _SUBNETS.c.subnet_id == subnet.subnet_id
    session.connection.execute(_SUBNETS.update().where(this).values(**_changeable(subnet)))
    checksums.sum_up(session.connection, _SUBNETS, this)


def remove_subnet(session: database.Session, subnet_id: ids.SubnetId) -> None:
    session.connection.execute(_SUBNETS.delete().where(_SUBNETS.c.subnet_id == subnet_id))


def _changeable(subnet: networks.Subnet) -> dict[str, str | int]:
    pool = subnet.pool
    return {
        "name": subnet.name,
        "cidr": str(pool.network),
        "gateway": str(pool.gateway),
        "first_address": str(pool.first or ""),
        "last_address": str(pool.last or ""),
        "name_servers": ",".join(subnet.name_servers),
        "mtu": subnet.mtu,
    }


def _to_vpc(row: sa.Row[tuple[object, ...]]) -> networks.Vpc:
    return networks.Vpc(
        vpc_id=ids.VpcId(row.vpc_id),
        tenant_id=ids.TenantId(row.tenant_id),
        network=ipaddress.IPv4Network(row.cidr),
        created_at=_to_moment(row.created_at_ms),
        name=row.name,
        is_default=row.is_default,
    )


def _to_subnet(row: sa.Row[tuple[object, ...]]) -> networks.Subnet:
    return networks.Subnet(
        vpc_id=ids.VpcId(row.vpc_id),
        tenant_id=ids.TenantId(row.tenant_id),
        pool=addresses.Subnet(
            subnet_id=ids.SubnetId(row.subnet_id),
            network=ipaddress.IPv4Network(row.cidr),
            gateway=ipaddress.IPv4Address(row.gateway),
            first=ipaddress.IPv4Address(row.first_address) if row.first_address else None,
            last=ipaddress.IPv4Address(row.last_address) if row.last_address else None,
        ),
        created_at=_to_moment(row.created_at_ms),
        name=row.name,
        name_servers=tuple(part for part in row.name_servers.split(",") if part),
        mtu=row.mtu,
    )


def _to_ms(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)


def _to_moment(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
