"""The plan: from what is wanted, seen and remembered to the next actions.

    RUN ──ran to its end──► END ──deleted──► REMOVE ──nothing left──► gone
     └──deleted, group removed, deadline──►──┘            (forward only)

Actions that do not depend on each other are asked for together, and an action that is being carried
out is never asked for again. Ported from pkg/kubelet/kuberuntime/kuberuntime_manager.go
(computePodActions, doBackOff) and pkg/kubelet/pod_workers.go (grace period, order of termination),
Kubernetes 1.36. Differs: containers are started beside each other, and volumes, images and the
sandbox are prepared at once.
"""

from __future__ import annotations

import dataclasses
import enum
import math

from kci.kcilet import ports
from kci.kcilet.plan import actions, attempts, backoff, events, histories, moments, probes, records
from kci.kube import models
from kci.kube import status as kube_status

Wish = histories.Wish
DEFAULT_GRACE_S = 30
DEADLINE_MESSAGE = "Pod was active on the node longer than the specified deadline"
# A state that the next one follows at once (terminated, then CrashLoopBackOff) is shown this long.
SHOWN_S = 1.0


class Stage(enum.Enum):
    RUNNING = "running"
    ENDING = "ending"
    # No container runs or will run any more; a sandbox and records may be left.
    ENDED = "ended"
    # Nothing is left on this machine.
    GONE = "gone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What a plan is made from, besides the history."""

    # What the service and the source wish now; `pod` is None while it is not known.
    wish: Wish
    pod: models.Pod | None
    seen: ports.SeenPod
    now_s: float
    # The pod object vanished without its deletion being announced, as after a forced deletion.
    absent: bool = False
    # The state of what the volumes are made of (contents.state_of).
    content: str = ""
    limits: ports.TrafficLimits = ports.NO_LIMITS
    # Why this machine cannot run the pod faithfully; empty if it can.
    refusal: str = ""
    # Whether the final status is written, or nobody is left to read it.
    status_settled: bool = True
    # Whether it is this pod's turn to start: only a few do at once.
    has_place: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    stage: Stage
    history: histories.History
    asked: tuple[actions.Action, ...] = ()
    # Actions being carried out that are not wanted any more.
    cancel: frozenset[actions.Action] = frozenset()
    told: tuple[events.Event, ...] = ()
    # When to plan again though nothing happened.
    wake_at_s: float | None = None
    # Whether the pod starts, or would if it were its turn.
    wants_place: bool = False


def plan(world: World, history: histories.History) -> Decision:
    """The next actions. Asked again with the same facts while those are carried out, it asks for none."""
    draft = _Draft(world, history)
    _decide_ending(world, draft)
    if draft.history.ending is not None:
        return draft.decide(_end(world, draft, draft.history.ending))
    if world.pod is not None and not world.refusal:
        _run(world.pod, world.seen, draft)
    return draft.decide(Stage.RUNNING)


class _Draft:
    """A decision being made."""

    def __init__(self, world: World, history: histories.History) -> None:
        self.now_s = world.now_s
        self.content = world.content
        self.limits = world.limits
        self.history = history
        self._has_place = world.has_place
        self._wants_place = False
        self._busy = {actions.subject(action) for action in history.doing}
        self._actions: list[actions.Action] = []
        self._cancel: set[actions.Action] = set()
        self._events: list[events.Event] = []
        self._wake_at_s: float | None = None

    def ask(self, action: actions.Action) -> None:
        """Ask for an action unless its subject is being worked on, or has to wait after a failure and nothing
        has changed since.
        """
        if self._is_due(action):
            self._busy.add(actions.subject(action))
            self._actions.append(action)

    def _is_due(self, action: actions.Action) -> bool:
        subject = actions.subject(action)
        if subject in self._busy:
            return False
        failure = self.history.failures.get(subject)
        is_waiting = failure is not None and not failure.is_outdated_by(action)
        if failure is not None and is_waiting and self.now_s < failure.retry_at_s:
            self.wake(failure.retry_at_s)
            return False
        return True

    def ask_to_start(self, action: actions.Action) -> None:
        """As `ask`, but only when it is this pod's turn."""
        if self._has_place:
            self.ask(action)
        elif self._is_due(action):
            self._wants_place = True

    def ask_to_stop(self, action: actions.StopContainer) -> None:
        """As `ask`, but a shorter grace period overtakes a stop that is under way. A stop that was carried
        out is not repeated at once if the container still shows as running.
        """
        stopped = self.history.failures.get(actions.stopped_subject(action.container_id))
        if stopped is not None and self.now_s < stopped.retry_at_s:
            self.wake(stopped.retry_at_s)
            return
        under_way = [
            doing.grace_s
            for doing in self.history.doing
            if isinstance(doing, actions.StopContainer) and doing.container_id == action.container_id
        ]
        if under_way and action.grace_s < min(under_way):
            self._actions.append(dataclasses.replace(action, message=""))
        else:
            self.ask(action)

    def cancel(self, *kinds: type[actions.Action]) -> None:
        self._cancel |= {action for action in self.history.doing if isinstance(action, kinds)}

    def announce_once(self, state: str, which: str, *told: events.Event) -> None:
        if self.history.announced.get(state) != which:
            announced = {**self.history.announced, state: which}
            self.history = dataclasses.replace(self.history, announced=announced)
            self._events += told

    def wake(self, at_s: float) -> None:
        self._wake_at_s = at_s if self._wake_at_s is None else min(self._wake_at_s, at_s)

    def is_busy(self, *kinds: type[actions.Action]) -> bool:
        return any(isinstance(action, kinds) for action in (*self.history.doing, *self._actions))

    def decide(self, stage: Stage) -> Decision:
        return Decision(
            stage=stage,
            history=self.history,
            asked=tuple(self._actions),
            cancel=frozenset(self._cancel),
            told=tuple(self._events),
            wake_at_s=self._wake_at_s,
            wants_place=self._wants_place or (self._has_place and self._is_starting()),
        )

    def _is_starting(self) -> bool:
        """Whether the place is used. It is not kept over a pull, which may take minutes and little CPU."""
        if self.is_busy(actions.RunSandbox, actions.StartContainer):
            return True
        return not self.history.pulling and self.is_busy(actions.PrepareVolumes, actions.EnsureImage)


# ---- running --------------------------------------------------------------------------------------


def _run(pod: models.Pod, seen: ports.SeenPod, draft: _Draft) -> None:
    void = attempts.void(pod, seen, draft.history)
    for record in void:
        draft.ask(actions.RemoveContainer(record.id, record.log_path))
    seen = attempts.without_void(pod, seen, draft.history)
    sandbox = records.current_sandbox(seen)
    if sandbox is None:
        _replace_sandbox(pod, seen, draft)
    elif draft.history.limited != draft.limits:
        draft.ask(actions.LimitTraffic(draft.limits))
    having_turn = records.having_turn(pod, seen)
    due = [
        container
        for container in having_turn
        if not records.is_kept_running(seen, container.name)
        # The name of the attempt is free again once its record is removed.
        and container.name not in {record.name for record in void}
        and records.should_run(pod, container, seen)
        and not _waits_for_restart(pod, container, seen, draft)
    ]
    is_running = any(records.is_kept_running(seen, container.name) for container in having_turn)
    if (due or is_running) and draft.history.laid_out != draft.content:
        ask = draft.ask if sandbox is not None else draft.ask_to_start
        ask(actions.PrepareVolumes(draft.content))
    for container in having_turn:
        _stop_if_unhealthy(pod, container, seen, draft)
    for container in due:
        _start(pod, container, sandbox, seen, draft)
    if not draft.is_busy(actions.RunSandbox, actions.StartContainer):
        _prune(seen, draft)


def _replace_sandbox(pod: models.Pod, seen: ports.SeenPod, draft: _Draft) -> None:
    """End what lives in former sandboxes, and only then make a new one: never two at once."""
    newest = records.newest_sandbox(seen)
    if newest is not None:
        draft.announce_once("sandbox", newest.id, events.sandbox_changed())
    for record in records.to_stop(pod, seen):
        message = f"Stopping container {record.name}"
        draft.ask_to_stop(actions.StopContainer(record.id, record.name, _spec_grace_s(pod), message))
    if any(one.phase is records.Phase.RUNNING for one in seen.containers) or draft.is_busy(
        actions.StartContainer
    ):
        return
    ready = records.ready_sandboxes(seen)
    for sandbox in ready:
        draft.ask(actions.StopSandbox(sandbox.id))
    if not ready:
        draft.ask_to_start(actions.RunSandbox(0 if newest is None else newest.attempt + 1, draft.limits))


def _stop_if_unhealthy(
    pod: models.Pod, container: models.Container, seen: ports.SeenPod, draft: _Draft
) -> None:
    """Stop what a probe has found to be beyond hope; its restart follows from its exit."""
    record = records.newest_of(seen, container.name)
    if record is None or record.phase is not records.Phase.RUNNING or not record.health.failed:
        return
    own_grace_s = probes.grace_s(container, record.health.failed)
    grace_s = _spec_grace_s(pod) if own_grace_s is None else max(2, own_grace_s)
    will_restart = records.restart_policy(pod, container) != "Never"
    message = events.failed_probe(container.name, record.health.failed, will_restart=will_restart)
    draft.ask_to_stop(actions.StopContainer(record.id, container.name, grace_s, message))


def _waits_for_restart(
    pod: models.Pod, container: models.Container, seen: ports.SeenPod, draft: _Draft
) -> bool:
    """Whether an exited container is in its restart back-off (CrashLoopBackOff)."""
    newest = records.newest_of(seen, container.name)
    if newest is None or newest.phase is not records.Phase.EXITED:
        return False
    until_s = restart_at_s(draft.history, newest)
    if draft.now_s >= until_s:
        return False
    draft.announce_once(f"back-off {container.name}", newest.id, events.restart_back_off(pod, container.name))
    draft.wake(until_s)
    shown_at_s = moments.seconds(newest.finished_at_ns) + SHOWN_S
    if draft.now_s < shown_at_s:
        draft.wake(shown_at_s)
    return True


def restart_at_s(history: histories.History, exited: ports.SeenContainer) -> float:
    delay = history.restarts.get(exited.name)
    return backoff.ends_at_s(delay, backoff.RESTART, event_at_s=moments.seconds(exited.finished_at_ns))


def _start(
    pod: models.Pod,
    container: models.Container,
    sandbox: ports.SeenSandbox | None,
    seen: ports.SeenPod,
    draft: _Draft,
) -> None:
    history, newest = draft.history, records.newest_of(seen, container.name)
    if newest is not None and newest.phase in {records.Phase.RUNNING, records.Phase.UNKNOWN}:
        # It runs in a former sandbox, or may be running: two of them must not.
        draft.ask_to_stop(actions.StopContainer(newest.id, container.name, _spec_grace_s(pod)))
        return
    if newest is not None and sandbox is not None and _is_made(newest, sandbox):
        if history.volumes_ready:
            draft.ask(actions.StartContainer(container.name, newest.attempt, sandbox.id, created=newest.id))
        return
    if container.name not in history.images:
        ask = draft.ask if sandbox is not None else draft.ask_to_start
        ask(actions.EnsureImage(container.name, container.image, pull_policy(container)))
        _announce_pull_back_off(container, draft)
        return
    if sandbox is None or not history.volumes_ready:
        return
    attempt = records.next_attempt(pod, container.name, seen)
    has_exited = newest is not None and newest.phase is records.Phase.EXITED
    after_exit_s = moments.seconds(newest.finished_at_ns) if newest is not None and has_exited else None
    draft.ask(
        actions.StartContainer(
            container.name, attempt, sandbox.id, after_exit_s=after_exit_s, content=draft.content
        )
    )


def _is_made(record: ports.SeenContainer, sandbox: ports.SeenSandbox) -> bool:
    """Whether it has only to be started."""
    return record.phase is records.Phase.CREATED and record.sandbox_id == sandbox.id


def _announce_pull_back_off(container: models.Container, draft: _Draft) -> None:
    failure = draft.history.failures.get(actions.image_subject(container.name))
    if failure is None or not failure.reason:
        return
    shown_at_s = failure.at_s + SHOWN_S
    if draft.now_s < shown_at_s:
        draft.wake(shown_at_s)
    elif draft.now_s < failure.retry_at_s:
        draft.announce_once(f"pull {container.name}", str(failure.at_s), *events.pull_back_off(container))


def pull_policy(container: models.Container) -> str:
    """The API server sets it; the default is its own (pkg/apis/core/v1/defaults.go)."""
    if container.image_pull_policy:
        return container.image_pull_policy
    name = container.image.rpartition("/")[2]
    is_latest = "@" not in name and (":" not in name or name.endswith(":latest"))
    return "Always" if is_latest else "IfNotPresent"


def _prune(seen: ports.SeenPod, draft: _Draft) -> None:
    """Keep two records of a container with their logs (state and last state), and no former sandbox without
    records.
    """
    kept = set()
    for name in {record.name for record in seen.containers}:
        kept |= {record.id for record in records.attempts_of(seen, name)[:2]}
    for record in seen.containers:
        if record.id not in kept and record.phase is not records.Phase.RUNNING:
            draft.ask(actions.RemoveContainer(record.id, record.log_path))
    newest = records.newest_sandbox(seen)
    in_use = {record.sandbox_id for record in seen.containers}
    for sandbox in seen.sandboxes:
        if sandbox != newest and not sandbox.ready and sandbox.id not in in_use:
            draft.ask(actions.RemoveSandbox(sandbox.id))


# ---- ending -----------------------------------------------------------------------------------------


def _decide_ending(world: World, draft: _Draft) -> None:
    pod, ending = world.pod, draft.history.ending
    wish, reason, message = world.wish, "", ""
    if pod is not None and wish is Wish.RUN:
        if _is_past_deadline(pod, draft):
            wish, reason, message = Wish.END, "DeadlineExceeded", DEADLINE_MESSAGE
        elif pod.status.phase in kube_status.TERMINAL_PHASES or (
            not world.refusal and records.is_over(pod, attempts.without_void(pod, world.seen, draft.history))
        ):
            wish = Wish.END
    if wish is Wish.RUN and ending is None:
        return
    grace_s = to_grace_s(world)
    if ending is None:
        ending = histories.Ending(wish, grace_s, reason, message, since_s=draft.now_s)
        if reason:
            draft.announce_once("ending", reason, events.deadline_exceeded(message))
    else:
        ending = dataclasses.replace(
            ending, wish=max(ending.wish, wish), grace_s=min(ending.grace_s, grace_s)
        )
    draft.history = dataclasses.replace(draft.history, ending=ending)


def _is_past_deadline(pod: models.Pod, draft: _Draft) -> bool:
    if pod.spec.active_deadline_seconds is None or pod.status.phase in kube_status.TERMINAL_PHASES:
        return False
    start_s = moments.parse(pod.status.start_time) or draft.history.first_seen_s
    ends_at_s = start_s + pod.spec.active_deadline_seconds
    if draft.now_s >= ends_at_s:
        return True
    draft.wake(ends_at_s)
    return False


def to_grace_s(world: World) -> int:
    """As calculateEffectiveGracePeriod, with killContainer's two seconds as the least."""
    pod = world.pod
    if world.absent:
        return 2
    if pod is None:
        return DEFAULT_GRACE_S
    asked = pod.metadata.deletion_grace_period_seconds
    return max(2, _spec_grace_s(pod) if asked is None else asked)


def _spec_grace_s(pod: models.Pod) -> int:
    asked = pod.spec.termination_grace_period_seconds
    return max(2, DEFAULT_GRACE_S if asked is None else asked)


def _end(world: World, draft: _Draft, ending: histories.Ending) -> Stage:
    """All containers at once, but sidecars after the others, then the sandbox, then (to remove) all that is
    left.
    """
    seen = world.seen
    draft.cancel(actions.EnsureImage, actions.PrepareVolumes)
    sidecars = records.sidecar_names(world.pod)
    for record in records.to_stop(world.pod, seen):
        grace_s = _left_grace_s(ending, seen) if record.name in sidecars else ending.grace_s
        message = f"Stopping container {record.name}"
        draft.ask_to_stop(actions.StopContainer(record.id, record.name, grace_s, message))
    if draft.is_busy(actions.RunSandbox, actions.StartContainer):
        return Stage.ENDING
    if any(record.phase is records.Phase.RUNNING for record in seen.containers):
        return Stage.ENDING
    for sandbox in records.ready_sandboxes(seen):
        draft.ask(actions.StopSandbox(sandbox.id))
    if ending.wish is Wish.REMOVE and world.status_settled and records.is_all_dead(seen):
        return _remove(seen, draft)
    return Stage.ENDED


def _left_grace_s(ending: histories.Ending, seen: ports.SeenPod) -> int:
    """What those that ended since have left of the grace period: it is the whole pod's."""
    ends_s = [moments.seconds(one.finished_at_ns) for one in seen.containers]
    used_s = max((at_s - ending.since_s for at_s in ends_s if at_s > ending.since_s), default=0.0)
    return max(2, math.ceil(ending.grace_s - used_s))


def _remove(seen: ports.SeenPod, draft: _Draft) -> Stage:
    sandboxes = {sandbox.id for sandbox in seen.sandboxes}
    for record in seen.containers:
        if record.sandbox_id not in sandboxes:
            draft.ask(actions.RemoveContainer(record.id, record.log_path))
    for identifier in sorted(sandboxes):
        draft.ask(actions.RemoveSandbox(identifier))
    if seen.sandboxes or seen.containers or draft.is_busy(actions.PrepareVolumes):
        return Stage.ENDED
    if not draft.history.leftovers_removed:
        draft.ask(actions.RemoveLeftovers())
        return Stage.ENDED
    return Stage.GONE
