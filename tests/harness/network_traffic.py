"""Networks that are made, changed and ended against a service that may end at any moment, and what must hold
afterwards: what was acknowledged is there, whole, and what was not is there whole or not at all.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import random

from kci.client import client as clients
from kci.client import errors
from kci.contract import networks, security_groups

_RANGE = "10.48.0.0/16"


@dataclasses.dataclass
class Known:
    """What was acknowledged: of it nothing may be lost, nor what was deleted come back."""

    there: set[str] = dataclasses.field(default_factory=set)
    gone: set[str] = dataclasses.field(default_factory=set)


class NetworkTraffic:
    """One caller. `round` passes every action once; `check` comes after a restart."""

    def __init__(self, client: clients.KciClient, chance: random.Random) -> None:
        self._client = client.vpc
        self._chance = chance
        self._known = Known()
        self._count = 0

    async def round(self) -> None:
        """Until all is done, or the service is gone. What is left goes first, some of this stays."""
        await self._clear()
        vpc = await self._client.create_vpc(networks.CreateVpc(cidr_block=_RANGE))
        self._known.there.add(vpc.vpc_id)
        self._count += 1
        cidr = f"10.48.{self._count % 256}.0/24"
        subnet = await self._client.create_subnet(
            networks.CreateSubnet(vpc_id=vpc.vpc_id, cidr_block=cidr, subnet_name="new")
        )
        self._known.there.add(subnet.subnet_id)
        newer = networks.ModifySubnet(subnet_id=subnet.subnet_id, subnet_name="old")
        assert (await self._client.modify_subnet(newer)).subnet_name == "old"
        security_group = await self._client.create_security_group(
            security_groups.CreateSecurityGroup(vpc_id=vpc.vpc_id)
        )
        self._known.there.add(security_group.security_group_id)
        await self._client.modify_security_group(
            security_groups.ModifySecurityGroup(
                security_group_id=security_group.security_group_id, security_group_name="old"
            )
        )
        rules = [await self._authorize(security_group.security_group_id, port) for port in (80, 81)]
        await self._client.revoke_security_group_entry(security_group.security_group_id, rules[0])
        self._known.there.remove(rules[0])
        self._known.gone.add(rules[0])
        if self._chance.random() < 0.7:
            await self._clear()

    async def _authorize(self, security_group_id: str, port: int) -> str:
        request = security_groups.AuthorizeSecurityGroupEntry(
            security_group_id=security_group_id,
            direction="in",
            protocol="tcp",
            cidr_block="0.0.0.0/0",
            port_range_from=port,
            port_range_to=port,
        )
        rule = await self._client.authorize_security_group_entry(request)
        self._known.there.add(rule)
        return rule

    async def _clear(self) -> None:
        """Delete all that is there but what is configured."""
        vpcs = [one for one in await self._client.list_vpcs() if not one.is_default]
        ours = {one.vpc_id for one in vpcs}
        for subnet in await self._client.list_subnets():
            if subnet.vpc_id in ours:
                await self._delete(subnet.subnet_id, self._client.delete_subnet)
        for group in await self._client.list_security_groups():
            if group.vpc_id in ours and group.security_group_type == security_groups.ORDINARY:
                entries = {one.security_group_entry_id for one in group.security_group_entry_set}
                self._known.there -= entries
                await self._delete(group.security_group_id, self._client.delete_security_group)
        for vpc in vpcs:
            await self._delete(vpc.vpc_id, self._client.delete_vpc)

    async def _delete(self, identifier: str, call) -> None:
        self._known.there.discard(identifier)
        try:
            await call(identifier)
        except errors.NotFoundError as error:
            raise AssertionError(f"{identifier} was listed, and is not there") from error
        self._known.gone.add(identifier)

    async def check(self) -> None:
        vpcs = {one.vpc_id: one for one in await self._client.list_vpcs()}
        subnets = {one.subnet_id: one for one in await self._client.list_subnets()}
        groups = {one.security_group_id: one for one in await self._client.list_security_groups()}
        rules = {
            one.security_group_entry_id for group in groups.values() for one in group.security_group_entry_set
        }
        there = {*vpcs, *subnets, *groups, *rules}
        assert self._known.there <= there, "something of a network is lost that was acknowledged"
        assert not self._known.gone & there, "something of a network is back that was deleted"
        ranges = [ipaddress.IPv4Network(one.cidr_block) for one in subnets.values()]
        assert len([one for one in ranges for other in ranges if one.overlaps(other)]) == len(ranges)
        assert [one.is_default for one in vpcs.values()].count(True) == 1
        for vpc_id in vpcs:
            (default,) = (
                one
                for one in groups.values()
                if one.vpc_id == vpc_id and one.security_group_type == security_groups.DEFAULT
            )
            let_in = {one.cidr_block for one in default.security_group_entry_set if one.direction == "in"}
            own = {one.cidr_block for one in subnets.values() if one.vpc_id == vpc_id}
            assert let_in == own, "a default security group does not fit its VPC's subnets"
