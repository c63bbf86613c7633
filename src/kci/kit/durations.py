"""Spans of time as Go writes them ("1m", "1h30m", "1.5s"), for settings that others have named before us."""

from __future__ import annotations

import re

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)"
_WHOLE = re.compile(f"(?:{_PART})+", re.ASCII)


def to_seconds(text: str) -> float:
    """Seconds; ValueError if it is no such span. 0 needs no unit; none is negative."""
    if text == "0":
        return 0.0
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is no span of time such as 30s, 5m or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, text))
