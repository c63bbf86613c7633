"""What a pod's traffic is limited to. Pure.

The pod's annotations count while it runs, as they are now; where it has none, what its group was made with.
"""

from __future__ import annotations

from kci.kcilet import ports
from kci.kube import bandwidth, errors, models
from kci.link import types as link


def limits_of(pod: models.Pod, group: link.WantedGroup) -> tuple[ports.TrafficLimits, list[str]]:
    """The limits, and in words which annotations say nothing that could be held."""
    problems: list[str] = []

    def bits(key: str, made_with: int) -> int:
        text = pod.metadata.annotations.get(key)
        if text is None:
            return made_with
        try:
            return bandwidth.parse(text)
        except errors.InvalidError as error:
            known = f"{made_with} bits per second, as before" if made_with else "no limit"
            problems.append(f"the annotation {key} has no effect: {error}; there is {known}")
            return made_with

    limits = ports.TrafficLimits(
        ingress_bits=bits(bandwidth.INGRESS, group.ingress_bits),
        egress_bits=bits(bandwidth.EGRESS, group.egress_bits),
    )
    return limits, problems
