"""Which taints keep a pod away from a node, and what its owner writes so that they do not. Pure.

Ported from k8s.io/api v0.36 core/v1/toleration.go. Differs: the operators Lt and Gt, which are off unless a
cluster turns them on, match nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from kci.kube import models

# With PreferNoSchedule a pod comes if no other node has room.
_KEEPS_AWAY = frozenset({"NoSchedule", "NoExecute"})


def untolerated(pod: models.Pod, taints: Iterable[models.Taint]) -> list[models.Taint]:
    """The taints because of which the scheduler puts this pod elsewhere."""
    return [
        taint
        for taint in taints
        if taint.effect in _KEEPS_AWAY and not any(tolerates(one, taint) for one in pod.spec.tolerations)
    ]


def tolerates(toleration: models.Toleration, taint: models.Taint) -> bool:
    if toleration.effect not in {"", taint.effect} or toleration.key not in {"", taint.key}:
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.operator in {"", "Equal"} and toleration.value == taint.value


def remedy(taint: models.Taint) -> str:
    """What to add to the pod, as one line of YAML."""
    return f"{{key: {taint.key}, operator: Equal, value: {_quoted(taint.value)}, effect: {taint.effect}}}"


def message(taint: models.Taint) -> str:
    return (
        f"spec.tolerations: nothing tolerates the node's taint {to_text(taint)}, so the scheduler puts the "
        f"pod elsewhere; add {remedy(taint)}"
    )


def to_text(taint: models.Taint) -> str:
    """As `kubectl taint` takes it."""
    return f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"


def _quoted(value: str) -> str:
    # What YAML would not read as a text.
    plain = value[:1].isalpha() and value.lower() not in {"true", "false", "yes", "no", "on", "off", "null"}
    return value if plain else f'"{value}"'
