"""SQL for groups. Each function works inside the session that it is given."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from kci.contract import groups as api
from kci.contract import ids
from kci.kit import secret
from kci.service.domain import groups, sizes, states
from kci.service.store import addresses, checksums, database, schema

_GROUPS = schema.groups
_SUBNETS = schema.subnets
# Built once: half the cost of a small statement is putting its thirty columns together.
_INSERT = _GROUPS.insert()
_COLUMNS = (
    *(column for column in _GROUPS.c if column.name != "kubeconfig_sealed"),
    *(_SUBNETS.c[name] for name in ("vpc_id", "name_servers", "mtu")),
)
_SELECT = sa.select(*_COLUMNS).select_from(
    _GROUPS.outerjoin(_SUBNETS, _SUBNETS.c.subnet_id == _GROUPS.c.subnet_id)
)
_SUM_UP = (
    _GROUPS.update().where(_GROUPS.c.group_id == sa.bindparam("summed")).values(checksum=checksums.OF_GROUP)
)


@dataclasses.dataclass(frozen=True)
class Query:
    """What DescribeContainerGroup asks for; what is empty does not narrow."""

    tenant_id: ids.TenantId
    group_ids: Sequence[str] = ()
    project_ids: Sequence[int] = ()
    search: str = ""
    statuses: Sequence[str] | None = None
    subnet_ids: Sequence[str] | None = None
    vpc_ids: Sequence[str] | None = None


def get_group(
    session: database.Session, group_id: str, *, tenant_id: ids.TenantId | None = None
) -> groups.Group | None:
    """The group, of this tenant if one is named; also if it is deleted."""
    query = _SELECT.where(_GROUPS.c.group_id == group_id)
    if tenant_id is not None:
        query = query.where(_GROUPS.c.tenant_id == tenant_id)
    row = session.connection.execute(query).one_or_none()
    return None if row is None else _to_group(row)


def find_repeated(
    session: database.Session, tenant_id: ids.TenantId, request: api.CreateContainerGroup
) -> list[tuple[ids.GroupId, str]]:
    """Groups, with their fingerprints, that an earlier create call made for the same pod or token."""
    same = []
    if pod_uid := request.label_value(api.POD_UUID):
        cluster_id = request.label_value(api.CLUSTER_ID)
        same.append(sa.and_(_GROUPS.c.cluster_id == cluster_id, _GROUPS.c.pod_uid == pod_uid))
    if request.client_token:
        same.append(_GROUPS.c.client_token == request.client_token)
    if not same:
        return []
    query = sa.select(_GROUPS.c.group_id, _GROUPS.c.fingerprint).where(
        _GROUPS.c.tenant_id == tenant_id, sa.or_(*same)
    )
    return [(ids.GroupId(row.group_id), row.fingerprint) for row in session.connection.execute(query)]


def list_page(
    session: database.Session, query: Query, *, offset: int, limit: int
) -> tuple[list[groups.Group], int]:
    """One page in the order of creation, and how many there are in all. Deleted groups are not there. That
    order is promised (capabilities.ORDERED_LIST): by it a client knows that it missed no group.
    """
    wanted = _conditions(query)
    counted = sa.select(sa.func.count()).select_from(_GROUPS).where(*wanted)
    total = session.connection.scalar(counted) or 0
    rows = session.connection.execute(
        _SELECT.where(*wanted).order_by(_GROUPS.c.number).offset(offset).limit(limit)
    )
    return [_to_group(row) for row in rows], total


def has_member(session: database.Session, security_group_id: ids.SecurityGroupId) -> bool:
    """Whether a group that is not deleted names this security group."""
    # An id is nothing else in a request; what only looks like it is looked at again.
    likely = _GROUPS.c.request.contains(security_group_id, autoescape=True)
    rows = session.connection.execute(
        sa.select(_GROUPS.c.request).where(_GROUPS.c.lifecycle != states.Lifecycle.DELETED, likely)
    )
    return any(
        security_group_id in msgspec.json.decode(row.request, type=api.CreateContainerGroup).security_group_id
        for row in rows
    )


def list_nodes(session: database.Session) -> set[tuple[str, str, str]]:
    """Tenant, cluster and node of each group that is not deleted; what it does not name is empty."""
    rows = session.connection.execute(
        sa.select(_GROUPS.c.tenant_id, _GROUPS.c.cluster_id, _GROUPS.c.request).where(
            _GROUPS.c.lifecycle != states.Lifecycle.DELETED
        )
    )
    return {
        (
            row.tenant_id,
            row.cluster_id,
            msgspec.json.decode(row.request, type=api.CreateContainerGroup).label_value(api.NODE_NAME),
        )
        for row in rows
    }


def list_groups(
    session: database.Session, *, lifecycles: Sequence[states.Lifecycle], tenant_id: str | None = None
) -> list[groups.Group]:
    """All groups in these lifecycles, in the order of creation."""
    query = _SELECT.where(_GROUPS.c.lifecycle.in_(lifecycles)).order_by(_GROUPS.c.number)
    if tenant_id is not None:
        query = query.where(_GROUPS.c.tenant_id == tenant_id)
    return [_to_group(row) for row in session.connection.execute(query)]


def get_kubeconfig(session: database.Session, group: groups.Group) -> secret.Secret:
    """The one that the group was made with; empty once it is deleted. Raises SealError."""
    sealed = session.connection.scalar(
        sa.select(_GROUPS.c.kubeconfig_sealed).where(_GROUPS.c.group_id == group.group_id)
    )
    return session.sealer.open(sealed, owner=_owner(group)) if sealed else secret.Secret("")


def insert_group(session: database.Session, group: groups.Group, kubeconfig: secret.Secret) -> None:
    request = group.request
    values = {
        "group_id": group.group_id,
        "tenant_id": group.tenant_id,
        "name": request.container_group_name,
        "lifecycle": group.lifecycle,
        "status": group.status,
        "gone": group.gone,
        "reason": group.reason,
        "message": group.message,
        "generation": group.generation,
        "revision": group.revision,
        "cluster_id": group.cluster_id,
        "pod_uid": group.pod_uid,
        "client_token": request.client_token,
        "fingerprint": groups.fingerprint(request),
        "request": msgspec.json.encode(groups.to_stored(request)).decode(),
        "kubeconfig_sealed": session.sealer.seal(kubeconfig, owner=_owner(group)),
        "project_id": request.project_id,
        "cpu_milli": group.size.cpu_milli,
        "memory_mib": group.size.memory_mib,
        "created_at_ms": _to_ms(group.created_at),
        **dataclasses.asdict(group.interface),
    }
    session.connection.execute(_INSERT, values)
    session.connection.execute(_SUM_UP, {"summed": group.group_id})


def update_group(session: database.Session, group: groups.Group, *, now: datetime.datetime) -> groups.Group:
    """Write what can change of a group; returns it with its next revision. A deleted one loses its
    secrets and its address, which may be kept for the next group of its name.
    """
    deleted = group.lifecycle is states.Lifecycle.DELETED
    newer = dataclasses.replace(group, revision=group.revision + 1)
    values = {
        "lifecycle": newer.lifecycle,
        "status": newer.status,
        "gone": newer.gone,
        "reason": newer.reason,
        "message": newer.message,
        "revision": newer.revision,
    }
    if deleted:
        values |= {"kubeconfig_sealed": None, "deleted_at_ms": _to_ms(now)}
    session.connection.execute(_GROUPS.update().where(_GROUPS.c.group_id == group.group_id).values(**values))
    session.connection.execute(_SUM_UP, {"summed": group.group_id})
    if deleted:
        addresses.release_address(session, group, now=now)
    return newer


def remove_tombstones(session: database.Session, *, before: datetime.datetime) -> int:
    """Forget groups that were deleted before then; returns how many."""
    result = session.connection.execute(
        _GROUPS.delete().where(
            _GROUPS.c.lifecycle == states.Lifecycle.DELETED, _GROUPS.c.deleted_at_ms < _to_ms(before)
        )
    )
    return result.rowcount


def _conditions(query: Query) -> list[sa.ColumnElement[bool]]:
    found = [
        _GROUPS.c.tenant_id == query.tenant_id,
        _GROUPS.c.lifecycle != states.Lifecycle.DELETED,
    ]
    if query.group_ids:
        found.append(_GROUPS.c.group_id.in_(query.group_ids))
    if query.project_ids:
        found.append(_GROUPS.c.project_id.in_(query.project_ids))
    if query.search:
        found.append(
            sa.or_(
                _GROUPS.c.name.contains(query.search, autoescape=True),
                _GROUPS.c.address.contains(query.search, autoescape=True),
            )
        )
    if query.statuses is not None:
        found.append(_GROUPS.c.status.in_(query.statuses))
    if query.subnet_ids is not None:
        found.append(_GROUPS.c.subnet_id.in_(query.subnet_ids))
    if query.vpc_ids is not None:
        of_vpcs = sa.select(_SUBNETS.c.subnet_id).where(_SUBNETS.c.vpc_id.in_(query.vpc_ids))
        found.append(_GROUPS.c.subnet_id.in_(of_vpcs))
    return found


def _to_group(row: sa.Row[tuple[object, ...]]) -> groups.Group:
    return groups.Group(
        group_id=ids.GroupId(row.group_id),
        tenant_id=ids.TenantId(row.tenant_id),
        request=msgspec.json.decode(row.request, type=api.CreateContainerGroup),
        size=sizes.Size(cpu_milli=row.cpu_milli, memory_mib=row.memory_mib),
        interface=groups.Interface(
            interface_id=row.interface_id,
            subnet_id=ids.SubnetId(row.subnet_id),
            address=row.address,
            prefix_length=row.prefix_length,
            gateway=row.gateway,
            mac_address=row.mac_address,
        ),
        created_at=datetime.datetime.fromtimestamp(row.created_at_ms / 1000, datetime.UTC),
        subnet=groups.SubnetNow(
            vpc_id=ids.VpcId(row.vpc_id or ""),
            name_servers=tuple(part for part in (row.name_servers or "").split(",") if part),
            mtu=row.mtu or 0,
        ),
        lifecycle=states.Lifecycle(row.lifecycle),
        status=states.Status(row.status),
        gone=row.gone,
        reason=row.reason,
        message=row.message,
        generation=row.generation,
        revision=row.revision,
    )


def _owner(group: groups.Group) -> str:
    return f"{group.tenant_id}/{group.group_id}"


def _to_ms(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)
