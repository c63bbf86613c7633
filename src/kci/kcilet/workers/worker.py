"""The worker of one pod UID.

Each turn looks at what changed, plans, starts what the plan asks for, and tells what it sees. Actions
run beside each other and beside further turns, so that an exit is told while an image is being pulled,
and a deletion overtakes a pull. A turn needs no input: waking a worker once too often does no harm.

What it knows of the machine comes from the runtime, what it knows of the pod from the source; its own
memory (plan.histories) may be lost at any time.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import structlog

from kci.contract import ids
from kci.kcilet import ports
from kci.kcilet.plan import (
    actions,
    attempts,
    contents,
    events,
    histories,
    records,
    reports,
    statuses,
    steps,
    told,
    traffic,
)
from kci.kcilet.workers import effects, machine, prober, publisher, start
from kci.kit import backoff as backoffs
from kci.kit import tasks
from kci.kube import admission, models, reasons
from kci.link import types as link
from kci.source import errors as source_errors
from kci.source import port

log = structlog.get_logger(__name__)
INSTANCE_ID = "k8s.ksyun.com/kci-instance-id"
# Cores and memory: 2-4Gi.
INSTANCE_SPEC = "k8s.ksyun.com/kci-instance-spec"
TURN_BACKOFF = backoffs.Backoff(initial_s=0.2, cap_s=10.0)
LOOK_BACKOFF = backoffs.Backoff(initial_s=0.1, cap_s=15.0)


@dataclasses.dataclass(frozen=True)
class Charge:
    """What the agent charges a worker with; an orphan has no group."""

    group: link.WantedGroup | None
    source: port.PodSource | None
    # The service's wish; the pod's deletion adds to it.
    wish: histories.Wish


class Worker:
    """Run by the agent until nothing of the pod is left."""

    def __init__(
        self,
        uid: models.PodUid,
        machine: machine.Machine,
        charge: Charge,
        on_report: Callable[[link.GroupReport], None],
    ) -> None:
        self.uid = uid
        self.seen = ports.SeenPod(pod_uid=uid)
        self.pod: models.Pod | None = None
        self._machine = machine
        self._charge = charge
        self._on_report = on_report
        self._history = histories.History(first_seen_s=machine.now_s())
        self._awake = asyncio.Event()
        self._awake.set()
        self._must_look = True
        # An action of ours has ended that the last look cannot have seen.
        self._has_acted = False
        self._timer: asyncio.TimerHandle | None = None
        self._carried_out: dict[actions.Action, asyncio.Task[None]] = {}
        self._confirming: asyncio.Task[None] | None = None
        self._is_absent = False
        # Containers that the runtime shows as running and that have no process any more.
        self._lost: frozenset[ports.ContainerId] = frozenset()
        # What was told last of annotations that cannot be held.
        self._unheld: list[str] = []
        self._told_once: set[events.Event] = set()
        self._ended_at_s: float | None = None
        self._initialized = 0
        self._is_measured = False
        self._start = start.Start(uid, charge.group, machine.observed.tracer, machine.now_s)
        # A start that goes well is not told before.
        self._quiet_until_s = machine.now_s() + machine.limits.quiet_start_s
        self._log = log.bind(uid=uid, group=charge.group.group_id if charge.group else None)

    @property
    def group_id(self) -> ids.GroupId | None:
        """The group that this pod is; None for an orphan."""
        return None if self._charge.group is None else self._charge.group.group_id

    def charge(self, charge: Charge) -> None:
        """Take the newest wish; a wish once risen stays (steps.plan sees to it)."""
        self._charge = charge
        self.wake()

    def wake(self, *, look: bool = False) -> None:
        """Have another turn; with `look` the runtime is asked first."""
        self._must_look |= look
        # Events of a start need not be followed: a start looks when it is done.
        if not (look and self._is_starting()):
            self._awake.set()

    def note_lost(self, lost: frozenset[ports.ContainerId]) -> None:
        """These containers have no processes, whatever the runtime says."""
        if lost != self._lost:
            self._log.warning("containers without processes", containers=sorted(lost))
            self._lost = lost
            self.wake(look=True)

    async def run(self) -> None:
        """May be run again after an error: what it knows, it looks at again."""
        self._must_look = True
        self._awake.set()
        failures = 0
        async with tasks.Tasks() as group:
            self._group = group
            self._publisher = publisher.Publisher(group, self.uid, self.wake, self._start.telling)
            self._prober = prober.Prober(group, self._machine, on_change=self.wake, tell=self._tell)
            try:
                while True:
                    _ = await self._awake.wait()
                    self._awake.clear()
                    try:
                        if await self._turn() is steps.Stage.GONE:
                            break
                        failures = 0
                    except Exception as error:  # noqa: BLE001  (a worker's outermost loop)
                        failures += 1
                        delay_s = TURN_BACKOFF.delay_s(failures)
                        self._log.warning(
                            "turn failed, trying again",
                            failures=failures,
                            next_try_s=round(delay_s, 2),
                            error=str(error),
                            exc_info=not isinstance(error, ports.DriverError),
                        )
                        self._has_acted = True
                        self._wake_after(delay_s)
            finally:
                self._start.give_up()
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                if self._confirming is not None:
                    _ = self._confirming.cancel()
                self._machine.places.give_back(self.uid)
                self._publisher.close()
                self._prober.close()
                self._machine.proxy.release(self.uid)

    # ---- a turn ---------------------------------------------------------------------------------

    async def _turn(self) -> steps.Stage:
        self._view()
        is_due = self._has_acted or (self._must_look and not self._is_starting())
        while is_due:
            self._has_acted = self._must_look = False
            seen = await self._machine.drivers.runtime.observe_pod(self.uid)
            self.seen = records.with_lost(seen, self._lost)
            self._start.look(self.seen)
            await self._read_messages()
            # What has ended meanwhile is not in that look, and a plan from it would ask for the same again.
            is_due = self._has_acted
        self._probe()
        world = self._world()
        before = self._history.ending
        decision = self._plan(world)
        self._history = decision.history
        self._keep_objects(decision.stage, world)
        if before != self._history.ending:
            self._log.info("pod ends", ending=str(self._history.ending), stage=decision.stage.value)
        for action in decision.cancel:
            task = self._carried_out.get(action)
            # Once: a second time would cut off what an action does to end in order.
            if task is not None and not task.cancelling():
                _ = task.cancel()
        for event in decision.told:
            self._tell(event)
        for action in decision.asked:
            self._begin(action)
        wake_at_s = self._show(decision.stage, world)
        self._wake_at(decision.wake_at_s)
        self._wake_at(wake_at_s)
        return decision.stage

    def _plan(self, world: steps.World) -> steps.Decision:
        places = self._machine.places
        decision = steps.plan(world, self._history)
        if not decision.wants_place:
            places.give_back(self.uid)
        elif not world.has_place and places.take(self.uid, self.wake):
            decision = steps.plan(dataclasses.replace(world, has_place=True), self._history)
        return decision

    def _is_starting(self) -> bool:
        kinds = (actions.RunSandbox, actions.StartContainer)
        return any(isinstance(action, kinds) for action in self._history.doing)

    async def _read_messages(self) -> None:
        ended = [record for record in self.seen.containers if record.phase is records.Phase.EXITED]
        unread = [record for record in ended if record.id not in self._history.messages]
        if not unread or self.pod is None:
            return
        texts = await tasks.wait_all(
            (effects.read_message(self._machine, self.pod, record) for record in unread), name="message"
        )
        told = {record.id: text for record, text in zip(unread, texts, strict=True)}
        kept = {key: text for key, text in self._history.messages.items() if key in {one.id for one in ended}}
        self._history = dataclasses.replace(self._history, messages={**kept, **told})

    def _view(self) -> None:
        source = self._charge.source
        if source is None:
            return
        view = source.view
        first_look = self.pod is None and view.pod is not None
        if view.pod is not None:
            self.pod = told.over(view.pod, self._publisher.told)
            self._start.know(self.pod)
        self._is_absent = view.sight is port.Sight.ABSENT
        if first_look:
            # Messages of containers that ended before the pod was known are still to be read.
            self._must_look = True
        if view.sight is port.Sight.UNKNOWN and self._confirming is None:
            self._confirming = self._group.spawn(f"confirm {self.uid}", self._confirm())

    async def _confirm(self) -> None:
        """Look at the source directly, until it says whether there is the pod or the watch does."""
        failures = 0
        try:
            while (source := self._charge.source) is not None and source.view.sight is port.Sight.UNKNOWN:
                try:
                    if (await source.confirm()).sight is not port.Sight.UNKNOWN:
                        return
                except Exception as error:  # noqa: BLE001  (a task's outermost frame)
                    self._log.warning(
                        "pod not found out",
                        failures=failures,
                        error=str(error),
                        exc_info=not isinstance(error, source_errors.SourceError),
                    )
                failures += 1
                await asyncio.sleep(LOOK_BACKOFF.delay_s(failures))
        finally:
            self._confirming = None
            self.wake()

    def _world(self) -> steps.World:
        pod = self.pod
        return steps.World(
            wish=self._wish(),
            pod=pod,
            seen=self._prober.over(pod, self.seen),
            now_s=self._machine.now_s(),
            content=self._content(),
            limits=self._limits(),
            absent=self._is_absent and (pod is None or pod.metadata.deletion_timestamp is None),
            refusal=_refusal(pod),
            status_settled=self._is_settled(),
            has_place=self._machine.places.is_held(self.uid),
        )

    def _probe(self) -> None:
        address = "" if self._charge.group is None else self._charge.group.interface.address
        is_ending = self._wish() is not histories.Wish.RUN or self._history.ending is not None
        self._prober.follow(self.pod, self.seen, address, is_ending=is_ending)

    def _wish(self) -> histories.Wish:
        is_deleted = self.pod is not None and self.pod.metadata.deletion_timestamp is not None
        return histories.Wish.REMOVE if self._is_absent or is_deleted else self._charge.wish

    def _limits(self) -> ports.TrafficLimits:
        if self.pod is None or self._charge.group is None:
            return self._history.limited or ports.NO_LIMITS
        limits, problems = traffic.limits_of(self.pod, self._charge.group)
        if problems != self._unheld:
            self._unheld = problems
            for problem in problems:
                self._tell(events.bandwidth_not_limited(problem))
        return limits

    def _content(self) -> str:
        source = self._charge.source
        return "" if source is None or self.pod is None else contents.state_of(source.content, self.pod)

    def _keep_objects(self, stage: steps.Stage, world: steps.World) -> None:
        """Have the source follow what this pod needs now, and nothing once no container runs any more."""
        source = self._charge.source
        if source is None:
            self._machine.proxy.release(self.uid)
            return
        is_over = stage in {steps.Stage.ENDED, steps.Stage.GONE}
        if is_over or self.pod is None or world.refusal:
            source.keep((), ())
            self._machine.proxy.release(self.uid)
            return
        source.keep(*contents.kept_objects(self.pod, self._history))
        group = self._charge.group
        if group is not None and group.kube_proxy:
            self._machine.proxy.hold(self.uid, source.services, group.interface, self._tell)
        else:
            self._machine.proxy.release(self.uid)

    def _is_settled(self) -> bool:
        if self._charge.source is None or self._is_absent or self._publisher.is_final_written:
            return True
        limit_s = self._machine.limits.final_status_s
        return self._ended_at_s is not None and self._machine.now_s() >= self._ended_at_s + limit_s

    # ---- telling --------------------------------------------------------------------------------

    def _show(self, stage: steps.Stage, world: steps.World) -> float | None:
        """Publish the status and report; returns when the status may be told if nothing happens."""
        group, source, pod = self._charge.group, self._charge.source, self.pod
        is_final = stage in {steps.Stage.ENDED, steps.Stage.GONE}
        if is_final and self._ended_at_s is None:
            self._ended_at_s = world.now_s
        wake_at_s = None
        if is_final and not self._is_settled() and self._ended_at_s is not None:
            wake_at_s = self._ended_at_s + self._machine.limits.final_status_s
        status = None
        if group is not None and source is not None and pod is not None:
            facts = self._facts(pod, group, source, stage, world)
            self._note_progress(facts)
            status = statuses.to_status(facts)
            is_under_way = statuses.is_start_under_way(facts, status)
            if is_under_way and world.now_s < self._quiet_until_s:
                wake_at_s = self._quiet_until_s
            else:
                if is_under_way:
                    self._quiet_until_s = world.now_s + self._machine.limits.told_start_s
                size = f"{group.cpu_milli / 1000:g}-{group.memory_mib / 1024:g}Gi"
                annotations = {INSTANCE_ID: group.group_id, INSTANCE_SPEC: size}
                wait_s = self._publisher.publish(source, status, annotations, is_final=is_final)
                if wait_s is not None:
                    self._wake_after(wait_s)
        if group is not None:
            report = reports.to_report(
                group,
                stage=stage,
                history=self._history,
                seen=self.seen,
                status=status,
                start=self._start.told,
            )
            self._on_report(report)
            if report.phase is link.Phase.RUNNING and not self._is_measured:
                self._is_measured = True
                self._measure_start()
        return wake_at_s

    def _measure_start(self) -> None:
        """Not of a pod that ran before we knew of it."""
        sandbox = records.current_sandbox(self.seen)
        started_ns = [one.started_at_ns for one in self.seen.containers if one.started_at_ns]
        if sandbox is None or not started_ns:
            return
        tell = self._machine.observed.start_phase
        for phase, at_ns in (("sandbox", sandbox.created_at_ns), ("started", min(started_ns))):
            took_s = at_ns / 1e9 - self._history.first_seen_s
            if took_s >= 0:
                tell(took_s, phase)

    def _note_progress(self, facts: statuses.Facts) -> None:
        """That one more init container is done is told soon: somebody may be waiting to see it."""
        done = records.initialized(facts.pod, facts.seen)
        if done != self._initialized:
            self._initialized = done
            soon_s = facts.now_s + self._machine.limits.quiet_start_s
            self._quiet_until_s = min(self._quiet_until_s, soon_s)

    def _facts(
        self,
        pod: models.Pod,
        group: link.WantedGroup,
        source: port.PodSource,
        stage: steps.Stage,
        world: steps.World,
    ) -> statuses.Facts:
        return statuses.Facts(
            pod=pod,
            seen=attempts.without_void(pod, world.seen, self._history),
            history=self._history,
            stage=stage,
            now_s=world.now_s,
            address=group.interface.address,
            host_ip=source.host_ip,
            refusal=world.refusal,
            runtime_name=self._machine.runtime_name,
        )

    def _tell(self, event: events.Event) -> None:
        if self._charge.source is not None and self.pod is not None:
            self._charge.source.record_event(
                self.pod,
                container=event.container,
                kind=event.type,
                reason=event.reason,
                message=event.message,
            )

    def _tell_once(self, event: events.Event) -> None:
        if event not in self._told_once:
            self._told_once.add(event)
            self._tell(event)

    # ---- acting ---------------------------------------------------------------------------------

    def _begin(self, action: actions.Action) -> None:
        self._history = histories.begin(self._history, action)
        task = self._group.spawn(f"{type(action).__name__} {self.uid}", self._carry_out(action))
        self._carried_out[action] = task
        task.add_done_callback(lambda done: self._finish(action, done))

    def _finish(self, action: actions.Action, done: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step runs no code of its own: hence a callback.
        if self._carried_out.get(action) is done:
            del self._carried_out[action]
            if action in self._history.doing:
                self._history = histories.cancelled(self._history, action)
        self._has_acted |= effects.touches_runtime(action)
        self.wake()

    async def _carry_out(self, action: actions.Action) -> None:
        job = effects.Job(
            uid=self.uid,
            group=self._charge.group,
            source=self._charge.source,
            pod=self.pod,
            image=self._image_for(action),
            tell=self._tell,
            tell_once=self._tell_once,
            pulling=self._note_pulling,
        )
        try:
            with self._start.acting(action):
                image = await effects.carry_out(self._machine, action, job)
        except Exception as error:  # noqa: BLE001  (an action's outermost frame: the plan tries again)
            self._note_failure(action, error)
        else:
            self._log.debug("action done", action=str(action))
            self._history = histories.succeed(self._history, action, now_s=self._machine.now_s(), image=image)
        finally:
            # At once with the history: a plan in between would do it again.
            self._has_acted |= effects.touches_runtime(action)

    def _image_for(self, action: actions.Action) -> ports.ImageRef | None:
        if isinstance(action, actions.StartContainer):
            return self._history.images.get(action.container)
        return None

    def _note_pulling(self, container: str) -> None:
        self._history = dataclasses.replace(self._history, pulling=self._history.pulling | {container})
        self.wake()

    def _note_failure(self, action: actions.Action, error: Exception) -> None:
        reason: reasons.OfAttempt = getattr(error, "reason", None) or events.default_reason(action)
        message = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        now_s = self._machine.now_s()
        is_told = not isinstance(error, ports.UnavailableError) or histories.is_away_long(
            self._history, action
        )
        if is_told:
            self._history = histories.fail(self._history, action, reason, message, now_s=now_s)
        else:
            self._history = histories.put_off(self._history, action, message, now_s=now_s)
        expected = (ports.DriverError, source_errors.SourceError, effects.ConfigError, TimeoutError)
        self._log.warning(
            "action failed",
            action=str(action),
            next_try_s=self._history.failures[actions.subject(action)].delay.delay_s,
            error=message,
            exc_info=not isinstance(error, expected),
        )
        for event in events.of_failure(action, reason, message) if is_told else ():
            self._tell(event)

    # ---- timers ---------------------------------------------------------------------------------

    def _wake_at(self, at_s: float | None) -> None:
        if at_s is not None:
            self._wake_after(max(0.0, at_s - self._machine.now_s()))

    def _wake_after(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()


def _refusal(pod: models.Pod | None) -> str:
    if pod is None:
        return ""
    return "; ".join(refusal.message for refusal in admission.refusals(pod))
