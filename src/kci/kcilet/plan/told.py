"""What we told of a pod, against what others wrote over it. Pure.

A status is made from what the server knows (statuses.py), so what somebody else overwrote there would be
lost: a terminal phase, a restart count of records that are gone, an address. What this kcilet told itself
therefore counts for more than what the server shows, as in a kubelet (status_manager.go, needsReconcile,
Kubernetes 1.36), and is written again. Two things are others' to say: conditions that are not ours, and
that a pod is over. After a restart of ours the server is all that is known.

Writing the same again is bounded, so that two who disagree do not write without end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import msgspec

from kci.kube import models
from kci.kube import status as kube_status

# After a repair the next one has this time to wait. The first is done at once.
REPAIR_AFTER_S = 60.0


def over(pod: models.Pod, told: models.PodStatus | None) -> models.Pod:
    """The pod with what we told last in place of what somebody wrote over it since."""
    if told is None:
        return pod
    server = pod.status
    if server.phase in kube_status.TERMINAL_PHASES and told.phase not in kube_status.TERMINAL_PHASES:
        # Somebody ended the pod, such as the virtual node: that is final.
        containers = server.container_statuses or told.container_statuses
        steps = server.init_container_statuses or told.init_container_statuses
        status = msgspec.structs.replace(
            server,
            container_statuses=_with_counts(containers, told),
            init_container_statuses=_with_counts(steps, told),
        )
        return msgspec.structs.replace(pod, status=status)
    status = msgspec.structs.replace(
        told,
        container_statuses=_with_counts(told.container_statuses, server),
        init_container_statuses=_with_counts(told.init_container_statuses, server),
        conditions=_conditions(server, told),
        qos_class=server.qos_class,
    )
    if told.phase == "Pending":
        # The virtual node takes back what it said before there was an instance.
        status = msgspec.structs.replace(status, reason=server.reason, message=server.message)
    return msgspec.structs.replace(pod, status=status)


def _with_counts(
    containers: tuple[models.ContainerStatus, ...], others: models.PodStatus
) -> tuple[models.ContainerStatus, ...]:
    """Restart counts at least as high as the others: they never fall, whoever wrote them."""
    counts = {one.name: one.restart_count for one in others.all_containers}
    return tuple(
        msgspec.structs.replace(one, restart_count=max(one.restart_count, counts.get(one.name, 0)))
        for one in containers
    )


def _conditions(server: models.PodStatus, told: models.PodStatus) -> tuple[models.PodCondition, ...]:
    ours = {one.type: one for one in told.conditions if one.type in kube_status.KUBELET_CONDITIONS}
    others = (one for one in server.conditions if one.type not in ours)
    return (*ours.values(), *others)


@dataclasses.dataclass(frozen=True)
class Accepted:
    """The last write that the server took."""

    wanted: models.PodStatus
    patch: Mapping[str, object]
    at_s: float
    is_repair: bool


def is_repair(last: Accepted | None, wanted: models.PodStatus) -> bool:
    """Whether the server took this status already, and shows another."""
    return last is not None and last.wanted == wanted


def earliest_s(last: Accepted | None, wanted: models.PodStatus, patch: Mapping[str, object]) -> float:
    """When the patch that leads to `wanted` may be written; 0.0 for at once."""
    if last is None or not is_repair(last, wanted):
        return 0.0
    # Just this patch was taken and had no effect: it will have none now.
    return last.at_s + REPAIR_AFTER_S if last.is_repair or last.patch == patch else 0.0
