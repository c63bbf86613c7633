"""The metrics of kci serve: what there is, and where it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from kci.kit import metrics, observing


@dataclasses.dataclass(frozen=True)
class Instruments:
    registry: metrics.Registry
    on_call: observing.OnCall
    queue_taken: observing.OnTime
    queue_worked: observing.OnCall
    engine_lost: observing.OnCount


def make(*, queue_depth: Callable[[], float] = lambda: 0.0) -> Instruments:
    """`queue_depth` says how many groups wait or are worked on now."""
    registry = metrics.Registry("service")
    registry.gauge("queue_depth", "Groups that wait for the engine, or are worked on now", queue_depth)
    return Instruments(
        registry,
        registry.calls("call_seconds", "Calls that were answered, streams apart", "action"),
        registry.histogram(
            "queue_wait_seconds", "How long a group waited for a worker", buckets_s=metrics.CALL_BUCKETS_S
        ),
        registry.calls("queue_work_seconds", "Work on a group, and how it ended", "queue"),
        registry.counter("engine_restarts", "How often the line of the engine's reports broke"),
    )
