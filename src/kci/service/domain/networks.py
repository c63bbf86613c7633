"""VPCs and subnets: what they are, and which may be made beside those that there are.

All VPCs of a service share one machine and its routes, so the ranges of two subnets never overlap, whosever
they are. The ranges of two VPCs may: a VPC is a frame for its subnets, no route leads to it.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import uuid
from collections.abc import Iterable, Sequence

from kci.contract import errors, ids
from kci.contract import networks as api
from kci.service.domain import addresses

Network = ipaddress.IPv4Network

MAX_VPCS = 100
MAX_SUBNETS = 200
SHORTEST, LONGEST = 8, 29
# Where no instance can live.
_UNUSABLE = tuple(
    Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)


@dataclasses.dataclass(frozen=True)
class Vpc:
    """One row of the store."""

    vpc_id: ids.VpcId
    tenant_id: ids.TenantId
    network: Network
    created_at: datetime.datetime
    name: str = ""
    is_default: bool = False


@dataclasses.dataclass(frozen=True)
class Subnet:
    """One row of the store. `pool` is where its groups get their addresses."""

    vpc_id: ids.VpcId
    tenant_id: ids.TenantId
    pool: addresses.Subnet
    created_at: datetime.datetime
    name: str = ""
    name_servers: tuple[str, ...] = ()
    # 0: the service's.
    mtu: int = 0

    @property
    def subnet_id(self) -> ids.SubnetId:
        return self.pool.subnet_id

    @property
    def network(self) -> Network:
        return self.pool.network


@dataclasses.dataclass(frozen=True)
class Configured:
    """What the service's settings name: a subnet and security groups, the first of which is its VPC's default
    one. They belong to one tenant, and are made into rows at the start.
    """

    tenant_id: ids.TenantId
    subnet: addresses.Subnet
    security_group_ids: tuple[ids.SecurityGroupId, ...]

    @property
    def vpc_id(self) -> ids.VpcId:
        """The VPC goes with the subnet, and has its range."""
        return ids.VpcId(str(uuid.uuid5(uuid.NAMESPACE_OID, f"vpc of {self.subnet.subnet_id}")))


def new_vpc(request: api.CreateVpc, tenant_id: ids.TenantId, *, now: datetime.datetime) -> Vpc:
    """ApiError if there can be no such VPC."""
    network = api.check_create_vpc(request)
    _check_usable(network)
    return Vpc(
        vpc_id=ids.VpcId(str(uuid.uuid4())),
        tenant_id=tenant_id,
        network=network,
        created_at=now,
        name=request.vpc_name,
    )


def new_subnet(
    request: api.CreateSubnet,
    vpc: Vpc,
    *,
    others: Iterable[Subnet],
    reserved: Iterable[Network],
    zone: str,
    now: datetime.datetime,
) -> Subnet:
    """ApiError if there can be no such subnet: `others` are all that there are, of whichever tenant."""
    network = api.check_create_subnet(request)
    _check_usable(network)
    if not network.subnet_of(vpc.network):
        raise api.invalid("CidrBlock", f"lies outside of its VPC's range {vpc.network}")
    if request.availability_zone not in {"", zone}:
        raise api.invalid("AvailabilityZone", f"is not here; the only one is {zone}")
    check_conflicts(network, tenant_id=vpc.tenant_id, others=others, reserved=reserved)
    subnet_id = ids.SubnetId(str(uuid.uuid4()))
    return Subnet(
        vpc_id=vpc.vpc_id,
        tenant_id=vpc.tenant_id,
        pool=_new_pool(request, subnet_id, network),
        created_at=now,
        name=request.subnet_name,
        name_servers=api.check_name_servers(request.dns1, request.dns2),
        mtu=request.mtu,
    )


def check_conflicts(
    network: Network, *, tenant_id: ids.TenantId, others: Iterable[Subnet], reserved: Iterable[Network]
) -> None:
    """ApiError that names what is in the way, unless it is another tenant's."""
    for taken in reserved:
        if network.overlaps(taken):
            raise _conflict(f"{network} overlaps {taken}, which this machine needs for itself")
    for other in others:
        if network.overlaps(other.network):
            if other.tenant_id == tenant_id:
                raise _conflict(f"{network} overlaps {other.network} of the subnet {other.subnet_id}")
            raise _conflict(f"{network} overlaps a range that is in use here")


def choose_subnets(
    asked: Sequence[ids.SubnetId], found: Sequence[Subnet | None]
) -> tuple[ids.VpcId, Sequence[Subnet]]:
    """The VPC, and the subnets that a group may come to, in order; `found` are the caller's for `asked`."""
    subnets = [subnet for subnet in found if subnet is not None]
    if not asked or len(subnets) < len(asked):
        raise errors.ApiError(errors.SUBNET_NOT_FOUND, parameter="SubnetId")
    if len({subnet.vpc_id for subnet in subnets}) > 1:
        raise api.invalid("MultiSubnetId", "names subnets of more than one VPC")
    return subnets[0].vpc_id, subnets


def _new_pool(request: api.CreateSubnet, subnet_id: ids.SubnetId, network: Network) -> addresses.Subnet:
    hosts = addresses.bounds(addresses.Subnet(subnet_id, network, network.network_address))

    def read(text: str, name: str, default: int) -> ipaddress.IPv4Address:
        address = api.read_address(text, name) if text else ipaddress.IPv4Address(default)
        if not hosts[0] <= int(address) <= hosts[1]:
            raise api.invalid(name, f"is no host's address in {network}")
        return address

    pool = addresses.Subnet(
        subnet_id=subnet_id,
        network=network,
        gateway=read(request.gateway_ip, "GatewayIp", hosts[0]),
        first=read(request.dhcp_ip_from, "DhcpIpFrom", hosts[0]),
        last=read(request.dhcp_ip_to, "DhcpIpTo", hosts[1]),
    )
    if not addresses.count_usable(pool):
        raise api.invalid("DhcpIpTo", "leaves no address for an instance")
    return pool


def _check_usable(network: Network) -> None:
    if not SHORTEST <= network.prefixlen <= LONGEST:
        raise api.invalid("CidrBlock", f"must have a length of /{SHORTEST} to /{LONGEST}")
    if any(network.overlaps(other) for other in _UNUSABLE):
        raise api.invalid("CidrBlock", "has addresses that no instance can have")


def _conflict(message: str) -> errors.ApiError:
    return errors.ApiError(errors.CIDR_CONFLICT, f"{message}; choose another range", parameter="CidrBlock")
