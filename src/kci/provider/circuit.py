"""Keeps calls from an endpoint that is down or lets us not in: all wait while one at a time looks whether
that is over. Pure.

    closed ──FAILURES_TO_OPEN in a row──► open ──any answer──► closed
                                          │  ▲
                                          └──┘ one probe each interval, from 1 s to 5 s

Whoever meets it open is told when to come again, spread over an interval, so that the endpoint is not met
by all at once when it is back. An answer that is an error is an answer; "try later" is none, nor is one that
refuses keys, clock or rights, as it would any call.
"""

from __future__ import annotations

import random

from kci.kit import backoff as backoffs

FAILURES_TO_OPEN = 3
# Never more often than once a second, whatever the chance.
PROBE = backoffs.Backoff(initial_s=1.25, cap_s=5.0, jitter=0.2)
# A service may ask for longer pauses than this; others than the one that asked look again by then.
LONGEST_PAUSE_S = 30.0


class Circuit:
    """Of one endpoint. `now_s` is any clock that only goes forward."""

    def __init__(self) -> None:
        self._failures = 0
        self._next_probe_s = 0.0
        self._interval_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES_TO_OPEN

    def ask(self, now_s: float) -> float:
        """0 if a call may go now (it is the probe then, if the circuit is open), else when to ask again."""
        if not self.is_open:
            return 0.0
        if now_s >= self._next_probe_s:
            self._next_probe_s = now_s + self._interval_s
            return 0.0
        return self._next_probe_s - now_s + self._interval_s * random.random()  # noqa: S311  (spreads load)

    def answered(self) -> None:
        self._failures = 0

    def failed(self, now_s: float, *, retry_after_s: float = 0.0) -> None:
        """No answer, or one that asks to come later."""
        self._failures += 1
        if self.is_open:
            self._interval_s = PROBE.delay_s(self._failures - FAILURES_TO_OPEN + 1)
            pause_s = max(self._interval_s, min(retry_after_s, LONGEST_PAUSE_S))
            self._next_probe_s = max(self._next_probe_s, now_s + pause_s)
