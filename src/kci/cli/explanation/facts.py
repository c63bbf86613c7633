"""What is known of a pod, from Kubernetes and from the KCI service."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping

from kci.contract import groups, starts
from kci.kube import models

VIRTUAL_LABEL, VIRTUAL = "type", "virtual-kubelet"
# The end of a name as client-go gives it: the moment in nanoseconds, which no other field has so exactly.
_MOMENT = re.compile(r"\.([0-9a-f]{15,16})$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    pod: models.Pod
    now: datetime.datetime
    # About the pod, oldest first. They live for an hour.
    events: tuple[models.Event, ...] = ()
    # The pod's; None: it is bound to none, or the node is gone.
    node: models.Node | None = None
    # All virtual ones, for a pod that is bound to none; None: they could not be listed.
    nodes: tuple[models.Node, ...] | None = ()
    # Signing requests that nobody has decided on: of that node, or those virtual ones; where there is no
    # virtual one, of nodes that are not in the cluster yet.
    requests: tuple[models.CertificateSigningRequest, ...] = ()
    # Whether the KCI service was asked for the pod's group.
    is_service_known: bool = False
    group: groups.ContainerGroup | None = None
    start: starts.GroupStart | None = None
    # Container -> the last lines of its log.
    logs: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # What could not be found out, each in a sentence.
    unknown: tuple[str, ...] = ()

    def told(self, *reasons: str) -> tuple[models.Event, ...]:
        return tuple(event for event in self.events if event.reason in reasons)


def moment_s(event: models.Event) -> float | None:
    """When it was first told, Unix seconds; to the microsecond where its name says so."""
    first_s = seconds(event.first_timestamp)
    found = _MOMENT.search(event.metadata.name)
    exact_s = int(found[1], 16) / 1e9 if found else None
    if exact_s is None or (first_s is not None and not first_s - 1 <= exact_s < first_s + 2):
        return first_s
    return exact_s


def seconds(text: str | None) -> float | None:
    """A metav1.Time in Unix seconds; None if absent or unreadable."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def condition(pod: models.Pod, kind: str) -> models.PodCondition | None:
    return next((one for one in pod.status.conditions if one.type == kind), None)


def is_ready(pod: models.Pod) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found.status == "True"


def is_virtual(node: models.Node) -> bool:
    return node.metadata.labels.get(VIRTUAL_LABEL) == VIRTUAL


def readiness(node: models.Node) -> models.NodeCondition | None:
    return next((one for one in node.status.conditions if one.type == "Ready"), None)


def troubled_containers(pod: models.Pod) -> list[tuple[str, bool]]:
    """Containers whose last words tell most, and whether those are of the run before."""
    found = []
    for one in pod.status.all_containers:
        ended, before = one.state.terminated, one.last_state.terminated
        if ended is not None and ended.exit_code:
            found.append((one.name, False))
        elif before is not None and before.exit_code and not one.ready:
            found.append((one.name, True))
    return found
