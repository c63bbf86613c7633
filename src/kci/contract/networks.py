"""VPCs and subnets as the API speaks of them: the part of Kingsoft's service `vpc` that groups need.

Names and answers are those of Kingsoft's SDKs for version 2016-03-04. Pages are not told by MaxResults and
Marker as those of container groups, but by MaxResults and NextToken, the position of the next one from 1.
What this service cannot honour is refused by name, never dropped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from kci.contract import errors, groups, ids

NORMAL = "Normal"
MAX_PAGE = 1000
DEFAULT_PAGE = 100
MIN_MTU, MAX_MTU = 1280, 9000

Name = Annotated[str, msgspec.Meta(max_length=256)]
Ids = Annotated[tuple[groups.Text, ...], msgspec.Meta(max_length=MAX_PAGE)]
PageSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Token = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{0,9}\Z")]


# ---- VPCs ---------------------------------------------------------------------------------------


class CreateVpc(groups.Parameters, frozen=True):
    """A VPC with one range of IPv4 addresses."""

    vpc_name: Name = ""
    cidr_block: groups.Text = ""
    provided_ipv6_cidr_block: bool = False
    ipv6_cidr_block: groups.Text = ""
    vpc_ipv6_cidr_block: groups.Text = ""


class DescribeVpcs(groups.Parameters, frozen=True):
    vpc_id: Ids = ()
    max_results: PageSize = DEFAULT_PAGE
    next_token: Token = ""
    # Narrows to those with IPv6 addresses; here there are none.
    provided_ipv6_cidr_block: bool = False


class DeleteVpc(groups.Parameters, frozen=True):
    vpc_id: groups.Text = ""


class Vpc(groups.Answer, frozen=True):
    """`create_time` is Beijing time, as all times of Kingsoft's."""

    vpc_id: str
    vpc_name: str = ""
    cidr_block: str = ""
    is_default: bool = False
    create_time: str = ""
    provided_ipv6_cidr_block: bool = False
    ipv6_cidr_block_association_set: tuple[str, ...] = ()
    secondary_cidr_set: tuple[str, ...] = ()


class CreatedVpc(groups.Answer, frozen=True):
    vpc: Vpc


class Vpcs(groups.Answer, frozen=True):
    """One page; an empty `next_token` says that it was the last."""

    next_token: str = ""
    vpc_set: tuple[Vpc, ...] = ()


# ---- subnets ------------------------------------------------------------------------------------


class CreateSubnet(groups.Parameters, frozen=True):
    """Of the types that Kingsoft has, instances are in `Normal` ones."""

    vpc_id: groups.Text = ""
    subnet_name: Name = ""
    cidr_block: groups.Text = ""
    subnet_type: Literal["Normal", "Reserve", "Physical"] = "Normal"
    # The addresses that instances get; all of the range unless given.
    dhcp_ip_from: groups.Text = ""
    dhcp_ip_to: groups.Text = ""
    # What instances ask for names if nobody says otherwise.
    dns1: groups.Text = ""
    dns2: groups.Text = ""
    # The range's first address unless given.
    gateway_ip: groups.Text = ""
    availability_zone: groups.Text = ""
    provided_ipv6_cidr_block: bool = False
    ipv6_cidr_block: groups.Text = ""
    secondary_cidr_id: groups.Text = ""
    visit_internet: bool = True
    # Extension: the largest packet of an instance's interface; 0 is the service's default.
    mtu: groups.Int = 0


class SubnetFilter(groups.Parameters, frozen=True):
    name: Literal["vpc-id", "subnet-type", "availability-zone-name"]
    value: Annotated[tuple[groups.Text, ...], msgspec.Meta(max_length=100)] = ()


class DescribeSubnets(groups.Parameters, frozen=True):
    subnet_id: Ids = ()
    filter: Annotated[tuple[SubnetFilter, ...], msgspec.Meta(max_length=10)] = ()
    max_results: PageSize = DEFAULT_PAGE
    next_token: Token = ""


class ModifySubnet(groups.Parameters, frozen=True):
    """What is empty stays as it is."""

    subnet_id: groups.Text = ""
    subnet_name: Name = ""
    dns1: groups.Text = ""
    dns2: groups.Text = ""


class DeleteSubnet(groups.Parameters, frozen=True):
    subnet_id: groups.Text = ""


class Subnet(groups.Answer, frozen=True):
    """`available_ip_number` is a text, as the newest of Kingsoft's SDKs have it."""

    subnet_id: str
    vpc_id: str = ""
    subnet_name: str = ""
    cidr_block: str = ""
    subnet_type: str = NORMAL
    dhcp_ip_from: str = ""
    dhcp_ip_to: str = ""
    dns1: str = ""
    dns2: str = ""
    gateway_ip: str = ""
    availability_zone_name: str = ""
    available_ip_number: str = ""
    create_time: str = ""
    provided_ipv6_cidr_block: bool = False
    ipv6_cidr_block_association_set: tuple[str, ...] = ()
    secondary_cidr_id: str = ""
    network_acl_id: str = ""
    nat_id: str = ""
    route_table_id: str = ""
    visit_internet: bool = True
    # Extension.
    mtu: int = 0


class SubnetAnswer(groups.Answer, frozen=True):
    """Of CreateSubnet and ModifySubnet."""

    subnet: Subnet


class Subnets(groups.Answer, frozen=True):
    next_token: str = ""
    subnet_set: tuple[Subnet, ...] = ()


class Returned(groups.Answer, frozen=True):
    """What Kingsoft's `vpc` answers to a deletion."""

    returned: bool = msgspec.field(default=True, name="Return")


# ---- rules --------------------------------------------------------------------------------------


def check_create_vpc(request: CreateVpc) -> ipaddress.IPv4Network:
    """The range; ApiError if the request's form is wrong."""
    refuse_unsupported(
        {
            "ProvidedIpv6CidrBlock": request.provided_ipv6_cidr_block,
            "Ipv6CidrBlock": bool(request.ipv6_cidr_block),
            "VpcIpv6CidrBlock": bool(request.vpc_ipv6_cidr_block),
        }
    )
    return read_range(request.cidr_block, "CidrBlock")


def check_create_subnet(request: CreateSubnet) -> ipaddress.IPv4Network:
    """The range; ApiError if the request's form is wrong."""
    require(request.vpc_id, "VpcId")
    refuse_unsupported(
        {
            "ProvidedIpv6CidrBlock": request.provided_ipv6_cidr_block,
            "Ipv6CidrBlock": bool(request.ipv6_cidr_block),
            "SecondaryCidrId": bool(request.secondary_cidr_id),
            "SubnetType": request.subnet_type != NORMAL,
            "VisitInternet": not request.visit_internet,
        }
    )
    if request.mtu and not MIN_MTU <= request.mtu <= MAX_MTU:
        raise invalid("Mtu", f"must be {MIN_MTU} to {MAX_MTU}")
    check_name_servers(request.dns1, request.dns2)
    return read_range(request.cidr_block, "CidrBlock")


def check_name_servers(dns1: str, dns2: str) -> tuple[str, ...]:
    for name, value in (("Dns1", dns1), ("Dns2", dns2)):
        if value:
            read_address(value, name)
    return tuple(value for value in (dns1, dns2) if value)


def read_range(text: str, name: str) -> ipaddress.IPv4Network:
    """ApiError if it is no range of IPv4 addresses."""
    require(text, name)
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise invalid(name, f"{error}; write it as 10.0.0.0/16") from error


def read_address(text: str, name: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as error:
        raise invalid(name, "is no IPv4 address") from error


def check_vpc_id(value: str) -> ids.VpcId:
    """The id if one is given: a wrong form is just as missing."""
    require(value, "VpcId")
    return ids.VpcId(value)


def check_subnet_id(value: str) -> ids.SubnetId:
    require(value, "SubnetId")
    return ids.SubnetId(value)


def position(token: str) -> int:
    """How many come before the page that a token names."""
    return max(0, int(token or "1") - 1)


def next_token(offset: int, page: Sequence[object], total: int) -> str:
    after = offset + len(page)
    return str(after + 1) if page and after < total else ""


def refuse_unsupported(asked: dict[str, bool]) -> None:
    for name, given in asked.items():
        if given:
            raise errors.ApiError(
                errors.UNSUPPORTED_OPERATION,
                "cannot be honoured by this service; leave it out",
                parameter=name,
            )


def require(value: str, name: str) -> None:
    if not value:
        raise errors.ApiError(errors.MISSING_PARAMETER, parameter=name)


def invalid(name: str, message: str) -> errors.ApiError:
    return errors.ApiError(errors.INVALID_PARAMETER_VALUE, message, parameter=name)
