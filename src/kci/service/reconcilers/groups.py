"""One group at a time: what the store wants of it is asked of the engine, for ever if need be."""

from __future__ import annotations

import asyncio

import structlog

from kci.contract import ids
from kci.kit import backoff, crashpoints, observing, tasks, workqueue
from kci.service.app import groups
from kci.service.domain import states
from kci.service.engines import port

log = structlog.get_logger(__name__)

_WORKERS = 8
_LOOK_AGAIN_S = 60.0


class GroupReconciler:
    """`signal` says that a group should be looked at; `run` works until cancelled."""

    def __init__(
        self,
        engine: port.Engine,
        *,
        on_taken: observing.OnTime = observing.no_time,
        on_worked: observing.OnCall = observing.no_call,
    ) -> None:
        self._engine = engine
        self._queue: workqueue.WorkQueue[ids.GroupId] = workqueue.WorkQueue(
            "groups",
            backoff.Backoff(initial_s=0.1, cap_s=30.0),
            on_taken=on_taken,
            on_worked=on_worked,
        )

    @property
    def depth(self) -> int:
        """How many groups wait, or are worked on now."""
        return len(self._queue)

    def signal(self, group_id: ids.GroupId) -> None:
        self._queue.add(group_id)

    async def signal_all(self, service: groups.GroupService) -> None:
        for group_id in await service.unfinished():
            self._queue.add(group_id)

    async def run(self, service: groups.GroupService) -> None:
        async def reconcile(group_id: ids.GroupId) -> None:
            await self._reconcile(service, group_id)

        async with tasks.Tasks() as group:
            group.run_forever("groups", self._queue.run(reconcile, workers=_WORKERS))
            group.run_forever("groups again", self._look_again(service))

    async def _reconcile(self, service: groups.GroupService, group_id: ids.GroupId) -> None:
        lifecycle, wanted = await service.look(group_id)
        if wanted is not None:
            crashpoints.reached("service.ensure_group.before")
            with service.starts.working(group_id, "ensure group", kind=observing.Kind.CLIENT):
                await self._engine.ensure(wanted)
            crashpoints.reached("service.ensure_group.after")
        elif lifecycle is states.Lifecycle.DELETING:
            crashpoints.reached("service.remove_group.before")
            await self._engine.remove(group_id)
            crashpoints.reached("service.remove_group.after")

    async def _look_again(self, service: groups.GroupService) -> None:
        """A safety net: no signal and no report is needed for a group to end. Old tombstones go, too."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            try:
                await service.remove_tombstones()
                await self.signal_all(service)
            except Exception as error:  # noqa: BLE001  (a worker's outermost loop)
                log.warning("cannot look at all groups", next_try_s=_LOOK_AGAIN_S, error=repr(error))
