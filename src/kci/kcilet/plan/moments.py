"""Times as the plan counts them: Unix seconds."""

from __future__ import annotations

import datetime

from kci.kit import clock

NANOSECONDS = 1_000_000_000


def seconds(nanoseconds: int) -> float:
    return nanoseconds / NANOSECONDS


def parse(text: str | None) -> float | None:
    """A metav1.Time; None if absent or unreadable."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def text(moment_s: float) -> str:
    return clock.to_rfc3339(datetime.datetime.fromtimestamp(moment_s, datetime.UTC))


def text_of_ns(nanoseconds: int) -> str | None:
    return text(nanoseconds // NANOSECONDS) if nanoseconds else None
