"""Who is told of what this node does, to measure and trace it; main.py gives them."""

from __future__ import annotations

import dataclasses

from kci.kit import observing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observers:
    # How long a pod was ready to be looked at before a worker took it, and each look.
    queue_taken: observing.OnTime = observing.no_time
    queue_worked: observing.OnCall = observing.no_call
    # How long after a pod was first seen it reached this (starts.py).
    start_phase: observing.OnTime = observing.no_time
    orphan: observing.OnCount = observing.no_count
    watch_restart: observing.OnCount = observing.no_count
    # Of pods' starts.
    tracer: observing.Tracer = observing.NO_TRACER


NOBODY = Observers()
"""Nobody measures."""
