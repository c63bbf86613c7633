"""Delays between attempts. Pure: the caller keeps the count and does the waiting."""

from __future__ import annotations

import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Exponential delays: `initial_s`, then times `factor` each, never above `cap_s`.

    `jitter` is the share of a delay that is random (0 none, 1 full), so that many that failed
    together do not come back together. A retry has no last attempt: only the delay has a limit.
    """

    initial_s: float = 0.2
    factor: float = 2.0
    cap_s: float = 300.0
    jitter: float = 0.2

    def delay_s(self, failures: int) -> float:
        """The delay after this many failures in a row (1 or more)."""
        exponent = min(max(failures - 1, 0), 64)
        full = min(self.cap_s, self.initial_s * self.factor**exponent)
        return full * (1 - self.jitter * random.random())  # noqa: S311  (spreads load, guards nothing)
