"""The metrics of kcilet: what there is, and where it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from kci.kcilet.workers import machine
from kci.kit import metrics, observing


@dataclasses.dataclass(frozen=True)
class Instruments:
    registry: metrics.Registry
    machine: machine.Observers
    on_cri_call: observing.OnCall
    on_kube_call: observing.OnCall
    watch_restart: observing.OnCount


def make(*, pods: Callable[[], float] = lambda: 0.0) -> Instruments:
    """`pods` says how many pods are worked on now."""
    registry = metrics.Registry("kcilet")
    registry.gauge("pods", "Pods of which something is here, or is to be", pods)
    watch_restart = registry.counter(
        "watch_restarts", "Watches that broke or fell silent, by what they watch", ("resource",)
    )
    return Instruments(
        registry,
        machine.Observers(
            start_phase=registry.histogram(
                "pod_start_seconds",
                "From when a pod was first wanted here to when it had its sandbox (sandbox) and its first"
                " container ran (started)",
                ("phase",),
                buckets_s=metrics.START_BUCKETS_S,
            ),
            probe=registry.counter(
                "probes",
                "Checks of containers' health, by what they came to (successful, failed, unknown)",
                ("probe", "result"),
            ),
            orphan=registry.counter("orphans", "Pods that no group wants, which were removed"),
            watch_restart=watch_restart,
        ),
        registry.calls("cri_call_seconds", "Calls to the container runtime, events apart", "call"),
        registry.calls("kube_call_seconds", "Calls to users' API servers, watches apart", "method"),
        watch_restart,
    )
