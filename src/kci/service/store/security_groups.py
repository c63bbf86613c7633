"""SQL for security groups and their rules. Each function works inside the session that it is given."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from kci.contract import ids
from kci.contract import security_groups as api
from kci.service.domain import security_groups as domain
from kci.service.store import checksums, database, schema

_GROUPS = schema.security_groups
_RULES = schema.security_group_rules


def get_security_group(
    session: database.Session, security_group_id: str, *, tenant_id: ids.TenantId | None = None
) -> domain.SecurityGroup | None:
    """The security group, of this tenant if one is named."""
    query = sa.select(_GROUPS).where(_GROUPS.c.security_group_id == security_group_id)
    if tenant_id is not None:
        query = query.where(_GROUPS.c.tenant_id == tenant_id)
    row = session.connection.execute(query).one_or_none()
    return None if row is None else _to_group(row)


def list_security_groups(
    session: database.Session,
    tenant_id: ids.TenantId,
    security_group_ids: Sequence[str],
    *,
    vpc_ids: Sequence[str] | None = None,
    offset: int,
    limit: int,
) -> tuple[list[domain.SecurityGroup], int]:
    """One page in the order of creation, and how many there are in all."""
    wanted = [_GROUPS.c.tenant_id == tenant_id]
    if security_group_ids:
        wanted.append(_GROUPS.c.security_group_id.in_(security_group_ids))
    if vpc_ids is not None:
        wanted.append(_GROUPS.c.vpc_id.in_(vpc_ids))
    total = session.connection.scalar(sa.select(sa.func.count()).select_from(_GROUPS).where(*wanted)) or 0
    page = sa.select(_GROUPS).where(*wanted).order_by(_GROUPS.c.created_at_ms, _GROUPS.c.security_group_id)
    return [_to_group(row) for row in session.connection.execute(page.offset(offset).limit(limit))], total


def list_all_security_groups(session: database.Session) -> list[domain.SecurityGroup]:
    """Of every tenant."""
    query = sa.select(_GROUPS).order_by(_GROUPS.c.security_group_id)
    return [_to_group(row) for row in session.connection.execute(query)]


def list_security_groups_of_vpc(session: database.Session, vpc_id: ids.VpcId) -> list[domain.SecurityGroup]:
    query = sa.select(_GROUPS).where(_GROUPS.c.vpc_id == vpc_id).order_by(_GROUPS.c.created_at_ms)
    return [_to_group(row) for row in session.connection.execute(query)]


def insert_security_group(session: database.Session, group: domain.SecurityGroup) -> None:
    values = {
        "security_group_id": group.security_group_id,
        "vpc_id": group.vpc_id,
        "tenant_id": group.tenant_id,
        "name": group.name,
        "description": group.description,
        "is_default": group.is_default,
        "created_at_ms": _to_ms(group.created_at),
    }
    session.connection.execute(_GROUPS.insert(), values)
    checksums.sum_up(session.connection, _GROUPS, _GROUPS.c.security_group_id == group.security_group_id)


def update_security_group(session: database.Session, group: domain.SecurityGroup) -> None:
    """Write what can change of a security group: what people call it."""
    this = _GROUPS.c.security_group_id == group.security_group_id
    values = {"name": group.name, "description": group.description}
    session.connection.execute(_GROUPS.update().where(this).values(**values))
    checksums.sum_up(session.connection, _GROUPS, this)


def remove_security_group(session: database.Session, security_group_id: ids.SecurityGroupId) -> None:
    """With its rules."""
    session.connection.execute(_RULES.delete().where(_RULES.c.security_group_id == security_group_id))
    session.connection.execute(_GROUPS.delete().where(_GROUPS.c.security_group_id == security_group_id))


# ---- rules


def list_rules(
    session: database.Session, security_group_ids: Sequence[ids.SecurityGroupId]
) -> dict[ids.SecurityGroupId, list[domain.Rule]]:
    """The rules of each, in the order of creation."""
    found: dict[ids.SecurityGroupId, list[domain.Rule]] = {name: [] for name in security_group_ids}
    wanted = sa.select(_RULES).where(_RULES.c.security_group_id.in_(security_group_ids))
    for row in session.connection.execute(_in_order(wanted)):
        rule = _to_rule(row)
        found[rule.security_group_id].append(rule)
    return found


def list_all_rules(session: database.Session) -> list[domain.Rule]:
    """Of every security group of every tenant."""
    return [_to_rule(row) for row in session.connection.execute(_in_order(sa.select(_RULES)))]


def is_named(session: database.Session, security_group_id: ids.SecurityGroupId) -> bool:
    """Whether a rule of another security group names this one."""
    query = sa.select(_RULES.c.rule_id).where(
        _RULES.c.peer_id == security_group_id, _RULES.c.security_group_id != security_group_id
    )
    return session.connection.scalar(query.limit(1)) is not None


def insert_rule(session: database.Session, rule: domain.Rule) -> None:
    values = {
        "rule_id": rule.rule_id,
        "security_group_id": rule.security_group_id,
        "is_allowed": rule.is_allowed,
        "priority": rule.priority,
        "description": rule.description,
        "tag": rule.tag,
        "subnet_id": rule.subnet_id,
        "created_at_ms": _to_ms(rule.created_at),
        **dataclasses.asdict(rule.match),
    }
    session.connection.execute(_RULES.insert(), values)
    checksums.sum_up(session.connection, _RULES, _RULES.c.rule_id == rule.rule_id)


def remove_rule(
    session: database.Session, security_group_id: ids.SecurityGroupId, rule_id: ids.RuleId
) -> bool:
    """False if the security group has no such rule."""
    result = session.connection.execute(
        _RULES.delete().where(_RULES.c.security_group_id == security_group_id, _RULES.c.rule_id == rule_id)
    )
    return bool(result.rowcount)


def remove_rules_of_subnet(session: database.Session, subnet_id: ids.SubnetId) -> list[ids.SecurityGroupId]:
    """Those that came with the subnet; returns whose they were."""
    of_subnet = _RULES.c.subnet_id == subnet_id
    query = sa.select(_RULES.c.security_group_id).where(of_subnet)
    owners = [ids.SecurityGroupId(row.security_group_id) for row in session.connection.execute(query)]
    session.connection.execute(_RULES.delete().where(of_subnet))
    return owners


def _in_order(query: sa.Select[tuple[object, ...]]) -> sa.Select[tuple[object, ...]]:
    return query.order_by(_RULES.c.security_group_id, _RULES.c.created_at_ms, _RULES.c.rule_id)


def _to_group(row: sa.Row[tuple[object, ...]]) -> domain.SecurityGroup:
    return domain.SecurityGroup(
        security_group_id=ids.SecurityGroupId(row.security_group_id),
        vpc_id=ids.VpcId(row.vpc_id),
        tenant_id=ids.TenantId(row.tenant_id),
        created_at=_to_moment(row.created_at_ms),
        name=row.name,
        description=row.description,
        is_default=row.is_default,
    )


def _to_rule(row: sa.Row[tuple[object, ...]]) -> domain.Rule:
    return domain.Rule(
        rule_id=ids.RuleId(row.rule_id),
        security_group_id=ids.SecurityGroupId(row.security_group_id),
        match=api.Match(
            direction=row.direction,
            protocol=row.protocol,
            first_port=row.first_port,
            last_port=row.last_port,
            icmp_type=row.icmp_type,
            icmp_code=row.icmp_code,
            cidr=row.cidr,
            peer_id=ids.SecurityGroupId(row.peer_id),
        ),
        created_at=_to_moment(row.created_at_ms),
        is_allowed=row.is_allowed,
        priority=row.priority,
        description=row.description,
        tag=row.tag,
        subnet_id=ids.SubnetId(row.subnet_id),
    )


def _to_ms(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)


def _to_moment(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
