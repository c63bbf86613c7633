"""The metrics of virtual-kubelet: what there is, and where it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from kci.kit import metrics, observing
from kci.vnode import observers


@dataclasses.dataclass(frozen=True)
class Instruments:
    registry: metrics.Registry
    node: observers.Observers
    on_kube_call: observing.OnCall
    on_kci_call: observing.OnCall

    def traced_by(self, tracer: observing.Tracer) -> Instruments:
        return dataclasses.replace(self, node=dataclasses.replace(self.node, tracer=tracer))


def make(*, queue_depth: Callable[[], float] = lambda: 0.0) -> Instruments:
    """`queue_depth` says how many pods wait or are worked on now."""
    registry = metrics.Registry("virtual_kubelet")
    registry.gauge("queue_depth", "Pods that wait to be looked at, or are looked at now", queue_depth)
    return Instruments(
        registry,
        observers.Observers(
            queue_taken=registry.histogram(
                "queue_wait_seconds",
                "How long a pod waited for a worker",
                buckets_s=metrics.CALL_BUCKETS_S,
            ),
            queue_worked=registry.calls("queue_work_seconds", "Looks at a pod, and how they ended", "queue"),
            start_phase=registry.histogram(
                "pod_start_seconds",
                "From when a pod was first seen to when its create call went out (created), was answered"
                " (acknowledged), the pod ran (started) and was ready",
                ("phase",),
                buckets_s=metrics.START_BUCKETS_S,
            ),
            orphan=registry.counter("orphans", "Instances whose pods do not exist, which were removed"),
            watch_restart=registry.counter(
                "watch_restarts", "Watches that broke or fell silent, by what they watch", ("resource",)
            ),
        ),
        registry.calls("kube_call_seconds", "Calls to the API server, watches apart", "method"),
        registry.calls("kci_call_seconds", "Calls to the KCI API, streams apart", "action"),
    )
