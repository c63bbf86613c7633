"""The smallest patch of `pods/status` that makes the server's status say what ours says.

It is a strategic merge patch, as a kubelet's: conditions are merged by type, so those of others are never
overwritten, whatever version of them we know. `metadata.uid` is a precondition: a pod that was created
anew under the same name refuses the patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kci.kube import models

# Ours to write besides the conditions; the API's names.
_FIELDS = (
    "phase",
    "observedGeneration",
    "reason",
    "message",
    "hostIP",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
)


def to_patch(
    pod: models.Pod, status: models.PodStatus, annotations: Mapping[str, str]
) -> dict[str, Any] | None:
    """The patch from the pod as the server knows it; None if it says all this already."""
    before, after = models.to_json_types(pod.status), models.to_json_types(status)
    changes = {field: after.get(field) for field in _FIELDS if before.get(field) != after.get(field)}
    if "hostIP" in changes:
        changes["hostIPs"] = [{"ip": changes["hostIP"]}]
    conditions = _changed_conditions(pod.status, status)
    if conditions:
        changes["conditions"] = conditions
    metadata: dict[str, Any] = {"uid": pod.metadata.uid}
    missing = {key: text for key, text in annotations.items() if pod.metadata.annotations.get(key) != text}
    if missing:
        metadata["annotations"] = missing
    if not changes and not missing:
        return None
    return {"metadata": metadata, "status": changes} if changes else {"metadata": metadata}


def _changed_conditions(before: models.PodStatus, after: models.PodStatus) -> list[dict[str, Any]]:
    known = {one.type: one for one in before.conditions}
    changed = []
    for condition in after.conditions:
        old = known.get(condition.type)
        if old == condition:
            continue
        told = models.to_json_types(condition)
        for field in ("reason", "message"):
            # Merging keeps what is not named: a former reason has to be taken back.
            if old is not None and getattr(old, field) and not told.get(field):
                told[field] = None
        changed.append(told)
    return changed
