"""Time as a value that is passed in: wall clock for stamps, the loop's clock for timers."""

from __future__ import annotations

import datetime
from typing import Protocol


class Clock(Protocol):
    """The wall clock. Timers use the event loop's own monotonic time, never this."""

    def now(self) -> datetime.datetime:
        """The time now, in UTC."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)


def to_rfc3339(moment: datetime.datetime) -> str:
    """Kubernetes' metav1.Time: UTC, whole seconds."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_rfc3339_micro(moment: datetime.datetime) -> str:
    """Kubernetes' metav1.MicroTime: UTC, microseconds."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
