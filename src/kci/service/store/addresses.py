"""SQL for the addresses of subnets: which are given, which are free, and which are kept for a name.

An address that is kept is a free one, of exactly one name in one cluster: whoever takes it ends that.
"""

from __future__ import annotations

import datetime
import ipaddress

import sqlalchemy as sa

from kci.contract import ids
from kci.service.domain import addresses, groups
from kci.service.store import checksums, database, schema

_ADDRESSES = schema.addresses
_RETAINED = schema.retained_addresses


def claim_address(
    session: database.Session,
    subnet: addresses.Subnet,
    group_id: ids.GroupId,
    *,
    tenant_id: ids.TenantId,
    cluster_id: str,
    name: str,
    now: datetime.datetime,
) -> ipaddress.IPv4Address | None:
    """Give the group of this name an address of the subnet; None if all are taken."""
    first, last = addresses.bounds(subnet)
    # What was given in an earlier range of the subnet, or has become its gateway, does not come back.
    here = sa.and_(
        _ADDRESSES.c.subnet_id == subnet.subnet_id,
        _ADDRESSES.c.address.between(first, last),
        _ADDRESSES.c.address != int(subnet.gateway),
    )
    # Not max(): beside another condition SQLite would look at every one.
    highest = session.connection.scalar(
        sa.select(_ADDRESSES.c.address).where(here).order_by(_ADDRESSES.c.address.desc()).limit(1)
    )
    kept = sa.select(_RETAINED.c.address).where(
        _RETAINED.c.subnet_id == subnet.subnet_id, _RETAINED.c.until_ms > _to_ms(now)
    )
    free = _ADDRESSES.c.address
    # As `here`, but not so that SQLite takes the key's order, and sorts all free ones to find the first.
    number = _ADDRESSES.c.address + 0
    rested = sa.and_(
        _ADDRESSES.c.subnet_id == subnet.subnet_id,
        number.between(first, last),
        number != int(subnet.gateway),
    )
    # By its key: among the free ones SQLite would go through all of them for it.
    for_it = session.connection.scalar(
        kept.where(
            _RETAINED.c.tenant_id == tenant_id,
            _RETAINED.c.cluster_id == cluster_id,
            _RETAINED.c.name == name,
        )
    )
    known = {
        "highest_used": None if highest is None else ipaddress.IPv4Address(highest),
        "longest_released": _longest_free(session, rested, number.not_in(kept)),
        "kept_for_it": None if for_it is None else _free(session, here, free == for_it),
    }
    chosen = addresses.choose_address(subnet, **known)
    if chosen is None:
        others = _longest_free(session, rested, number.in_(kept))
        chosen = addresses.choose_address(subnet, **known, kept_for_others=others)
    if chosen is None:
        return None
    session.connection.execute(
        _RETAINED.delete().where(
            _RETAINED.c.subnet_id == subnet.subnet_id, _RETAINED.c.address == int(chosen)
        )
    )
    values = {"group_id": group_id, "released_at_ms": None}
    if highest is None or int(chosen) > highest:
        fresh = {"subnet_id": subnet.subnet_id, "address": int(chosen), **values}
        session.connection.execute(_ADDRESSES.insert(), fresh)
    else:
        session.connection.execute(
            _ADDRESSES.update().where(here, _ADDRESSES.c.address == int(chosen)).values(**values)
        )
    return chosen


def release_address(session: database.Session, group: groups.Group, *, now: datetime.datetime) -> None:
    """Free the address of a group that is deleted, and keep it for its name if the group asked for that."""
    mine = _ADDRESSES.c.group_id == group.group_id
    address = session.connection.scalar(sa.select(_ADDRESSES.c.address).where(mine))
    if address is None:
        return
    session.connection.execute(
        _ADDRESSES.update().where(mine).values(group_id=None, released_at_ms=_to_ms(now))
    )
    if not group.request.retain_ip:
        return
    until = now + datetime.timedelta(hours=group.request.retain_ip_hours)
    key = {
        "subnet_id": group.interface.subnet_id,
        "tenant_id": group.tenant_id,
        "cluster_id": group.cluster_id,
        "name": group.request.container_group_name,
    }
    of_name = sa.and_(*(_RETAINED.c[column] == value for column, value in key.items()))
    session.connection.execute(_RETAINED.delete().where(of_name))
    session.connection.execute(_RETAINED.insert(), {**key, "address": address, "until_ms": _to_ms(until)})
    checksums.sum_up(session.connection, _RETAINED, of_name)


def count_used(session: database.Session, subnet_ids: list[ids.SubnetId]) -> dict[ids.SubnetId, int]:
    """How many addresses of each subnet groups have; those that are being deleted count."""
    rows = session.connection.execute(
        sa.select(_ADDRESSES.c.subnet_id, sa.func.count())
        .where(_ADDRESSES.c.subnet_id.in_(subnet_ids), _ADDRESSES.c.group_id.is_not(None))
        .group_by(_ADDRESSES.c.subnet_id)
    )
    return {ids.SubnetId(subnet_id): count for subnet_id, count in rows}


def is_any_used(session: database.Session, network: ipaddress.IPv4Network) -> bool:
    """Whether a group of whichever subnet has an address of this range."""
    first, last = int(network.network_address), int(network.broadcast_address)
    used = sa.select(_ADDRESSES.c.address).where(
        _ADDRESSES.c.address.between(first, last), _ADDRESSES.c.group_id.is_not(None)
    )
    return session.connection.scalar(used.limit(1)) is not None


def remove_addresses(session: database.Session, subnet_id: ids.SubnetId) -> None:
    """Of a subnet that is removed, and has no groups."""
    session.connection.execute(_ADDRESSES.delete().where(_ADDRESSES.c.subnet_id == subnet_id))
    session.connection.execute(_RETAINED.delete().where(_RETAINED.c.subnet_id == subnet_id))


def remove_ended(session: database.Session, *, now: datetime.datetime) -> int:
    """Forget what was kept until then; returns how many."""
    result = session.connection.execute(_RETAINED.delete().where(_RETAINED.c.until_ms <= _to_ms(now)))
    return result.rowcount


def _free(session: database.Session, *where: sa.ColumnElement[bool]) -> ipaddress.IPv4Address | None:
    """The one that is meant, if it is free."""
    query = sa.select(_ADDRESSES.c.address).where(*where, _ADDRESSES.c.group_id.is_(None))
    found = session.connection.scalar(query)
    return None if found is None else ipaddress.IPv4Address(found)


def _longest_free(session: database.Session, *where: sa.ColumnElement[bool]) -> ipaddress.IPv4Address | None:
    found = session.connection.scalar(
        sa.select(_ADDRESSES.c.address)
        # One that is given has no time of release.
        .where(*where, _ADDRESSES.c.released_at_ms.is_not(None))
        .order_by(_ADDRESSES.c.released_at_ms, _ADDRESSES.c.address)
        .limit(1)
    )
    return None if found is None else ipaddress.IPv4Address(found)


def _to_ms(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)
