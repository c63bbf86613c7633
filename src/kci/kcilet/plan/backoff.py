"""The kubelet's delays between attempts: 10 s, doubled up to 300 s, forgotten after a long good run.

Ported from client-go util/flowcontrol/backoff.go and pkg/kubelet (kubelet.go, images/image_manager.go),
Kubernetes 1.36. Times are Unix seconds given by the caller.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    initial_s: float
    cap_s: float

    @property
    def forget_after_s(self) -> float:
        return 2 * self.cap_s


RESTART = Limits(initial_s=10.0, cap_s=300.0)
IMAGE = Limits(initial_s=10.0, cap_s=300.0)
# What a kubelet tries again about every ten seconds we try sooner, because mostly somebody else's
# work is awaited (a ConfigMap to be made), and then as seldom as it does.
CONTAINER = Limits(initial_s=1.0, cap_s=10.0)
SANDBOX = Limits(initial_s=1.0, cap_s=60.0)
VOLUMES = Limits(initial_s=0.5, cap_s=122.0)
# The runtime is away, or has not done with an earlier try: it is mostly back within a second.
AWAY = Limits(initial_s=0.1, cap_s=10.0)
ENDING = Limits(initial_s=0.5, cap_s=30.0)


@dataclasses.dataclass(frozen=True)
class Delay:
    """A delay in force and when it was set."""

    delay_s: float
    set_at_s: float


def lengthen(delay: Delay | None, limits: Limits, *, event_at_s: float, now_s: float) -> Delay:
    """The delay after one more attempt; `event_at_s` is when the last one ended."""
    if delay is None or event_at_s - delay.set_at_s > limits.forget_after_s:
        return Delay(limits.initial_s, now_s)
    return Delay(min(delay.delay_s * 2, limits.cap_s), now_s)


def ends_at_s(delay: Delay | None, limits: Limits, *, event_at_s: float) -> float:
    """When the next attempt may be made after an event; 0 if at once."""
    if delay is None or event_at_s - delay.set_at_s > limits.forget_after_s:
        return 0.0
    return event_at_s + delay.delay_s
