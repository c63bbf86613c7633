"""Time as a value that is passed in: wall clock for stamps, the loop's clock for timers."""

from __future__ import annotations

import datetime
import re
from typing import Protocol

_NS = 1_000_000_000
# Seconds, fraction, zone.
RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


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


def parse_rfc3339_ns(text: str) -> int:
    """Unix nanoseconds; ValueError if it is no such time. Of a fraction the first nine digits count."""
    match = RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is no RFC 3339 time")
    seconds, fraction, zone = match.groups()
    moment = datetime.datetime.fromisoformat(seconds + zone.upper().replace("Z", "+00:00"))
    return int(moment.timestamp()) * _NS + int((fraction or "").ljust(9, "0"))
