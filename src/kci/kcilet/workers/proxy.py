"""Services for the pods that reach them: what the source shows becomes, by plan/services.py, rules that the
network driver holds. One table for each outlook, however many pods have it.

Changes are gathered for a moment, so that endpoints which come and go by the hundred cost one change in
that time, and only the Services that changed are planned anew. After an error the whole table is brought once
more, and every now and then it is asked whether the rules are still there. What the source says last counts,
also while it is away.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping

import structlog

from kci.kcilet import ports
from kci.kcilet.plan import events
from kci.kcilet.plan import services as plan
from kci.kit import backoff as backoffs
from kci.kit import crashpoints
from kci.kube import models
from kci.link import types as link
from kci.source import port

log = structlog.get_logger(__name__)
# How long changes are gathered.
GATHER_S = 0.05
# How long a pod's start waits for the first rules of its cluster.
FIRST_RULES_S = 3.0
BACKOFF = backoffs.Backoff(initial_s=0.2, cap_s=10.0)
CHECK_S = 30.0
# How old what is known of the machine's addresses may be.
ADDRESSES_S = 10.0

Tell = Callable[[events.Event], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the machine's operator allows."""

    reachable: tuple[ports.Reachable, ...] = ()
    # Whether pods reach Services by their external and load-balancer addresses, too.
    external: bool = False


class Proxy:
    """`run` for as long as the program runs."""

    def __init__(self, network: ports.Network, settings: Settings | None = None) -> None:
        self._network = network
        self._settings = settings or Settings()
        self._views: dict[str, _View] = {}
        # Outlooks that nobody has any more, and whose rules go; how often that failed.
        self._left: dict[str, int] = {}
        self._awake = asyncio.Event()
        self._own: frozenset[str] = frozenset()
        self._own_until_s = 0.0

    def hold(
        self, pod_uid: models.PodUid, services: port.Services, interface: link.Interface, tell: Tell
    ) -> None:
        """Have this pod reach these Services and no others, and tell it what is wrong with them; twice is
        once. Its former rules go in the transaction that brings it the new ones.
        """
        self._release(pod_uid, [view for name, view in self._views.items() if name != services.outlook])
        view = self._views.get(services.outlook)
        if view is None or view.services is not services:
            former = view.holders if view is not None else {}
            view = self._views[services.outlook] = _View(services)
            view.holders.update(former)
            _ = self._left.pop(services.outlook, None)
            services.hold(self, lambda: self._note(view))
            self._note(view)
        known = view.holders.get(pod_uid)
        if known is None or known.interface != interface:
            view.holders[pod_uid] = _Holder(interface, tell)
            self._note(view)

    def release(self, pod_uid: models.PodUid) -> None:
        """The pod is over, or needs none."""
        self._release(pod_uid, list(self._views.values()))

    def _release(self, pod_uid: models.PodUid, views: Iterable[_View]) -> None:
        for view in views:
            if pod_uid not in view.holders:
                continue
            view.drop(pod_uid)
            if not view.holders:
                view.services.release(self)
                del self._views[view.services.outlook]
                self._left[view.services.outlook] = 0
                self._awake.set()

    async def first_rules(self, services: port.Services) -> bool:
        """Wait a while for the rules of what a held pod reaches; whether they are there."""
        view = self._views.get(services.outlook)
        if view is None:
            return False
        try:
            async with asyncio.timeout(FIRST_RULES_S):
                _ = await view.in_place.wait()
        except TimeoutError:
            return False
        return True

    def has_rules(self, services: port.Services) -> bool:
        """Whether the kernel took rules for what a held pod reaches."""
        view = self._views.get(services.outlook)
        return view is not None and view.services is services and view.in_place.is_set()

    def check(self) -> None:
        """Look whether the rules are still there."""
        for view in self._views.values():
            view.must_check = True
        self._awake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(CHECK_S):
                    _ = await self._awake.wait()
            except TimeoutError:
                self.check()
            self._awake.clear()
            for view in list(self._views.values()):
                if view.is_due:
                    await self._bring(view)
            for outlook in list(self._left):
                await self._forget(outlook)
            if any(view.is_due for view in self._views.values()):
                self._awake.set()
            await asyncio.sleep(GATHER_S)

    def _note(self, view: _View) -> None:
        view.is_changed = True
        self._awake.set()
        view.tell_problem(view.services.problem)

    async def _bring(self, view: _View) -> None:
        try:
            await self._change(view)
        except Exception as error:
            view.failures += 1
            delay_s = BACKOFF.delay_s(view.failures)
            log.warning(
                "services not brought to pods, trying again",
                outlook=view.services.outlook,
                next_try_s=round(delay_s, 2),
                error=str(error),
                exc_info=not isinstance(error, ports.DriverError),
            )
            view.table = None
            view.tell_failure(str(error))
            view.put_off(delay_s, self._awake.set)
        else:
            view.failures = 0

    async def _change(self, view: _View) -> None:
        view.is_changed = view.must_check = False
        if not view.services.is_known:
            return
        allowed = self._settings
        bounds = plan.Bounds(await self._addresses(), frozenset(allowed.reachable), allowed.external)
        table = view.plan(bounds)
        change = (
            ports.ServiceChange(table, is_whole=True) if view.table is None else plan.diff(view.table, table)
        )
        crashpoints.reached("kcilet.services.before")
        await self._network.change_services(view.services.outlook, change, view.members())
        crashpoints.reached("kcilet.services.after")
        view.table = table
        if not view.in_place.is_set():
            log.info("services known", outlook=view.services.outlook, addresses=len(table))
            view.in_place.set()

    async def _forget(self, outlook: str) -> None:
        try:
            crashpoints.reached("kcilet.forget_services.before")
            await self._network.forget_services(outlook)
            crashpoints.reached("kcilet.forget_services.after")
        except ports.DriverError as error:
            failures = self._left.get(outlook, 0) + 1
            delay_s = BACKOFF.delay_s(failures)
            log.warning(
                "rules of services not removed, trying again",
                outlook=outlook,
                next_try_s=round(delay_s, 2),
                error=str(error),
            )
            if outlook in self._left:
                self._left[outlook] = failures
                _ = asyncio.get_running_loop().call_later(delay_s, self._awake.set)
        else:
            _ = self._left.pop(outlook, None)

    async def _addresses(self) -> frozenset[str]:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._own_until_s:
            self._own = await self._network.own_addresses()
            self._own_until_s = now_s + ADDRESSES_S
        return self._own


@dataclasses.dataclass(frozen=True)
class _Holder:
    interface: link.Interface
    tell: Tell


class _View:
    """The Services of one outlook, and the pods that reach them."""

    def __init__(self, services: port.Services) -> None:
        self.services = services
        self.holders: dict[models.PodUid, _Holder] = {}
        # What the driver has; None if that is not known.
        self.table: ports.ServiceTable | None = None
        self.in_place = asyncio.Event()
        self.is_changed = self.must_check = False
        self.failures = 0
        self._rows: dict[plan.ServiceName, plan.Rows] = {}
        self._seen_with: plan.Outlook | None = None
        self._ignored: set[str] = set()
        self._told: dict[models.PodUid, str] = {}
        self._not_before_s = 0.0

    @property
    def is_due(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return (self.is_changed or self.must_check) and now_s >= self._not_before_s

    def put_off(self, delay_s: float, wake: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.is_changed = True
        self._not_before_s = loop.time() + delay_s
        _ = loop.call_at(self._not_before_s, wake)

    def drop(self, pod_uid: models.PodUid) -> None:
        del self.holders[pod_uid]
        _ = self._told.pop(pod_uid, None)

    def members(self) -> Mapping[models.PodUid, link.Interface]:
        return {uid: holder.interface for uid, holder in self.holders.items()}

    def plan(self, bounds: plan.Bounds) -> ports.ServiceTable:
        services = self.services
        outlook = plan.Outlook(services.node_name, services.zone, bounds)
        changed: Iterable[plan.ServiceName] = services.take_changed()
        if outlook != self._seen_with or self.table is None:
            self._seen_with = outlook
            changed = {*changed, *services.services, *self._rows}
        for name in changed:
            rows = plan.rows_of(services.services.get(name), services.slices(name), outlook)
            if rows == plan.NOTHING:
                _ = self._rows.pop(name, None)
            else:
                self._rows[name] = rows
                self._note_ignored(rows.ignored)
        return plan.merge(self._rows)

    def _note_ignored(self, ignored: frozenset[str]) -> None:
        for text in sorted(ignored - self._ignored):
            log.warning("endpoint ignored", outlook=self.services.outlook, endpoint=text)
        self._ignored |= ignored

    def tell_problem(self, problem: str) -> None:
        """To each pod once; again when it is another one."""
        for uid, holder in self.holders.items():
            if problem and self._told.get(uid) != problem:
                holder.tell(events.services_not_known(problem))
                self._told[uid] = problem

    def tell_failure(self, error: str) -> None:
        for uid, holder in self.holders.items():
            if self._told.get(uid) != error:
                holder.tell(events.services_not_reached(error))
                self._told[uid] = error
