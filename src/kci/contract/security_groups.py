"""Security groups as the API speaks of them: the part of Kingsoft's service `vpc` that groups need.

Names and answers are those of Kingsoft's SDKs for version 2016-03-04, where a rule is an "entry".
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import msgspec

from kci.contract import groups, ids, networks

ACCEPT, DROP = "Accept", "Drop"
ANY, TCP, UDP, ICMP = "ip", "tcp", "udp", "icmp"
FIRST_PORT, LAST_PORT = 1, 65535
# In the API, all types or all codes.
ALL_ICMP = -1
ORDINARY, DEFAULT = "other", "default"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
IcmpNumber = Annotated[int, msgspec.Meta(ge=ALL_ICMP, le=255)]


class CreateSecurityGroup(groups.Parameters, frozen=True):
    """A new one has no entries: it lets nothing through."""

    vpc_id: groups.Text = ""
    security_group_name: networks.Name = ""
    description: networks.Name = ""
    security_group_type: Literal["other", "global"] = "other"


class SecurityGroupFilter(groups.Parameters, frozen=True):
    name: Literal["vpc-id"]
    value: Annotated[tuple[groups.Text, ...], msgspec.Meta(max_length=100)] = ()


class DescribeSecurityGroups(groups.Parameters, frozen=True):
    security_group_id: networks.Ids = ()
    filter: Annotated[tuple[SecurityGroupFilter, ...], msgspec.Meta(max_length=10)] = ()
    max_results: networks.PageSize = networks.DEFAULT_PAGE
    next_token: networks.Token = ""


class ModifySecurityGroup(groups.Parameters, frozen=True):
    """What is empty stays as it is."""

    security_group_id: groups.Text = ""
    security_group_name: networks.Name = ""
    description: networks.Name = ""


class DeleteSecurityGroup(groups.Parameters, frozen=True):
    security_group_id: groups.Text = ""


class AuthorizeSecurityGroupEntry(groups.Parameters, frozen=True):
    """Either a range of addresses or a security group, whose instances are meant."""

    security_group_id: groups.Text = ""
    description: networks.Name = ""
    cidr_block: groups.Text = ""
    authorized_security_group_id: groups.Text = ""
    direction: Literal["in", "out", ""] = ""
    # In any letters.
    protocol: groups.Text = ""
    icmp_type: IcmpNumber | None = None
    icmp_code: IcmpNumber | None = None
    port_range_from: Port = 0
    port_range_to: Port = 0
    rule_tag: networks.Name = ""
    priority: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    policy: Literal["Accept", "Drop"] = "Accept"


class RevokeSecurityGroupEntry(groups.Parameters, frozen=True):
    security_group_id: groups.Text = ""
    security_group_entry_id: groups.Text = ""


class SecurityGroupEntry(groups.Answer, frozen=True):
    """Numbers that its protocol does not have are null."""

    security_group_entry_id: str
    description: str = ""
    cidr_block: str = ""
    authorized_security_group_id: str = ""
    direction: str = ""
    protocol: str = ""
    icmp_type: int | None = None
    icmp_code: int | None = None
    port_range_from: int | None = None
    port_range_to: int | None = None
    rule_tag: str = ""
    priority: int = 1
    policy: str = ACCEPT
    create_time: str = ""


class SecurityGroup(groups.Answer, frozen=True):
    """Also the answer of ModifySecurityGroup, as Kingsoft's."""

    security_group_id: str
    vpc_id: str = ""
    security_group_name: str = ""
    description: str = ""
    security_group_type: str = ORDINARY
    create_time: str = ""
    security_group_entry_set: tuple[SecurityGroupEntry, ...] = ()


class CreatedSecurityGroup(groups.Answer, frozen=True):
    security_group: SecurityGroup


class SecurityGroups(groups.Answer, frozen=True):
    next_token: str = ""
    security_group_set: tuple[SecurityGroup, ...] = ()


class Authorized(groups.Answer, frozen=True):
    returned: bool = msgspec.field(default=True, name="Return")
    security_group_entry_id_set: tuple[ids.RuleId, ...] = ()


@dataclasses.dataclass(frozen=True)
class Match:
    """What a rule fits, with nothing left to be guessed."""

    direction: str
    protocol: str
    # Of TCP and UDP; else all.
    first_port: int = FIRST_PORT
    last_port: int = LAST_PORT
    # Of ICMP; None is all.
    icmp_type: int | None = None
    icmp_code: int | None = None
    # Never both.
    cidr: str = ""
    peer_id: ids.SecurityGroupId = ids.SecurityGroupId("")  # noqa: RUF009  (a NewType is no call)


def check_create_security_group(request: CreateSecurityGroup) -> None:
    networks.require(request.vpc_id, "VpcId")
    networks.refuse_unsupported({"SecurityGroupType": request.security_group_type != ORDINARY})


def check_authorize(request: AuthorizeSecurityGroupEntry) -> Match:
    """What the rule will fit; ApiError if the request's form is wrong."""
    for name, value in (
        ("SecurityGroupId", request.security_group_id),
        ("Direction", request.direction),
        ("Protocol", request.protocol),
    ):
        networks.require(value, name)
    protocol = request.protocol.lower()
    if protocol not in {ANY, TCP, UDP, ICMP}:
        raise networks.invalid("Protocol", "must be ip (all of them), tcp, udp or icmp")
    if request.cidr_block and request.authorized_security_group_id:
        raise networks.invalid("CidrBlock", "cannot stand beside AuthorizedSecurityGroupId; give one of them")
    cidr = ""
    if not request.authorized_security_group_id:
        cidr = str(networks.read_range(request.cidr_block, "CidrBlock"))
    first_port, last_port = _ports(request, protocol)
    icmp_type, icmp_code = _icmp(request, protocol)
    return Match(
        direction=request.direction,
        protocol=protocol,
        first_port=first_port,
        last_port=last_port,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        cidr=cidr,
        peer_id=ids.SecurityGroupId(request.authorized_security_group_id),
    )


def check_security_group_id(value: str) -> ids.SecurityGroupId:
    """The id if one is given: a wrong form is just as missing."""
    networks.require(value, "SecurityGroupId")
    return ids.SecurityGroupId(value)


def check_rule_id(value: str) -> ids.RuleId:
    networks.require(value, "SecurityGroupEntryId")
    return ids.RuleId(value)


def _ports(request: AuthorizeSecurityGroupEntry, protocol: str) -> tuple[int, int]:
    given = bool(request.port_range_from or request.port_range_to)
    if protocol not in {TCP, UDP}:
        if given:
            raise networks.invalid("PortRangeFrom", f"{protocol} has no ports; leave it out")
        return FIRST_PORT, LAST_PORT
    if not given:
        return FIRST_PORT, LAST_PORT
    if not 1 <= request.port_range_from <= request.port_range_to:
        raise networks.invalid("PortRangeFrom", "must be 1 to PortRangeTo, and both must be given")
    return request.port_range_from, request.port_range_to


def _icmp(request: AuthorizeSecurityGroupEntry, protocol: str) -> tuple[int | None, int | None]:
    kind, code = (None if part == ALL_ICMP else part for part in (request.icmp_type, request.icmp_code))
    if protocol != ICMP and (kind is not None or code is not None):
        raise networks.invalid("IcmpType", f"{protocol} has no ICMP types; leave it out")
    if kind is None and code is not None:
        raise networks.invalid("IcmpCode", "needs an IcmpType")
    return kind, code
