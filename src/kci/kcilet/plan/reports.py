"""What the service is told of a group."""

from __future__ import annotations

from kci.kcilet import ports
from kci.kcilet.plan import histories, records, steps
from kci.kube import models
from kci.link import types as link

_PHASES = {
    "Running": link.Phase.RUNNING,
    "Succeeded": link.Phase.SUCCEEDED,
    "Failed": link.Phase.FAILED,
}


def to_report(
    group: link.WantedGroup,
    *,
    stage: steps.Stage,
    history: histories.History,
    seen: ports.SeenPod,
    status: models.PodStatus | None,
    start: tuple[link.StartStep, ...] = (),
) -> link.GroupReport:
    """Without a status (the pod is not known yet, as after a restart with the API server away) what the
    runtime shows is told.
    """
    sandbox = records.current_sandbox(seen)
    reason, message = (status.reason, status.message) if status is not None else ("", "")
    if not reason and status is not None:
        reason, message = _waiting(status)
    return link.GroupReport(
        group_id=group.group_id,
        generation=group.generation,
        phase=_to_phase(stage, history, seen, status),
        address=(status.pod_ip if status else "") or (sandbox.address if sandbox else ""),
        pod_uid=seen.pod_uid,
        reason=reason,
        message=message,
        start=start,
    )


def _to_phase(
    stage: steps.Stage,
    history: histories.History,
    seen: ports.SeenPod,
    status: models.PodStatus | None,
) -> link.Phase:
    if stage is steps.Stage.GONE:
        return link.Phase.GONE
    if status is None:
        return link.Phase.RUNNING if records.live_containers(seen) else link.Phase.PENDING
    if status.phase == "Pending" and history.pulling:
        return link.Phase.IMAGE_PULLING
    return _PHASES.get(status.phase, link.Phase.PENDING)


def _waiting(status: models.PodStatus) -> tuple[str, str]:
    """The first container's trouble, if there is any."""
    for one in status.all_containers:
        waiting = one.state.waiting
        if waiting is not None and waiting.reason not in {"ContainerCreating", "PodInitializing"}:
            return waiting.reason, waiting.message
    return "", ""
