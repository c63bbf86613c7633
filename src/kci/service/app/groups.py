"""Creating, describing, deleting and watching container groups.

A create call ends at the store: one transaction looks for an earlier call for the same pod or token,
takes an address and inserts the row. Running the group is the reconciler's work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import structlog

from kci.contract import errors, ids, packages
from kci.contract import groups as api
from kci.contract import starts as starts_api
from kci.kit import clock, crashpoints, observing, secret
from kci.link import types as link
from kci.service.app import accounts, changes, replays, starts, views
from kci.service.domain import addresses, groups, networks, security_groups, sizes, states
from kci.service.store import addresses as addresses_table
from kci.service.store import database, sealing
from kci.service.store import fences as fences_table
from kci.service.store import groups as table
from kci.service.store import kubeconfigs as kubeconfigs_table
from kci.service.store import networks as networks_table
from kci.service.store import security_groups as security_groups_table

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 15.0
_TOMBSTONE_LIFE = datetime.timedelta(hours=24)
# Of the epoch of a holder that writes no more: a copy of it that was paused for longer could write again.
_FENCE_LIFE = datetime.timedelta(days=30)
_UNFINISHED = (states.Lifecycle.WANTED, states.Lifecycle.DELETING)


class GroupService:
    """The use cases. `on_work` is told which group the reconcilers should look at."""

    def __init__(
        self,
        store: database.Database,
        place: groups.Place,
        feed: changes.Feed,
        clock: clock.Clock,
        replays: replays.Replays,
        on_work: Callable[[ids.GroupId], None],
        known_starts: starts.Starts | None = None,
    ) -> None:
        self.starts = known_starts or starts.Starts()
        self._store = store
        self._place = place
        self._feed = feed
        self._clock = clock
        self._replays = replays
        self._on_work = on_work

    @property
    def offered(self) -> packages.Table:
        """The sizes that there are."""
        return self._place.table

    async def create(self, caller: accounts.Identity, request: api.CreateContainerGroup) -> ids.GroupId:
        """The new group's id, or that of the group which the same call made before. Of the node's calls the
        kubeconfig of the one that was signed last serves all its groups.
        """
        api.check_create(request)
        tenant_id = caller.tenant_id
        group_id = ids.new_group_id()
        kubeconfig = secret.Secret(request.kube_config)
        bare = groups.to_stored(request)

        def work(session: database.Session) -> tuple[groups.Group, bool]:
            self._check_fence(session, tenant_id, request.fence)
            group = _find_earlier(session, tenant_id, bare)
            if group is None:
                group = self._new_group(session, tenant_id, group_id, bare)
                crashpoints.reached("service.insert_group.before")
                table.insert_group(session, group, kubeconfig)
                crashpoints.reached("service.insert_group.after")
            crashpoints.reached("service.keep_kubeconfig.before")
            is_newer = kubeconfigs_table.update_newest(session, group, kubeconfig, given_at=caller.signed_at)
            crashpoints.reached("service.keep_kubeconfig.after")
            return group, is_newer

        async with self._epoch_counts(tenant_id, request.fence):
            with observing.step("store group"):
                made, is_newer = await self._store.run(work)
        if made.group_id != group_id:
            if is_newer:
                log.info("kubeconfig renewed", group=made.group_id)
                self._on_work(made.group_id)
            return made.group_id
        self.starts.begin(made.group_id, observing.current().traceparent)
        log.info(
            "group created",
            group=made.group_id,
            name=request.container_group_name,
            address=made.interface.address,
        )
        self._feed.publish(made)
        self._on_work(made.group_id)
        return made.group_id

    async def describe(
        self, tenant_id: ids.TenantId, request: api.DescribeContainerGroup
    ) -> api.ContainerGroups:
        query = self._to_query(tenant_id, request)
        if query is None:
            return api.ContainerGroups(max_results=request.max_results)

        def work(session: database.Session) -> tuple[list[groups.Group], int]:
            return table.list_page(session, query, offset=request.marker, limit=request.max_results)

        page, total = await self._store.run(work)
        after = request.marker + len(page)
        return api.ContainerGroups(
            max_results=request.max_results,
            marker=after if page and after < total else 0,
            total_count=total,
            container_groups=tuple(views.to_answer(group, self._place) for group in page),
        )

    async def delete(
        self, caller: accounts.Identity, group_id: ids.GroupId, *, fence: api.Fence | None = None
    ) -> None:
        """Note the wish. Repeating it while the group ends is harmless; the very same signed call is answered
        as the first time even after that.
        """
        now = self._clock.now()

        def work(session: database.Session) -> groups.Group | None:
            if self._replays.is_known(session, caller):
                return None
            self._check_fence(session, caller.tenant_id, fence)
            group = _existing(session, caller.tenant_id, group_id)
            self._replays.remember(session, caller)
            if group.lifecycle is not states.Lifecycle.WANTED:
                return None
            # What the machine has already let go of needs no second goodbye.
            target = states.Lifecycle.DELETED if group.gone else states.Lifecycle.DELETING
            new = states.change(group_id, group.lifecycle, target, why="the API's caller asked for it")
            crashpoints.reached("service.delete_group.before")
            changed = table.update_group(session, dataclasses.replace(group, lifecycle=new), now=now)
            crashpoints.reached("service.delete_group.after")
            return changed

        async with self._epoch_counts(caller.tenant_id, fence):
            changed = await self._store.run(work)
        if changed:
            self._publish(changed)
            self._on_work(group_id)

    async def describe_start(self, tenant_id: ids.TenantId, group_id: ids.GroupId) -> starts_api.GroupStart:
        """When the group was made here, and how its start went as far as it is over and known."""
        group = await self.require(tenant_id, group_id)
        return views.to_start(group, self.starts.steps(group_id))

    async def require(self, tenant_id: ids.TenantId, group_id: ids.GroupId) -> groups.Group:
        """The tenant's group; ContainerGroupNotFound if it is missing, deleted or another's."""
        return await self._store.run(lambda session: _existing(session, tenant_id, group_id))

    async def watch(
        self, tenant_id: ids.TenantId, request: api.WatchContainerGroups
    ) -> AsyncGenerator[api.GroupChange | None, None]:
        """The tenant's groups, the mark `synced`, then each change; None as a sign of life."""

        def wants(group: groups.Group) -> bool:
            return group.tenant_id == tenant_id and group.is_of(
                cluster_id=request.cluster_id, node_name=request.node_name
            )

        with self._feed.subscribe(wants) as subscription:
            for group in await self.list_unfinished(tenant_id):
                if wants(group):
                    subscription.forget_until(group)
                    yield views.to_change(group, self._place)
            yield api.GroupChange(synced=True)
            while True:
                taken = await subscription.take(_HEARTBEAT_S)
                for group in taken:
                    yield views.to_change(group, self._place)
                if not taken:
                    yield None

    async def list_unfinished(self, tenant_id: ids.TenantId) -> list[groups.Group]:
        """The tenant's groups that are not deleted."""
        return await self._store.run(
            lambda session: table.list_groups(session, lifecycles=_UNFINISHED, tenant_id=tenant_id)
        )

    async def wait_deleted(self, group_id: ids.GroupId) -> None:
        """Returns once the group is deleted, or the service stops."""
        with self._feed.subscribe(lambda group: group.group_id == group_id) as subscription:
            current = await self._store.run(lambda session: table.get_group(session, group_id))
            try:
                while current is not None and current.lifecycle is not states.Lifecycle.DELETED:
                    (current,) = await subscription.take()
            except changes.FeedClosedError:
                return

    # ---- for the reconcilers

    async def unfinished(self) -> list[ids.GroupId]:
        """Groups that the engine has to do with."""
        found = await self._store.run(lambda session: table.list_groups(session, lifecycles=_UNFINISHED))
        return [group.group_id for group in found]

    async def wanted(self) -> tuple[list[link.WantedGroup], str]:
        """Everything that should run, and which store says so. Oldest first, so that of groups which have
        their own kubeconfigs the newest comes last.
        What is gone stays gone: an engine that forgot it could take another pod of that name for its own.
        """

        def work(session: database.Session) -> tuple[list[link.WantedGroup], str]:
            found = table.list_groups(session, lifecycles=(states.Lifecycle.WANTED,))
            wanted = [self._to_wanted(session, group) for group in found if not group.gone]
            return wanted, database.get_id(session)

        return await self._store.run(work)

    async def look(self, group_id: ids.GroupId) -> tuple[states.Lifecycle, link.WantedGroup | None]:
        """What is wanted of a group now."""

        def work(session: database.Session) -> tuple[states.Lifecycle, link.WantedGroup | None]:
            group = table.get_group(session, group_id)
            if group is None:
                return states.Lifecycle.DELETED, None
            if group.lifecycle is not states.Lifecycle.WANTED or group.gone:
                return group.lifecycle, None
            return group.lifecycle, self._to_wanted(session, group)

        return await self._store.run(work)

    async def record(self, report: link.GroupReport) -> None:
        """Take over what the machine sees. Only a report on what is wanted now counts."""

        def see(group: groups.Group) -> groups.Group:
            if not views.counts(group, report):
                return group
            self.starts.note(report)
            return views.apply_report(group, report)

        with self.starts.working(report.group_id, "record report"):
            await self._record(report.group_id, see)

    async def remove_tombstones(self) -> int:
        """Forget groups that were deleted long ago; until then a repeated create call finds them. Holders
        that have not written for much longer go, too, addresses are kept for a name no longer than asked, and
        a kubeconfig no longer than its node has groups.
        """
        now = self._clock.now()

        def work(session: database.Session) -> int:
            crashpoints.reached("service.tombstones.before")
            removed = table.remove_tombstones(session, before=now - _TOMBSTONE_LIFE)
            fences_table.remove_unused(session, before=now - _FENCE_LIFE)
            addresses_table.remove_ended(session, now=now)
            kubeconfigs_table.remove_unused(session)
            crashpoints.reached("service.tombstones.after")
            return removed

        return await self._store.run(work)

    # ---- inside

    def _to_wanted(self, session: database.Session, group: groups.Group) -> link.WantedGroup:
        kubeconfig = _find_kubeconfig(session, group)
        return views.to_wanted(
            group, self._place, kubeconfig, traceparent=self.starts.traceparent(group.group_id)
        )

    async def _record(self, group_id: ids.GroupId, see: Callable[[groups.Group], groups.Group]) -> None:
        now = self._clock.now()

        def work(session: database.Session) -> groups.Group | None:
            group = table.get_group(session, group_id)
            if group is None or group.lifecycle is states.Lifecycle.DELETED:
                return None
            seen = see(group)
            if seen == group:
                return None
            crashpoints.reached("service.record_report.before")
            changed = table.update_group(session, seen, now=now)
            crashpoints.reached("service.record_report.after")
            return changed

        if changed := await self._store.run(work):
            log.info(
                "group seen",
                group=group_id,
                status=changed.status.value,
                gone=changed.gone,
                reason=changed.reason,
            )
            self._publish(changed)

    def _publish(self, changed: groups.Group) -> None:
        if changed.lifecycle is states.Lifecycle.DELETED:
            self.starts.forget(changed.group_id)
        self._feed.publish(changed)

    @contextlib.asynccontextmanager
    async def _epoch_counts(self, tenant_id: ids.TenantId, fence: api.Fence | None) -> AsyncIterator[None]:
        """Around a fenced write: if it is refused for another reason, its transaction takes the epoch back,
        but its sender holds that epoch all the same, and writes of older ones must have no effect any more.
        """
        try:
            yield
        except errors.ApiError as error:
            if fence is not None and error.entry is not errors.STALE_EPOCH:
                await self._store.run(lambda session: self._check_fence(session, tenant_id, fence))
            raise

    def _check_fence(
        self, session: database.Session, tenant_id: ids.TenantId, fence: api.Fence | None
    ) -> None:
        """First in the transaction of the write: an older epoch has no effect at all."""
        if fence is None:
            return
        highest = fences_table.get_epoch(session, tenant_id, fence.holder)
        if fence.epoch < highest:
            raise errors.ApiError(
                errors.STALE_EPOCH,
                f"cannot write in epoch {fence.epoch}: {fence.holder} has written in epoch {highest}",
                parameter="Fence.Epoch",
            )
        crashpoints.reached("service.raise_epoch.before")
        fences_table.raise_epoch(session, tenant_id, fence, now=self._clock.now())
        crashpoints.reached("service.raise_epoch.after")

    def _new_group(
        self,
        session: database.Session,
        tenant_id: ids.TenantId,
        group_id: ids.GroupId,
        request: api.CreateContainerGroup,
    ) -> groups.Group:
        subnet, address = self._claim_address(session, tenant_id, group_id, request)
        return groups.Group(
            group_id=group_id,
            tenant_id=tenant_id,
            request=request,
            size=sizes.choose_size(request, self._place.table),
            interface=_new_interface(subnet.pool, address),
            created_at=self._clock.now(),
            subnet=groups.SubnetNow(subnet.vpc_id, subnet.name_servers, subnet.mtu),
        )

    def _claim_address(
        self,
        session: database.Session,
        tenant_id: ids.TenantId,
        group_id: ids.GroupId,
        request: api.CreateContainerGroup,
    ) -> tuple[networks.Subnet, ipaddress.IPv4Address]:
        """In the first subnet that has one, of those that the request names."""
        for subnet in _find_subnets(session, tenant_id, request):
            crashpoints.reached("service.claim_address.before")
            address = addresses_table.claim_address(
                session,
                subnet.pool,
                group_id,
                tenant_id=tenant_id,
                cluster_id=request.label_value(api.CLUSTER_ID),
                name=request.container_group_name,
                now=self._clock.now(),
            )
            crashpoints.reached("service.claim_address.after")
            if address is not None:
                return subnet, address
        raise errors.ApiError(errors.INSUFFICIENT_ADDRESSES, parameter="SubnetId")

    def _to_query(self, tenant_id: ids.TenantId, request: api.DescribeContainerGroup) -> table.Query | None:
        """None if a filter lets nothing through."""
        asked: dict[str, Sequence[str]] = {part.name: part.value for part in request.filter}
        zones = asked.get("availability-zone.name")
        if zones is not None and self._place.zone not in zones:
            return None
        return table.Query(
            tenant_id=tenant_id,
            group_ids=request.container_group_id,
            project_ids=request.project_id,
            search=request.search,
            statuses=asked.get("status"),
            subnet_ids=asked.get("subnet-id"),
            vpc_ids=asked.get("vpc-id"),
        )


def _find_kubeconfig(session: database.Session, group: groups.Group) -> secret.Secret:
    """That which its node gave last, else its own. One that does not open must not take the group out of what
    is wanted: the engine would end its pod. Without any the group keeps running, and the engine has another
    of the same cluster perhaps.
    """
    for get in (kubeconfigs_table.get_newest, table.get_kubeconfig):
        try:
            if kubeconfig := get(session, group):
                return kubeconfig
        except sealing.SealError as error:
            log.error("kubeconfig is damaged", group=group.group_id, error=str(error))
    return secret.Secret("")


def _find_earlier(
    session: database.Session, tenant_id: ids.TenantId, request: api.CreateContainerGroup
) -> groups.Group | None:
    earlier = table.find_repeated(session, tenant_id, request)
    if not earlier:
        return None
    (group_id, fingerprint), *others = earlier
    if others or fingerprint != groups.fingerprint(request):
        raise errors.ApiError(errors.IDEMPOTENT_PARAMETER_MISMATCH)
    return table.get_group(session, group_id)


def _existing(session: database.Session, tenant_id: ids.TenantId, group_id: ids.GroupId) -> groups.Group:
    group = table.get_group(session, group_id, tenant_id=tenant_id)
    if group is None or group.lifecycle is states.Lifecycle.DELETED:
        raise errors.ApiError(errors.CONTAINER_GROUP_NOT_FOUND)
    return group


def _find_subnets(
    session: database.Session, tenant_id: ids.TenantId, request: api.CreateContainerGroup
) -> Sequence[networks.Subnet]:
    """Those that the request names, once its security groups are known to fit."""
    asked = [ids.SubnetId(part) for part in (request.subnet_id, *request.multi_subnet_id) if part]
    vpc_id, subnets = networks.choose_subnets(
        asked, [networks_table.get_subnet(session, part, tenant_id=tenant_id) for part in asked]
    )
    named = [ids.SecurityGroupId(part) for part in request.security_group_id]
    security_groups.check_groups(
        named,
        [security_groups_table.get_security_group(session, part, tenant_id=tenant_id) for part in named],
        vpc_id,
    )
    return subnets


def _new_interface(subnet: addresses.Subnet, address: ipaddress.IPv4Address) -> groups.Interface:
    return groups.Interface(
        interface_id=str(uuid.uuid4()),
        subnet_id=subnet.subnet_id,
        address=str(address),
        prefix_length=subnet.network.prefixlen,
        gateway=str(subnet.gateway),
        mac_address=addresses.mac_address(address),
    )
