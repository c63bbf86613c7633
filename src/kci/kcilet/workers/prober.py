"""The probes of one pod: run when they are due, and what they found.

A probe that waits for its time is a timer of the event loop; only one that runs is a task, and a probe never
runs twice at once. How many run at once on the machine is bounded (machine.Limits); what is late because of
that is run as soon as there is room. Times stay on the grid of their period.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable

import structlog

from kci.kcilet import ports
from kci.kcilet.plan import events, probes
from kci.kcilet.workers import machine
from kci.kit import tasks
from kci.kube import models

log = structlog.get_logger(__name__)


@dataclasses.dataclass(eq=False)
class _Round:
    """A probe that is run again and again."""

    duty: probes.Duty
    address: str
    # In the loop's time.
    due_s: float
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class Prober:
    """`on_change` is called when a verdict changes. Probes run in `group`."""

    def __init__(
        self,
        group: tasks.Tasks,
        machine: machine.Machine,
        *,
        on_change: Callable[[], None],
        tell: Callable[[events.Event], None],
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._group = group
        self._machine = machine
        self._on_change = on_change
        self._tell = tell
        self._spread = spread
        self._began_s = machine.now_s()
        self._standings: dict[probes.Key, probes.Standing] = {}
        self._rounds: dict[probes.Key, _Round] = {}

    def follow(self, pod: models.Pod | None, seen: ports.SeenPod, address: str, *, is_ending: bool) -> None:
        """Probe what should be probed of these attempts from now on."""
        if pod is None:
            return
        self._standings = dict(probes.follow(pod, seen, self._standings))
        duties = {one.key: one for one in probes.duties(pod, seen, self._standings, is_ending=is_ending)}
        before = self._sandboxes()
        for key in self._rounds.keys() - duties.keys():
            self._stop(self._rounds.pop(key))
        for key, duty in duties.items():
            if key not in self._rounds:
                self._rounds[key] = self._begin(duty, address)
        for sandbox_id in before - self._sandboxes():
            self._machine.drivers.probes.leave(sandbox_id)

    def over(self, pod: models.Pod | None, seen: ports.SeenPod) -> ports.SeenPod:
        """What is seen, with what the probes say of it."""
        return probes.with_health(pod, seen, self._standings)

    def close(self) -> None:
        """Probe nothing any more."""
        for sandbox_id in self._sandboxes():
            self._machine.drivers.probes.leave(sandbox_id)
        for one in self._rounds.values():
            self._stop(one)
        self._rounds.clear()

    # ---- rounds ---------------------------------------------------------------------------------

    def _sandboxes(self) -> set[ports.SandboxId]:
        return {one.duty.record.sandbox_id for one in self._rounds.values()}

    def _begin(self, duty: probes.Duty, address: str) -> _Round:
        now_s = self._machine.now_s()
        was_there = duty.record.started_at_ns < self._began_s * 1e9
        first_at_s = probes.first_at_s(duty, now_s=now_s, spread=self._spread() if was_there else None)
        one = _Round(duty, address, asyncio.get_running_loop().time() + first_at_s - now_s)
        self._wait(one)
        return one

    def _wait(self, one: _Round) -> None:
        one.timer = asyncio.get_running_loop().call_at(one.due_s, self._start, one)

    def _start(self, one: _Round) -> None:
        one.timer = None
        one.task = self._group.spawn("probe", self._run(one))

    def _stop(self, one: _Round) -> None:
        if one.timer is not None:
            one.timer.cancel()
        if one.task is not None:
            _ = one.task.cancel()

    async def _run(self, one: _Round) -> None:
        try:
            await self._check(one)
        except Exception as error:  # noqa: BLE001  (a task's outermost frame: the next round tries again)
            self._note_error(one, error)
        one.task = None
        one.due_s = max(one.due_s + probes.period_s(one.duty), asyncio.get_running_loop().time())
        self._wait(one)

    async def _check(self, one: _Round) -> None:
        check = probes.to_check(one.duty, one.address)
        gate = self._machine.commands if isinstance(check, ports.ExecCheck) else self._machine.checks
        async with gate:
            timeout_s = max(1, one.duty.probe.timeout_seconds)
            result = await self._machine.drivers.probes.check(check, timeout_s=timeout_s)
        self._note(one.duty, result)

    def _note(self, duty: probes.Duty, result: ports.CheckResult) -> None:
        before = self._standings.get(duty.key)
        if before is None:
            return
        kind, container = duty.key.kind, duty.container.name
        self._machine.observed.probe(kind.value, "successful" if result.succeeded else "failed")
        if not result.succeeded:
            self._tell(events.probe_failed(kind.value, result.output, container))
        elif result.output:
            self._tell(events.probe_warning(kind.value, result.output, container))
        after = probes.count(before, duty, succeeded=result.succeeded)
        self._standings[duty.key] = after
        if after.verdict is not before.verdict:
            log.info(
                "probe's verdict changed",
                container=duty.key.container_id,
                name=container,
                probe=kind.value,
                before=before.verdict.value,
                after=after.verdict.value,
                output=result.output,
            )
            self._on_change()

    def _note_error(self, one: _Round, error: Exception) -> None:
        """Nothing is known of the container: its standing stays."""
        key, container = one.duty.key, one.duty.container.name
        self._machine.observed.probe(key.kind.value, "unknown")
        expected = isinstance(error, (ports.DriverError, probes.UnresolvableError))
        log.warning(
            "probe could not be run",
            container=key.container_id,
            name=container,
            probe=key.kind.value,
            next_try_s=probes.period_s(one.duty),
            error=str(error),
            exc_info=not expected,
        )
        # Of a runtime that is away the pod has nothing to tell.
        if not isinstance(error, ports.UnavailableError):
            self._tell(events.probe_errored(key.kind.value, str(error), container))
