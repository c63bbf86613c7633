"""A pod's status from what is seen, as a kubelet writes it, never behind what the server knows.

What stays true: a terminal phase stays, restart counts never fall, a container that was terminated is not
waiting again without a start, and a condition's transition time changes only with its status. So writing
the status again, or after a restart of ours, changes nothing.

Ported from pkg/kubelet/kubelet_pods.go (generateAPIPodStatus, convertToAPIContainerStatuses) and
pkg/kubelet/status/status_manager.go (TerminatePod), Kubernetes 1.36; phase and conditions: kube/status.py.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec

from kci.kcilet import ports
from kci.kcilet.plan import actions, events, histories, moments, records, steps
from kci.kube import models
from kci.kube import status as kube_status

TERMINAL_PHASES = kube_status.TERMINAL_PHASES
INITIALIZED = "Nothing is left of this init container, and the containers after it have begun: it succeeded"
NOT_LOCATED = "The container could not be located when the pod was terminated"
LOST = "The container could not be located when the pod was deleted.  The container used to be Running"
UNKNOWN_EXIT_CODE = 137
REFUSED: Final = "CannotRunAsAsked"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a status is made from."""

    # The pod with the newest status known of the server.
    pod: models.Pod
    seen: ports.SeenPod
    history: histories.History
    stage: steps.Stage
    now_s: float
    # The address that the service gave the group, and the node's own.
    address: str = ""
    host_ip: str = ""
    refusal: str = ""
    runtime_name: str = "containerd"

    @property
    def has_ended(self) -> bool:
        return self.stage in {steps.Stage.ENDED, steps.Stage.GONE}


def to_status(facts: Facts) -> models.PodStatus:
    """The whole status; conditions of others are not in it."""
    pod, server = facts.pod, facts.pod.status
    ordered = (*pod.spec.init_containers, *sorted(pod.spec.containers, key=lambda one: one.name))
    containers = _with_ends(facts, tuple(_to_container(facts, container) for container in ordered))
    phase = _to_phase(facts, containers)
    reason, message = _to_reason(facts, phase)
    address = server.pod_ip or _address(facts)
    return models.PodStatus(
        phase=phase,
        observed_generation=pod.metadata.generation,
        conditions=_to_conditions(facts, phase, containers),
        reason=reason,
        message=message,
        host_ip=server.host_ip or facts.host_ip,
        pod_ip=address,
        pod_ips=server.pod_ips or ((models.PodIP(ip=address),) if address else ()),
        start_time=server.start_time or moments.text(facts.history.first_seen_s),
        init_container_statuses=containers[: len(pod.spec.init_containers)],
        container_statuses=containers[len(pod.spec.init_containers) :],
        qos_class=kube_status.qos_class(pod),
    )


def is_start_under_way(facts: Facts, status: models.PodStatus) -> bool:
    """Whether the status says only that a start is under way without trouble. A quick start is told by
    one write, when it is done; the caller writes this only if the start takes long.
    """
    return (
        facts.history.ending is None
        and status.phase == "Pending"
        and not any(failure.reason for failure in facts.history.failures.values())
        and not facts.refusal
        and all(one.state.terminated is None for one in status.container_statuses)
        and all(_is_without_trouble(one) for one in status.all_containers)
    )


def _is_without_trouble(status: models.ContainerStatus) -> bool:
    end = status.state.terminated
    is_first = status.restart_count == 0 and status.last_state.terminated is None
    return is_first and (end is None or end.exit_code == 0)


def _address(facts: Facts) -> str:
    sandbox = records.current_sandbox(facts.seen)
    return "" if sandbox is None else sandbox.address or facts.address


# ---- containers -----------------------------------------------------------------------------------


def _to_container(facts: Facts, container: models.Container) -> models.ContainerStatus:
    known = records.server_status(facts.pod, container.name)
    attempts = records.attempts_of(facts.seen, container.name)
    status = _of_record(facts, container, attempts, known) if attempts else _unseen(facts, container, known)
    is_ending = facts.has_ended or facts.history.ending is not None
    if not is_ending and records.should_run(facts.pod, container, facts.seen):
        waiting = _to_waiting(facts, container)
        if waiting is not None and status.state.running is None:
            status = _waiting(status, waiting)
    return status


def _unseen(
    facts: Facts, container: models.Container, known: models.ContainerStatus | None
) -> models.ContainerStatus:
    """The runtime holds nothing of the container: not started yet, or its records are lost."""
    if known is not None and known.state.terminated is not None:
        return known
    has_had_turn = not records.should_run(facts.pod, container, facts.seen)
    before = models.ContainerStatus(name=container.name, image=container.image) if known is None else known
    fresh = _replaced(
        before,
        state=_succeeded_unseen() if has_had_turn else _before_start(facts),
        ready=has_had_turn,
        started=False,
    )
    was_running = known is not None and known.state.running is not None
    if known is None or not was_running or facts.history.ending is not None or has_had_turn:
        return fresh
    lost = models.ContainerState(terminated=known.last_state.terminated or _unknown_end(LOST))
    return _replaced(fresh, last_state=lost, restart_count=known.restart_count + 1)


def _before_start(facts: Facts) -> models.ContainerState:
    reason = "PodInitializing" if facts.pod.spec.init_containers else "ContainerCreating"
    return models.ContainerState(waiting=models.ContainerStateWaiting(reason=reason))


def _succeeded_unseen() -> models.ContainerState:
    end = models.ContainerStateTerminated(exit_code=0, reason="Completed", message=INITIALIZED)
    return models.ContainerState(terminated=end)


def _of_record(
    facts: Facts,
    container: models.Container,
    attempts: list[ports.SeenContainer],
    known: models.ContainerStatus | None,
) -> models.ContainerStatus:
    newest = attempts[0]
    identifier = f"{facts.runtime_name}://{newest.id}"
    is_running = newest.phase is records.Phase.RUNNING
    has_succeeded = newest.phase is records.Phase.EXITED and newest.exit_code == 0
    return models.ContainerStatus(
        name=container.name,
        state=_to_state(facts, newest, known),
        last_state=_to_last_state(facts, attempts, identifier, known),
        ready=has_succeeded if records.is_init(facts.pod, container) else is_running and newest.health.ready,
        started=is_running and newest.health.started,
        restart_count=max(newest.attempt, known.restart_count if known else 0),
        image=newest.image or container.image,
        image_id=newest.image_id,
        container_id=identifier,
    )


def _to_state(
    facts: Facts, record: ports.SeenContainer, known: models.ContainerStatus | None
) -> models.ContainerState:
    match record.phase:
        case records.Phase.RUNNING:
            started_at = moments.text_of_ns(record.started_at_ns)
            return models.ContainerState(running=models.ContainerStateRunning(started_at=started_at))
        case records.Phase.EXITED:
            return models.ContainerState(terminated=_to_terminated(facts, record))
        case records.Phase.UNKNOWN if known is not None and known.state.running is not None:
            return models.ContainerState(terminated=_unknown_end(NOT_LOCATED))
        case records.Phase.UNKNOWN if known is not None and known.container_id.endswith(f"://{record.id}"):
            # Its end was told; the next start has not begun.
            return known.state
        case records.Phase.CREATED | records.Phase.UNKNOWN:
            return _before_start(facts)


def _to_last_state(
    facts: Facts,
    attempts: list[ports.SeenContainer],
    identifier: str,
    known: models.ContainerStatus | None,
) -> models.ContainerState:
    if len(attempts) > 1 and attempts[1].phase is records.Phase.EXITED:
        return models.ContainerState(terminated=_to_terminated(facts, attempts[1]))
    if known is None:
        return models.ContainerState()
    if known.container_id != identifier and known.state.terminated is not None:
        return models.ContainerState(terminated=known.state.terminated)
    return known.last_state


def _to_terminated(facts: Facts, record: ports.SeenContainer) -> models.ContainerStateTerminated:
    told = facts.history.messages.get(record.id, "")
    return models.ContainerStateTerminated(
        exit_code=record.exit_code,
        reason=record.reason or ("Completed" if record.exit_code == 0 else "Error"),
        message=": ".join(part for part in (record.message, told) if part),
        started_at=moments.text_of_ns(record.started_at_ns),
        finished_at=moments.text_of_ns(record.finished_at_ns),
        container_id=f"{facts.runtime_name}://{record.id}",
    )


def _unknown_end(message: str) -> models.ContainerStateTerminated:
    return models.ContainerStateTerminated(
        exit_code=UNKNOWN_EXIT_CODE, reason="ContainerStatusUnknown", message=message
    )


def _to_waiting(facts: Facts, container: models.Container) -> models.ContainerStateWaiting | None:
    """Why a container that should run does not; None if there is nothing to say but that it starts."""
    if facts.refusal:
        return models.ContainerStateWaiting(reason=REFUSED, message=facts.refusal)
    failures = {key: failure for key, failure in facts.history.failures.items() if failure.reason}
    pull = failures.get(actions.image_subject(container.name))
    if pull is not None:
        return _pull_waiting(facts, container, pull)
    newest = records.newest_of(facts.seen, container.name)
    if newest is not None and newest.phase is records.Phase.EXITED:
        until_s = steps.restart_at_s(facts.history, newest)
        shown_at_s = moments.seconds(newest.finished_at_ns) + steps.SHOWN_S
        # Also while the next start is under way, so that the state does not go to and fro.
        if until_s and facts.now_s >= shown_at_s:
            delay = events.duration(facts.history.restarts[container.name].delay_s)
            who = f"container={container.name} pod={events.pod_text(facts.pod)}"
            return models.ContainerStateWaiting(
                reason="CrashLoopBackOff", message=f"back-off {delay} restarting failed {who}"
            )
    start = failures.get(actions.container_subject(container.name))
    return None if start is None else models.ContainerStateWaiting(reason=start.reason, message=start.message)


def _pull_waiting(
    facts: Facts, container: models.Container, pull: histories.Failure
) -> models.ContainerStateWaiting:
    # While the next attempt is under way the last one's outcome stands.
    if facts.now_s < pull.at_s + steps.SHOWN_S or pull.reason != "ErrImagePull":
        return models.ContainerStateWaiting(reason=pull.reason, message=pull.message)
    return models.ContainerStateWaiting(
        reason="ImagePullBackOff",
        message=f'Back-off pulling image "{container.image}": {pull.reason}: {pull.message}',
    )


def _waiting(status: models.ContainerStatus, waiting: models.ContainerStateWaiting) -> models.ContainerStatus:
    if status.state.terminated is not None:
        status = _replaced(status, last_state=models.ContainerState(terminated=status.state.terminated))
    return _with_state(status, models.ContainerState(waiting=waiting))


def _with_ends(
    facts: Facts, statuses: tuple[models.ContainerStatus, ...]
) -> tuple[models.ContainerStatus, ...]:
    """Once nothing runs any more, what had its turn has ended, seen or not. Later ones wait for ever."""
    if not facts.has_ended:
        return statuses
    steps = len(facts.pod.spec.init_containers)
    begun = [number for number, status in enumerate(statuses) if _has_begun(status)]
    is_initialized = records.initialized(facts.pod, facts.seen) == steps or max(begun, default=0) >= steps
    turns = len(statuses) if is_initialized else max(begun, default=0) + 1
    end = models.ContainerState(terminated=_unknown_end(NOT_LOCATED))
    ended = (one if one.state.terminated is not None else _with_state(one, end) for one in statuses[:turns])
    return (*ended, *statuses[turns:])


def _has_begun(status: models.ContainerStatus) -> bool:
    return status.state.waiting is None or status.last_state.terminated is not None


def _with_state(status: models.ContainerStatus, state: models.ContainerState) -> models.ContainerStatus:
    return _replaced(status, state=state, ready=False, started=False)


def _replaced(status: models.ContainerStatus, **changes: object) -> models.ContainerStatus:
    return msgspec.structs.replace(status, **changes)


# ---- phase and conditions -------------------------------------------------------------------------


def _to_phase(facts: Facts, containers: tuple[models.ContainerStatus, ...]) -> str:
    ending = facts.history.ending
    is_cut_short = facts.has_ended and ending is not None and bool(ending.reason)
    if is_cut_short and facts.pod.status.phase not in TERMINAL_PHASES:
        return "Failed"
    phase = kube_status.pod_phase(facts.pod, containers, is_terminal=facts.has_ended)
    if phase in TERMINAL_PHASES and _will_run_again(facts):
        # A probe stopped what may end with any exit code.
        return "Running"
    if facts.has_ended and phase not in TERMINAL_PHASES:
        # Its init containers were cut off.
        return "Failed"
    is_early = phase in TERMINAL_PHASES and any(one.state.running is not None for one in containers)
    # An init container failed for good: not final before its sidecars have ended.
    return facts.pod.status.phase or "Pending" if is_early else phase


def _will_run_again(facts: Facts) -> bool:
    if facts.history.ending is not None or facts.pod.status.phase in TERMINAL_PHASES:
        return False
    return any(
        record.health.failed and records.should_run(facts.pod, container, facts.seen)
        for container in facts.pod.spec.containers
        if (record := records.newest_of(facts.seen, container.name)) is not None
    )


def _to_reason(facts: Facts, phase: str) -> tuple[str, str]:
    server, ending = facts.pod.status, facts.history.ending
    if phase == "Failed" and ending is not None and ending.reason and server.phase != "Failed":
        return ending.reason, ending.message
    if facts.refusal and phase == "Pending":
        return REFUSED, facts.refusal
    return (server.reason, server.message) if phase == server.phase else ("", "")


def _to_conditions(
    facts: Facts, phase: str, containers: tuple[models.ContainerStatus, ...]
) -> tuple[models.PodCondition, ...]:
    merged = kube_status.conditions(
        facts.pod,
        phase,
        containers,
        # Told with the end of the containers, which the sandbox's end follows at once: one write.
        has_sandbox=not facts.has_ended and records.current_sandbox(facts.seen) is not None,
        now=moments.text(facts.now_s),
    )
    # Those of others are theirs to write: a patch must not carry them.
    return tuple(one for one in merged if one.type in kube_status.KUBELET_CONDITIONS)
