"""A pod's phase, conditions and quality of service from its spec and its containers' statuses. Pure.

Ported from Kubernetes v1.36.3 pkg/kubelet/kubelet_pods.go (getPhase, generateAPIPodStatus),
pkg/kubelet/status/generate.go and pkg/apis/core/v1/helper/qos/qos.go. Differs: container restart rules are
not known (kube/admission.py refuses them).
"""

from __future__ import annotations

import collections
import fractions
from collections.abc import Iterable, Mapping

import msgspec

from kci.kube import models, quantity, reasons

TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})
KUBELET_CONDITIONS = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
)
# Status, reason, message.
_Told = tuple[str, reasons.OfCondition, str]
Statuses = Mapping[str, models.ContainerStatus]


def qos_class(pod: models.Pod) -> str:
    """Guaranteed, Burstable or BestEffort: what the API server said, else as it computes it."""
    if pod.status.qos_class:
        return pod.status.qos_class
    spec = pod.spec
    holders = [spec.resources] if spec.resources else [c.resources for c in spec.all_containers]
    requests, limits = _total(one.requests for one in holders), _total(one.limits for one in holders)
    if not requests and not limits:
        return "BestEffort"
    limited = all(_total([one.limits]).keys() >= {"cpu", "memory"} for one in holders)
    return "Guaranteed" if limited and requests == limits else "Burstable"


def pod_phase(
    pod: models.Pod, statuses: Iterable[models.ContainerStatus], *, is_terminal: bool = False
) -> str:
    """The phase that follows from all containers' statuses, init containers' too. `is_terminal`: no
    container will be started again, whatever the restart policy says. A terminal phase that the API server
    knows stays.
    """
    if pod.status.phase in TERMINAL_PHASES:
        return pod.status.phase
    known = {status.name: status for status in statuses}
    started = _has_started(pod.spec, known)
    if any(_has_failed_for_good(pod.spec, container, known) for container in _init(pod.spec)):
        return "Failed"
    if any(_init_is_pending(container, known) for container in _init(pod.spec)):
        return "Pending"
    sidecars = [known.get(container.name) for container in _sidecars(pod.spec)]
    if not started and any(_sidecar_is_pending(status) for status in sidecars):
        return "Pending"
    containers = [known.get(container.name) for container in pod.spec.containers]
    if any(status is not None and _is_waiting(status) for status in (*sidecars, *containers)):
        return "Pending"
    # A sidecar that ended counts for nothing; one that nobody knows of counts as unknown.
    unknown = any(status is None or _is_blank(status) for status in (*sidecars, *containers))
    if unknown:
        return "Pending"
    if any(status is not None and status.state.running for status in (*sidecars, *containers)):
        return "Running"
    return _phase_when_all_stopped(
        pod.spec, [s for s in containers if s is not None], is_terminal=is_terminal
    )


def conditions(
    pod: models.Pod,
    phase: str,
    statuses: Iterable[models.ContainerStatus],
    *,
    has_sandbox: bool,
    now: str,
) -> tuple[models.PodCondition, ...]:
    """All conditions a kubelet writes, merged into those the pod has; `now` as RFC 3339."""
    known = {status.name: status for status in statuses}
    containers_ready = _containers_ready(pod.spec, phase, known)
    ready = containers_ready if containers_ready[0] != "True" else _gates(pod)
    made: dict[str, _Told] = {
        "PodReadyToStartContainers": ("True" if has_sandbox else "False", "", ""),
        "Initialized": _initialized(pod.spec, phase, known),
        "Ready": ready,
        "ContainersReady": containers_ready,
        "PodScheduled": ("True", "", ""),
    }
    ours = tuple(
        models.PodCondition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            observed_generation=pod.metadata.generation,
        )
        for kind, (status, reason, message) in made.items()
    )
    return merge_conditions(pod.status.conditions, ours, now=now)


def merge_conditions(
    current: Iterable[models.PodCondition], ours: Iterable[models.PodCondition], *, now: str
) -> tuple[models.PodCondition, ...]:
    """Ours in place of the current ones of their types, others untouched; a transition time changes only with
    its status.
    """
    merged = {condition.type: condition for condition in current}
    for condition in ours:
        before = merged.get(condition.type)
        same = before is not None and before.status == condition.status
        since = before.last_transition_time if before is not None and same else None
        merged[condition.type] = msgspec.structs.replace(condition, last_transition_time=since or now)
    return tuple(merged.values())


def _sidecars(spec: models.PodSpec) -> list[models.Container]:
    return [container for container in spec.init_containers if container.is_sidecar]


def _init(spec: models.PodSpec) -> list[models.Container]:
    return [container for container in spec.init_containers if not container.is_sidecar]


def _total(lists: Iterable[Mapping[str, str | int | float]]) -> dict[str, fractions.Fraction]:
    total: collections.defaultdict[str, fractions.Fraction] = collections.defaultdict(fractions.Fraction)
    for one in lists:
        for name in ("cpu", "memory"):
            amount = quantity.parse(one.get(name, 0))
            if amount > 0:
                total[name] += amount
    return dict(total)


def _ended(status: models.ContainerStatus) -> models.ContainerStateTerminated | None:
    """How the container ended, if it is not running: also while it waits for its next start."""
    if status.state.terminated is not None:
        return status.state.terminated
    return status.last_state.terminated if status.state.waiting is not None else None


def _is_waiting(status: models.ContainerStatus) -> bool:
    """Waits for its first start."""
    return status.state.waiting is not None and status.last_state.terminated is None


def _is_blank(status: models.ContainerStatus) -> bool:
    return not (status.state.running or status.state.waiting or status.state.terminated)


def _restarts(spec: models.PodSpec, exit_code: int) -> bool:
    return spec.restart_policy == "Always" or (spec.restart_policy == "OnFailure" and exit_code != 0)


def _has_started(spec: models.PodSpec, known: Statuses) -> bool:
    found = (known.get(container.name) for container in spec.containers)
    return any(status is not None and (status.state.running or status.state.terminated) for status in found)


def _has_failed_for_good(spec: models.PodSpec, container: models.Container, known: Statuses) -> bool:
    status = known.get(container.name)
    end = _ended(status) if status is not None else None
    # For an init container Always means "until it succeeds".
    return end is not None and end.exit_code != 0 and spec.restart_policy == "Never"


def _init_is_pending(container: models.Container, known: Statuses) -> bool:
    status = known.get(container.name)
    return status is None or bool(status.state.running) or _ended(status) is None


def _sidecar_is_pending(status: models.ContainerStatus | None) -> bool:
    if status is None:
        return False
    if status.state.running:
        return not status.started
    return _is_waiting(status) or _is_blank(status)


def _phase_when_all_stopped(
    spec: models.PodSpec, statuses: list[models.ContainerStatus], *, is_terminal: bool
) -> str:
    if not statuses:
        return "Pending"
    ends = [end for status in statuses if (end := _ended(status)) is not None]
    # What waits for its next start has not succeeded, whatever its last exit was.
    succeeded = all(s.state.terminated is not None and s.state.terminated.exit_code == 0 for s in statuses)
    if not is_terminal and any(_restarts(spec, end.exit_code) for end in ends):
        return "Running"
    return "Succeeded" if succeeded else "Failed"


def _containers_ready(spec: models.PodSpec, phase: str, known: Statuses) -> _Told:
    if not known:
        return "False", "UnknownContainerStatuses", ""
    names = [container.name for container in (*_sidecars(spec), *spec.containers)]
    unknown = [name for name in names if name not in known]
    unready = [name for name in names if name in known and not known[name].ready]
    if phase == "Succeeded" and not unknown:
        return "False", "PodCompleted", ""
    if phase == "Failed":
        return "False", "PodFailed", ""
    message = _listed(unknown=unknown, unready=unready)
    return ("False", "ContainersNotReady", message) if message else ("True", "", "")


def _gates(pod: models.Pod) -> _Told:
    found = {condition.type: condition.status for condition in pod.status.conditions}
    messages = []
    for gate in pod.spec.readiness_gates:
        name, status = gate.condition_type, found.get(gate.condition_type)
        if status is None:
            messages.append(f'corresponding condition of pod readiness gate "{name}" does not exist.')
        elif status != "True":
            messages.append(f'the status of pod readiness gate "{name}" is not "True", but {status}')
    return ("False", "ReadinessGatesNotReady", ", ".join(messages)) if messages else ("True", "", "")


def _initialized(spec: models.PodSpec, phase: str, known: Statuses) -> _Told:
    if spec.init_containers and not known:
        return "False", "UnknownContainerStatuses", ""
    unknown = [container.name for container in spec.init_containers if container.name not in known]
    incomplete = [
        container.name
        for container in spec.init_containers
        if container.name in known and not _is_initialized(container, known[container.name])
    ]
    if phase == "Succeeded" and not unknown:
        return "True", "PodCompleted", ""
    if _has_started(spec, known):
        return "True", "", ""
    message = _listed(unknown=unknown, incomplete=incomplete)
    return ("False", "ContainersNotInitialized", message) if message else ("True", "", "")


def _is_initialized(container: models.Container, status: models.ContainerStatus) -> bool:
    return bool(status.started) if container.is_sidecar else status.ready


def _listed(**names: list[str]) -> str:
    """`containers with unready status: [a b]`, as Go prints a list."""
    return ", ".join(
        f"containers with {kind} status: [{' '.join(some)}]" for kind, some in names.items() if some
    )
