"""The agent: which groups are wanted, and a worker for each pod.

What stays true: one worker per pod UID, and one group that it works for; a UID that is gone is never
started again; before the first Sync nothing is removed, because until then it is not known what is wanted;
after it, what the machine holds of pods that no group wants is removed; the pod of a group that is wanted and
cannot be followed runs on. What goes wrong with one pod stays with that pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog

from kci.contract import ids
from kci.kcilet import ports
from kci.kcilet.plan import firewall, histories, records
from kci.kcilet.workers import guard, machine, report_log, worker
from kci.kit import backoff as backoffs
from kci.kit import tasks
from kci.kube import models, reasons
from kci.link import types as link
from kci.source import errors as source_errors
from kci.source import port

log = structlog.get_logger(__name__)
Wish = histories.Wish
EVENTS_BACKOFF = backoffs.Backoff(initial_s=0.2, cap_s=5.0)
WORK_BACKOFF = backoffs.Backoff(initial_s=1.0, cap_s=60.0)
# How often at most rules are brought back that somebody goes on taking away.
MEND_S = 0.1
LOOK_BACKOFF = backoffs.Backoff(initial_s=0.1, cap_s=15.0)


class UnknownGroupError(Exception):
    """No such group, or nothing of it here (yet)."""


@dataclasses.dataclass
class Group:
    """A group that is wanted, or on its way out."""

    wanted: link.WantedGroup
    source: port.PodSource | None = None
    wish: Wish = Wish.RUN
    uid: models.PodUid | None = None
    # Looks for the pod of a group whose pod is not known yet.
    search: asyncio.Task[None] | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a container of a group is."""

    pod: models.Pod
    seen: ports.SeenPod


class Agent:
    """`run` for as long as the program runs; the other methods are what the service asks for. Workers live in
    `group`; when that is cancelled, containers go on running.
    """

    def __init__(self, machine: machine.Machine, sources: port.Sources, group: tasks.Tasks) -> None:
        self.reports = report_log.ReportLog()
        self._machine = machine
        self._sources = sources
        self._groups: dict[ids.GroupId, Group] = {}
        self._workers: dict[models.PodUid, worker.Worker] = {}
        self._work_of: dict[models.PodUid, asyncio.Task[None]] = {}
        self._tasks = group
        self._is_synced = False
        # Whether it is known what the runtime holds from before our start.
        self._is_listed = False
        self._must_list = asyncio.Event()
        self._security_groups = link.SecurityGroups(generation=0, security_groups=())
        self._guard = guard.Guard(machine.drivers.network, self._firewall, again_s=machine.limits.relist_s)
        # Containers that had no process at the last look.
        self._suspects: set[ports.ContainerId] = set()

    async def run(self) -> None:
        """Watch the runtime, and keep Services in reach of pods, until cancelled."""
        self._must_list.set()
        await tasks.first_of(
            self._follow_events(),
            self._list_again_and_again(),
            self._look_for_processes(),
            self._machine.proxy.run(),
            self._guard.run(),
            self._mend_rules(),
            name="runtime",
        )

    async def _mend_rules(self) -> None:
        while True:
            await self._machine.drivers.network.until_meddled()
            log.warning("rules of pods' traffic were taken away by somebody else, bringing them back")
            self._guard.wake()
            self._machine.proxy.check()
            await asyncio.sleep(MEND_S)

    # ---- what the service wants -----------------------------------------------------------------

    def sync(
        self, groups: tuple[link.WantedGroup, ...], security_groups: link.SecurityGroups | None = None
    ) -> None:
        """These are all groups that are wanted, and all security groups, whatever was known of them."""
        wanted = {group.group_id for group in groups}
        self._security_groups = security_groups or link.SecurityGroups(generation=0, security_groups=())
        for group in groups:
            self.want(group)
        self._is_synced = True
        for group_id in self._groups.keys() - wanted:
            self.drop(group_id)
        log.info("groups synced", groups=len(groups))
        self._guard.wake()
        self._must_list.set()

    def secure(self, security_groups: link.SecurityGroups) -> None:
        """These are all security groups from now on; an older generation than known is ignored."""
        if security_groups.generation >= self._security_groups.generation:
            self._security_groups = security_groups
            self._guard.wake()

    def want(self, wanted: link.WantedGroup) -> None:
        """Run this group; an older generation than known is ignored."""
        known = self._groups.get(wanted.group_id)
        report = self.reports.get(wanted.group_id)
        if known is not None and (known.wish is Wish.REMOVE or wanted.generation < known.wanted.generation):
            return
        if known is None and report is not None and report.phase is link.Phase.GONE:
            # It ended here before: what is gone stays gone.
            self.reports.put(msgspec.structs.replace(report, generation=wanted.generation))
            return
        group = known or Group(wanted)
        if group.uid is not None:
            wanted = msgspec.structs.replace(wanted, pod_uid=group.uid)
        is_moved = group.wanted.cluster != wanted.cluster
        group.wanted = wanted
        self._groups[wanted.group_id] = group
        self._guard.wake()
        if known is None:
            log.info("group wanted", group=wanted.group_id, pod=f"{wanted.namespace}/{wanted.pod_name}")
        if is_moved and group.source is not None:
            self._move(group, group.source)
        self._resolve(group)

    def drop(self, group_id: ids.GroupId) -> None:
        """Have this group gone; its report says when it is. Before the first Sync, too: this is a wish of its
        own, not the lack of one.
        """
        group, report = self._groups.get(group_id), self.reports.get(group_id)
        if group is None and report is not None and report.phase is link.Phase.GONE:
            return
        if group is None:
            _ = self._start(f"drop {group_id}", self._drop_unknown(group_id))
            return
        if group.wish is not Wish.REMOVE:
            log.info("group not wanted any more", group=group_id, uid=group.uid)
        group.wish = Wish.REMOVE
        if group.uid is not None and self._owner_of(group.uid) not in {None, group_id}:
            # Its pod is another group's, and nothing here is its own.
            self._forget(group)
        elif group.uid is not None:
            self._charge(group)
        elif self._is_listed:
            self._forget(group)
        else:
            _ = self._groups.pop(group_id)
            _ = self._start(f"drop {group_id}", self._drop_unknown(group_id))

    def find(self, group_id: ids.GroupId) -> Place:
        """The group's pod and what runs of it; UnknownGroupError if there is none."""
        group = self._groups.get(group_id)
        found = self._workers.get(group.uid) if group is not None and group.uid else None
        # After a restart of ours while the source is away, what runs is still to be had.
        pod = None if found is None else found.pod or records.remembered_pod(found.seen)
        if found is None or pod is None or found.group_id != group_id:
            raise UnknownGroupError(f"cannot find group {group_id} on this machine")
        return Place(pod, found.seen)

    @property
    def pods(self) -> int:
        """How many pods are worked on."""
        return len(self._workers)

    def running(self) -> dict[ids.GroupId, ports.SeenPod]:
        """What the machine shows of each group that is worked on."""
        return {one.group_id: one.seen for one in self._workers.values() if one.group_id is not None}

    # ---- groups and their pods --------------------------------------------------------------------

    def _join(self, group: Group) -> None:
        group.source = self._sources.join(group.wanted, lambda: self._on_change(group))

    def _move(self, group: Group, former: port.PodSource) -> None:
        """Follow the pod where it is to be followed now; if that is refused, where it was."""
        try:
            self._join(group)
        except source_errors.RefusedError as error:
            log.warning("group followed as before", group=group.wanted.group_id, error=str(error))
        else:
            former.leave()

    def _on_change(self, group: Group) -> None:
        if group.uid is None:
            self._resolve(group)
        elif group.uid in self._workers:
            self._workers[group.uid].wake()

    def _resolve(self, group: Group) -> None:
        """Find out whose pod the group is, and have it worked on."""
        if self._groups.get(group.wanted.group_id) is not group:
            return
        if group.uid is None and group.wanted.pod_uid:
            group.uid = models.PodUid(group.wanted.pod_uid)
        if group.source is None:
            if group.uid is None and not self._is_listed:
                # It may have a pod in the runtime, which then is its pod whatever bears the name now.
                return
            try:
                self._join(group)
            except source_errors.RefusedError as error:
                log.warning("group not followed", group=group.wanted.group_id, error=str(error))
                self.reports.put(_report(group, link.Phase.PENDING, "SourceRefused", str(error)))
                return
        assert group.source is not None
        view = group.source.view
        if group.uid is None and view.pod is not None:
            group.uid = view.pod.uid
        if group.uid is not None:
            self._charge(group)
            return
        self.reports.put(_report(group, link.Phase.PENDING))
        if group.search is None:
            group.search = self._start(f"search {group.wanted.group_id}", self._search(group))

    async def _search(self, group: Group) -> None:
        """Look for the pod of a group that came without a UID, until there is one or there is none."""
        failures = 0
        while group.uid is None and group.wish is Wish.RUN and group.source is not None:
            try:
                view = await group.source.confirm()
            except Exception as error:
                failures += 1
                log.warning(
                    "pod not found out",
                    group=group.wanted.group_id,
                    error=str(error),
                    exc_info=not isinstance(error, source_errors.SourceError),
                )
                await asyncio.sleep(LOOK_BACKOFF.delay_s(failures))
                continue
            if view.sight is port.Sight.ABSENT:
                self._forget(group)
                return
            self._resolve(group)

    def _firewall(self) -> ports.Firewall:
        """A group that is on its way out has its rules until nothing is left of it."""
        return firewall.plan(
            (firewall.Wanted(group.wanted, group.uid) for group in self._groups.values()),
            self._security_groups.security_groups,
            # Groups that came without a UID may have a pod from before our start.
            is_whole=self._is_synced and self._is_listed,
        )

    def _charge(self, group: Group) -> None:
        assert group.uid is not None
        self._guard.wake()
        owner = self._owner_of(group.uid)
        if owner not in {None, group.wanted.group_id}:
            text = f"pod {group.uid} is run for group {owner} on this machine"
            log.warning("group not followed", group=group.wanted.group_id, error=text)
            self.reports.put(_report(group, link.Phase.PENDING, "PodTaken", text))
            return
        charge = worker.Charge(group.wanted, group.source, group.wish)
        known = self._workers.get(group.uid)
        if known is not None:
            known.charge(charge)
        else:
            self._employ(group.uid, charge)

    def _owner_of(self, uid: models.PodUid) -> ids.GroupId | None:
        """Whom the pod is worked on for; None if for nobody."""
        known = self._workers.get(uid)
        return None if known is None else known.group_id

    def _employ(self, uid: models.PodUid, charge: worker.Charge) -> None:
        one = worker.Worker(uid, self._machine, charge, self.reports.put)
        self._workers[uid] = one
        self._work_of[uid] = self._start(f"worker {uid}", self._work(one))

    async def _work(self, one: worker.Worker) -> None:
        failures = 0
        while True:
            try:
                await one.run()
                break
            except Exception as error:
                failures += 1
                delay_s = WORK_BACKOFF.delay_s(failures)
                log.exception("worker failed", uid=one.uid, next_try_s=round(delay_s, 2), error=str(error))
                await asyncio.sleep(delay_s)
        del self._workers[one.uid], self._work_of[one.uid]
        log.info("pod gone", uid=one.uid)
        for group in [group for group in self._groups.values() if group.uid == one.uid]:
            self._forget(group)

    def _forget(self, group: Group) -> None:
        """Nothing is left of the group; its last report stays for a while."""
        last = self.reports.get(group.wanted.group_id)
        if last is None or last.phase is not link.Phase.GONE:
            self.reports.put(_report(group, link.Phase.GONE))
        if group.search is not None:
            _ = group.search.cancel()
        if group.source is not None:
            group.source.leave()
        _ = self._groups.pop(group.wanted.group_id, None)
        self._guard.wake()

    async def _drop_unknown(self, group_id: ids.GroupId) -> None:
        """A group that we were not told of since our start may have a pod in the runtime all the same."""
        pods = await self._list_pods()
        uids = {pod.pod_uid for pod in pods for box in pod.sandboxes if box.group_id == group_id}
        for uid in uids - self._workers.keys():
            self._employ(uid, worker.Charge(None, None, Wish.REMOVE))
        if uids:
            _ = await asyncio.wait([self._work_of[uid] for uid in uids])
        if group_id not in self._groups:
            self.reports.put(link.GroupReport(group_id=group_id, generation=0, phase=link.Phase.GONE))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.spawn(name, work)

    # ---- what the machine shows ---------------------------------------------------------------------

    async def _follow_events(self) -> None:
        failures = 0
        while True:
            try:
                async for event in self._machine.drivers.runtime.events():
                    failures = 0
                    found = self._workers.get(event.pod_uid)
                    if found is not None:
                        found.wake(look=True)
            except ports.DriverError as error:
                failures += 1
                self._machine.observed.watch_restart("runtime events")
                delay_s = EVENTS_BACKOFF.delay_s(failures)
                log.warning("runtime events interrupted", next_try_s=round(delay_s, 2), error=str(error))
                await asyncio.sleep(delay_s)
            # What happened in between nobody told us.
            self._must_list.set()

    async def _list_again_and_again(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._machine.limits.relist_s):
                    _ = await self._must_list.wait()
            self._must_list.clear()
            try:
                await self._list()
            except Exception as error:
                log.warning(
                    "machine not looked at",
                    error=str(error),
                    exc_info=not isinstance(error, ports.DriverError),
                )

    async def _look_for_processes(self) -> None:
        """The safety net under the runtime's word: what has no processes does not run."""
        while self._machine.shows_processes:
            await asyncio.sleep(self._machine.limits.processes_s)
            try:
                await self._note_lost()
            except Exception as error:
                log.warning("processes not looked for", error=str(error), exc_info=True)
        _ = await asyncio.Event().wait()

    async def _note_lost(self) -> None:
        running = {
            record.id: uid
            for uid, found in self._workers.items()
            for record in found.seen.containers
            if record.phase is ports.ContainerPhase.RUNNING
        }
        dead = await self._machine.drivers.cgroups.list_dead(running)
        # One look is not enough: the runtime may be about to tell of an exit.
        lost, self._suspects = dead & self._suspects, dead
        for uid in {running[one] for one in lost} & self._workers.keys():
            self._workers[uid].note_lost(frozenset(one for one in lost if running[one] == uid))

    async def _list(self) -> None:
        pods = await self._list_pods()
        for pod in pods:
            found = self._workers.get(pod.pod_uid)
            if found is not None and found.seen != pod:
                found.wake(look=True)
        listed = {pod.pod_uid for pod in pods}
        for uid, found in list(self._workers.items()):
            if uid not in listed and (found.seen.sandboxes or found.seen.containers):
                found.wake(look=True)
        self._recognize(pods)
        if self._is_synced:
            await self._remove_orphans(pods)

    async def _list_pods(self) -> list[ports.SeenPod]:
        failures = 0
        while True:
            try:
                return await self._machine.drivers.runtime.list_pods()
            except ports.DriverError as error:
                failures += 1
                delay_s = EVENTS_BACKOFF.delay_s(failures)
                log.warning("runtime not listed", next_try_s=round(delay_s, 2), error=str(error))
                await asyncio.sleep(delay_s)

    async def _remove_orphans(self, pods: list[ports.SeenPod]) -> None:
        drivers = self._machine.drivers
        folders = [*await drivers.volumes.list_pods(), *await drivers.logs.list_pods()]
        # A sandbox says which group it was made for. Folders alone do not: while some group's pod is not
        # known, they may be that pod's.
        is_unsure = any(group.uid is None for group in self._groups.values())
        known = {pod.pod_uid for pod in pods if pod.sandboxes}
        # A group that cannot be followed has no worker, and is wanted all the same.
        wanted = {group.uid for group in self._groups.values()}
        found = known if is_unsure else known | {pod.pod_uid for pod in pods} | set(folders)
        for uid in found - wanted:
            if uid not in self._workers:
                log.info("pod is wanted by no group, removing it", uid=uid)
                self._machine.observed.orphan()
                self._employ(uid, worker.Charge(None, None, Wish.REMOVE))

    def _recognize(self, pods: list[ports.SeenPod]) -> None:
        """Groups that came without a UID have their pod from before our restart, if there is one."""
        if not self._is_listed:
            self._is_listed = True
            self._guard.wake()
        found = {ids.GroupId(box.group_id): pod.pod_uid for pod in pods for box in pod.sandboxes}
        for group in [group for group in self._groups.values() if group.uid is None]:
            group.uid = found.get(group.wanted.group_id)
            if group.uid is not None:
                group.wanted = msgspec.structs.replace(group.wanted, pod_uid=group.uid)
            self._resolve(group)


def _report(
    group: Group, phase: link.Phase, reason: reasons.OfGroup = "", message: str = ""
) -> link.GroupReport:
    wanted = group.wanted
    return link.GroupReport(
        group_id=wanted.group_id,
        generation=wanted.generation,
        phase=phase,
        pod_uid=group.uid or wanted.pod_uid,
        reason=reason,
        message=message,
    )
