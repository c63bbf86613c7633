"""Security groups and their rules: what they are, which rules a new one has, which may be added.

What the rules do to packets is the machine's business; here is what is wanted.
"""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Sequence

from kci.contract import errors, ids
from kci.contract import security_groups as api
from kci.service.domain import networks

MAX_SECURITY_GROUPS = 200
MAX_RULES = 200
EVERYWHERE = "0.0.0.0/0"
# The rules that come by themselves stand behind all that somebody writes.
_LAST = 100


@dataclasses.dataclass(frozen=True)
class SecurityGroup:
    """One row of the store."""

    security_group_id: ids.SecurityGroupId
    vpc_id: ids.VpcId
    tenant_id: ids.TenantId
    created_at: datetime.datetime
    name: str = ""
    description: str = ""
    # The one that its VPC was made with, and that goes with it.
    is_default: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the store."""

    rule_id: ids.RuleId
    security_group_id: ids.SecurityGroupId
    match: api.Match
    created_at: datetime.datetime
    is_allowed: bool = True
    priority: int = 1
    description: str = ""
    tag: str = ""
    # The subnet that this rule came with, and goes with.
    subnet_id: ids.SubnetId = ids.SubnetId("")  # noqa: RUF009  (a NewType is no call)


def new_default(vpc: networks.Vpc, security_group_id: str = "") -> SecurityGroup:
    """The group that each VPC has."""
    return SecurityGroup(
        security_group_id=ids.SecurityGroupId(security_group_id or str(uuid.uuid4())),
        vpc_id=vpc.vpc_id,
        tenant_id=vpc.tenant_id,
        created_at=vpc.created_at,
        name="DefaultSecurityGroup",
        description="lets out everything, and in what comes from the VPC's subnets and their gateways",
        is_default=True,
    )


def way_out(group: SecurityGroup) -> Rule:
    """A default group's rule for everything that leaves."""
    return Rule(
        rule_id=new_rule_id(),
        security_group_id=group.security_group_id,
        match=api.Match(direction="out", protocol=api.ANY, cidr=EVERYWHERE),
        created_at=group.created_at,
        priority=_LAST,
        description="everything",
    )


def way_in(group: SecurityGroup, subnet: networks.Subnet) -> Rule:
    """A default group's rule for what comes from a subnet of its VPC, and so from the gateway in it."""
    return Rule(
        rule_id=new_rule_id(),
        security_group_id=group.security_group_id,
        match=api.Match(direction="in", protocol=api.ANY, cidr=str(subnet.network)),
        created_at=subnet.created_at,
        priority=_LAST,
        description=f"the subnet {subnet.subnet_id} and its gateway",
        subnet_id=subnet.subnet_id,
    )


def new_rule(
    request: api.AuthorizeSecurityGroupEntry,
    group: SecurityGroup,
    peer: SecurityGroup | None,
    *,
    others: Sequence[Rule],
    now: datetime.datetime,
) -> Rule:
    """ApiError if the group cannot have it. `peer` is the caller's group that the request names, if there is
    one; `others` are all rules of `group`.
    """
    match = api.check_authorize(request)
    if match.peer_id and (peer is None or peer.vpc_id != group.vpc_id):
        raise errors.ApiError(errors.SECURITY_GROUP_NOT_FOUND, parameter="AuthorizedSecurityGroupId")
    rule = Rule(
        rule_id=new_rule_id(),
        security_group_id=group.security_group_id,
        match=match,
        created_at=now,
        is_allowed=request.policy == api.ACCEPT,
        priority=request.priority,
        description=request.description,
        tag=request.rule_tag,
    )
    for other in others:
        if (other.match, other.is_allowed, other.priority) == (match, rule.is_allowed, rule.priority):
            raise errors.ApiError(
                errors.SECURITY_GROUP_ENTRY_EXISTS, f"the security group has it already: {other.rule_id}"
            )
    if len(others) >= MAX_RULES:
        raise errors.ApiError(errors.LIMIT_EXCEEDED, f"a security group has at most {MAX_RULES} entries")
    return rule


def check_groups(
    asked: Sequence[ids.SecurityGroupId], found: Sequence[SecurityGroup | None], vpc_id: ids.VpcId
) -> None:
    """Those that a container group names: the caller's (`found` for `asked`), and of the subnet's VPC."""
    for group_id, group in zip(asked, found, strict=True):
        if group is None:
            raise errors.ApiError(errors.SECURITY_GROUP_NOT_FOUND, parameter="SecurityGroupId")
        if group.vpc_id != vpc_id:
            raise errors.ApiError(
                errors.INVALID_PARAMETER_VALUE,
                f"{group_id} belongs to another VPC than the subnet",
                parameter="SecurityGroupId",
            )


def new_rule_id() -> ids.RuleId:
    return ids.RuleId(str(uuid.uuid4()))
