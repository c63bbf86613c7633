"""Creating, describing and deleting VPCs and subnets, and making rows of the network that is configured.

Each write is one transaction, which looks at everything that could be in its way, and is done once for a
signed call: a captured one could undo what came after it. Security groups live in VPCs and follow their
subnets, so their rows are written here as well where a VPC or a subnet comes or goes.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from kci.contract import errors, ids
from kci.contract import networks as api
from kci.kit import clock, crashpoints
from kci.kit import errors as kit_errors
from kci.service.app import accounts, replays, views
from kci.service.domain import groups, networks, security_groups
from kci.service.store import addresses as addresses_table
from kci.service.store import database
from kci.service.store import networks as table
from kci.service.store import security_groups as security_groups_table

T = TypeVar("T")
log = structlog.get_logger(__name__)


class NetworkService:
    """The use cases. `on_change` is called when rules of security groups may have changed."""

    def __init__(
        self,
        store: database.Database,
        place: groups.Place,
        clock: clock.Clock,
        replays: replays.Replays,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._place = place
        self._clock = clock
        self._replays = replays
        self._on_change = on_change
        self._configured: networks.Configured | None = None

    async def bootstrap(self, configured: networks.Configured) -> None:
        """Make rows of the network that the settings name, or bring them up to date. UserError if what there
        is does not allow it.
        """
        now = self._clock.now()

        def work(session: database.Session) -> None:
            _bootstrap(session, configured, self._place.reserved, now)

        await self._store.run(work)
        self._configured = configured
        self._on_change()

    # ---- VPCs

    async def create_vpc(self, caller: accounts.Identity, request: api.CreateVpc) -> api.Vpc:
        vpc = networks.new_vpc(request, caller.tenant_id, now=self._clock.now())
        security_group = security_groups.new_default(vpc)

        def work(session: database.Session) -> None:
            _, count = table.list_vpcs(session, caller.tenant_id, (), offset=0, limit=0)
            _check_limit(count, networks.MAX_VPCS, "VPCs")
            crashpoints.reached("service.create_vpc.before")
            table.insert_vpc(session, vpc)
            security_groups_table.insert_security_group(session, security_group)
            security_groups_table.insert_rule(session, security_groups.way_out(security_group))
            crashpoints.reached("service.create_vpc.after")

        await self._change(caller, work)
        log.info("VPC created", vpc=vpc.vpc_id, range=str(vpc.network))
        return views.to_vpc(vpc)

    async def describe_vpcs(self, tenant_id: ids.TenantId, request: api.DescribeVpcs) -> api.Vpcs:
        if request.provided_ipv6_cidr_block:
            return api.Vpcs()
        offset = api.position(request.next_token)
        page, total = await self._store.run(
            lambda session: table.list_vpcs(
                session, tenant_id, request.vpc_id, offset=offset, limit=request.max_results
            )
        )
        return api.Vpcs(
            next_token=api.next_token(offset, page, total),
            vpc_set=tuple(views.to_vpc(vpc) for vpc in page),
        )

    async def delete_vpc(self, caller: accounts.Identity, vpc_id: ids.VpcId) -> None:
        def work(session: database.Session) -> None:
            vpc = _existing_vpc(session, caller.tenant_id, vpc_id)
            found_groups = security_groups_table.list_security_groups_of_vpc(session, vpc_id)
            if vpc.is_default:
                raise errors.ApiError(
                    errors.VPC_IN_USE, "cannot delete the default VPC: the service is configured with it"
                )
            if table.list_subnets_of_vpc(session, vpc_id) or any(not one.is_default for one in found_groups):
                raise errors.ApiError(errors.VPC_IN_USE)
            crashpoints.reached("service.delete_vpc.before")
            for one in found_groups:
                security_groups_table.remove_security_group(session, one.security_group_id)
            table.remove_vpc(session, vpc_id)
            crashpoints.reached("service.delete_vpc.after")

        await self._change(caller, work, is_removal=True)
        log.info("VPC deleted", vpc=vpc_id)

    # ---- subnets

    async def create_subnet(self, caller: accounts.Identity, request: api.CreateSubnet) -> api.Subnet:
        now = self._clock.now()

        def work(session: database.Session) -> networks.Subnet:
            vpc = _existing_vpc(session, caller.tenant_id, api.check_vpc_id(request.vpc_id))
            subnet = networks.new_subnet(
                request,
                vpc,
                others=table.list_all_subnets(session),
                reserved=self._place.reserved,
                zone=self._place.zone,
                now=now,
            )
            if addresses_table.is_any_used(session, subnet.network):
                # Of a subnet that is no more, from before subnets were kept.
                raise errors.ApiError(errors.CIDR_CONFLICT, parameter="CidrBlock")
            _, count = table.list_subnets(session, caller.tenant_id, (), offset=0, limit=0)
            _check_limit(count, networks.MAX_SUBNETS, "subnets")
            crashpoints.reached("service.create_subnet.before")
            table.insert_subnet(session, subnet)
            for one in security_groups_table.list_security_groups_of_vpc(session, vpc.vpc_id):
                if one.is_default:
                    security_groups_table.insert_rule(session, security_groups.way_in(one, subnet))
            crashpoints.reached("service.create_subnet.after")
            return subnet

        subnet = await self._change(caller, work)
        log.info("subnet created", subnet=subnet.subnet_id, vpc=subnet.vpc_id, range=str(subnet.network))
        return views.to_subnet(subnet, self._place, used=0)

    async def describe_subnets(self, tenant_id: ids.TenantId, request: api.DescribeSubnets) -> api.Subnets:
        asked = {part.name: part.value for part in request.filter}
        for name, ours in (("subnet-type", api.NORMAL), ("availability-zone-name", self._place.zone)):
            if name in asked and ours not in asked[name]:
                return api.Subnets()
        offset = api.position(request.next_token)

        def work(session: database.Session) -> tuple[list[api.Subnet], int]:
            page, total = table.list_subnets(
                session,
                tenant_id,
                request.subnet_id,
                vpc_ids=asked.get("vpc-id"),
                offset=offset,
                limit=request.max_results,
            )
            used = addresses_table.count_used(session, [subnet.subnet_id for subnet in page])
            shown = [
                views.to_subnet(subnet, self._place, used=used.get(subnet.subnet_id, 0)) for subnet in page
            ]
            return shown, total

        shown, total = await self._store.run(work)
        return api.Subnets(next_token=api.next_token(offset, shown, total), subnet_set=tuple(shown))

    async def modify_subnet(self, caller: accounts.Identity, request: api.ModifySubnet) -> api.Subnet:
        """Name servers hold for the groups that are made from then on."""
        subnet_id = api.check_subnet_id(request.subnet_id)
        api.check_name_servers(request.dns1, request.dns2)

        def work(session: database.Session) -> tuple[networks.Subnet, int]:
            subnet = _existing_subnet(session, caller.tenant_id, subnet_id)
            dns1, dns2 = (*subnet.name_servers, "", "")[:2]
            newer = dataclasses.replace(
                subnet,
                name=request.subnet_name or subnet.name,
                name_servers=api.check_name_servers(request.dns1 or dns1, request.dns2 or dns2),
            )
            crashpoints.reached("service.modify_subnet.before")
            table.update_subnet(session, newer)
            crashpoints.reached("service.modify_subnet.after")
            return newer, addresses_table.count_used(session, [subnet_id]).get(subnet_id, 0)

        newer, used = await self._change(caller, work)
        return views.to_subnet(newer, self._place, used=used)

    async def delete_subnet(self, caller: accounts.Identity, subnet_id: ids.SubnetId) -> None:
        def work(session: database.Session) -> None:
            _existing_subnet(session, caller.tenant_id, subnet_id)
            if self._configured is not None and subnet_id == self._configured.subnet.subnet_id:
                raise errors.ApiError(
                    errors.SUBNET_IN_USE, "cannot delete this subnet: the service is configured with it"
                )
            if addresses_table.count_used(session, [subnet_id]):
                raise errors.ApiError(errors.SUBNET_IN_USE)
            crashpoints.reached("service.delete_subnet.before")
            security_groups_table.remove_rules_of_subnet(session, subnet_id)
            addresses_table.remove_addresses(session, subnet_id)
            table.remove_subnet(session, subnet_id)
            crashpoints.reached("service.delete_subnet.after")

        await self._change(caller, work, is_removal=True)
        log.info("subnet deleted", subnet=subnet_id)

    async def _change(
        self, caller: accounts.Identity, work: Callable[[database.Session], T], *, is_removal: bool = False
    ) -> T:
        result = await self._replays.run_once(caller, work, is_removal=is_removal)
        self._on_change()
        return result


def _existing_vpc(session: database.Session, tenant_id: ids.TenantId, vpc_id: ids.VpcId) -> networks.Vpc:
    vpc = table.get_vpc(session, vpc_id, tenant_id=tenant_id)
    if vpc is None:
        raise errors.ApiError(errors.VPC_NOT_FOUND, parameter="VpcId")
    return vpc


def _existing_subnet(
    session: database.Session, tenant_id: ids.TenantId, subnet_id: ids.SubnetId
) -> networks.Subnet:
    subnet = table.get_subnet(session, subnet_id, tenant_id=tenant_id)
    if subnet is None:
        raise errors.ApiError(errors.SUBNET_NOT_FOUND, parameter="SubnetId")
    return subnet


def _check_limit(count: int, most: int, what: str) -> None:
    if count >= most:
        raise errors.ApiError(errors.LIMIT_EXCEEDED, f"cannot make more than {most} {what}; delete one first")


# ---- the network that is configured -------------------------------------------------------------


def _bootstrap(
    session: database.Session,
    configured: networks.Configured,
    reserved: Iterable[networks.Network],
    now: datetime.datetime,
) -> None:
    pool = configured.subnet
    known = table.get_subnet(session, pool.subnet_id)
    others = [one for one in table.list_all_subnets(session) if one.subnet_id != pool.subnet_id]
    try:
        networks.check_conflicts(
            pool.network, tenant_id=configured.tenant_id, others=others, reserved=reserved
        )
    except errors.ApiError as error:
        raise kit_errors.UserError(f"--subnet-cidr: cannot use {pool.network}: {error}") from error
    if known is not None and (known.vpc_id, known.tenant_id) != (configured.vpc_id, configured.tenant_id):
        raise kit_errors.UserError(
            f"--subnet-id: cannot use {pool.subnet_id}: it was made by CreateSubnet; give another"
        )
    vpc = _bootstrap_vpc(session, configured, now)
    subnet = _bootstrap_subnet(session, configured, known, now)
    _bootstrap_security_groups(session, configured, vpc, subnet)


def _bootstrap_vpc(
    session: database.Session, configured: networks.Configured, now: datetime.datetime
) -> networks.Vpc:
    vpc = networks.Vpc(
        vpc_id=configured.vpc_id,
        tenant_id=configured.tenant_id,
        network=configured.subnet.network,
        created_at=now,
        name="Default",
        is_default=True,
    )
    known = table.get_vpc(session, vpc.vpc_id)
    crashpoints.reached("service.bootstrap_vpc.before")
    if known is None:
        table.insert_vpc(session, vpc)
    elif known.network != vpc.network:
        table.update_vpc(session, vpc)
    crashpoints.reached("service.bootstrap_vpc.after")
    return vpc


def _bootstrap_subnet(
    session: database.Session,
    configured: networks.Configured,
    known: networks.Subnet | None,
    now: datetime.datetime,
) -> networks.Subnet:
    made = networks.Subnet(
        vpc_id=configured.vpc_id,
        tenant_id=configured.tenant_id,
        pool=configured.subnet,
        created_at=now,
        name="Default",
    )
    subnet = made if known is None else dataclasses.replace(known, pool=configured.subnet)
    crashpoints.reached("service.bootstrap_subnet.before")
    if known is None:
        table.insert_subnet(session, subnet)
    elif known != subnet:
        table.update_subnet(session, subnet)
        _move_ways_in(session, subnet)
    crashpoints.reached("service.bootstrap_subnet.after")
    return subnet


def _move_ways_in(session: database.Session, subnet: networks.Subnet) -> None:
    for owner in security_groups_table.remove_rules_of_subnet(session, subnet.subnet_id):
        security_group = security_groups_table.get_security_group(session, owner)
        assert security_group is not None, "a rule's security group is there by the database's own constraint"
        security_groups_table.insert_rule(session, security_groups.way_in(security_group, subnet))


def _bootstrap_security_groups(
    session: database.Session,
    configured: networks.Configured,
    vpc: networks.Vpc,
    subnet: networks.Subnet,
) -> None:
    """Each that is not there comes with a default one's rules; what somebody made of one since then stays."""
    for number, security_group_id in enumerate(configured.security_group_ids):
        known = security_groups_table.get_security_group(session, security_group_id)
        if known is not None:
            if (known.vpc_id, known.tenant_id) != (vpc.vpc_id, vpc.tenant_id):
                raise kit_errors.UserError(
                    f"--security-group-id: cannot use {security_group_id}: it belongs to another VPC than the"
                    " subnet"
                )
            continue
        has_default = any(
            one.is_default for one in security_groups_table.list_security_groups_of_vpc(session, vpc.vpc_id)
        )
        security_group = dataclasses.replace(
            security_groups.new_default(vpc, security_group_id), is_default=number == 0 and not has_default
        )
        security_groups_table.insert_security_group(session, security_group)
        security_groups_table.insert_rule(session, security_groups.way_out(security_group))
        security_groups_table.insert_rule(session, security_groups.way_in(security_group, subnet))
