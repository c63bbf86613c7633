"""Two samples of what pods use, and what follows from them: rates, and the node's own counter. Pure.

A rate is what was used between two samples, by the time between them (kubelet's
pkg/kubelet/stats/cri_stats_provider.go, getAndUpdateContainerUsageNanoCores, 1.36): none without an earlier
sample, of no time, or of a counter that began anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from kci.kube import models
from kci.vnode import provider

_NS = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Sample:
    """What all pods of the node had used when it was taken."""

    time_ns: int
    pods: Mapping[models.PodUid, provider.PodUsage] = dataclasses.field(default_factory=dict)
    # What all pods that the node has had used together: it never goes back when one of them goes.
    node_cpu_core_ns: int = 0
    # What of each pod is counted in it; also of pods that this sample misses and that may come back.
    counted: Mapping[models.PodUid, int] = dataclasses.field(default_factory=dict)


def next_sample(
    before: Sample | None,
    found: Sequence[provider.PodUsage],
    *,
    time_ns: int,
    known: Collection[models.PodUid],
) -> Sample:
    """`known` are the pods that the node has; it may lack some of those found, for a moment or for good."""
    kept = {*known, *(pod.pod_uid for pod in found)}
    counted = {} if before is None else {uid: of for uid, of in before.counted.items() if uid in kept}
    total = 0 if before is None else before.node_cpu_core_ns
    for pod in found:
        now, then = pod.usage.cpu_core_ns, counted.get(pod.pod_uid, 0)
        total += now - then if now >= then else now
        counted[pod.pod_uid] = now
    return Sample(
        time_ns=time_ns,
        pods={pod.pod_uid: pod for pod in found},
        node_cpu_core_ns=total,
        counted=counted,
    )


def pod_rate(before: Sample | None, now: provider.PodUsage) -> int | None:
    """In billionths of a core."""
    earlier = None if before is None else before.pods.get(now.pod_uid)
    return None if earlier is None else _rate_of(earlier.usage, now.usage)


def container_rate(before: Sample | None, pod: provider.PodUsage, now: provider.ContainerUsage) -> int | None:
    earlier = None if before is None else before.pods.get(pod.pod_uid)
    for one in () if earlier is None else earlier.containers:
        if (one.name, one.started_at_ns) == (now.name, now.started_at_ns):
            return _rate_of(one.usage, now.usage)
    return None


def node_rate(before: Sample | None, now: Sample) -> int | None:
    if before is None:
        return None
    return _rate(before.node_cpu_core_ns, now.node_cpu_core_ns, now.time_ns - before.time_ns)


def _rate_of(before: provider.Usage, now: provider.Usage) -> int | None:
    return _rate(before.cpu_core_ns, now.cpu_core_ns, now.time_ns - before.time_ns)


def _rate(before: int, now: int, passed_ns: int) -> int | None:
    if passed_ns <= 0 or now < before:
        return None
    return (now - before) * _NS // passed_ns
