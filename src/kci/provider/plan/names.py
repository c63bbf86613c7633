"""A group's name carries the pod's UID, so that a second look finds it even where labels carry none; save
where the name must be the same for the next pod, because a retained address hangs on it.
"""

from __future__ import annotations

import re

from kci.contract import groups
from kci.kube import models

_UID_AT_END = re.compile(r"-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\Z")


def to_name(pod: models.Pod) -> str:
    """`<namespace>-<pod name, cut>-<pod UID>`, at most 128 characters, of which the UID is never cut."""
    meta = pod.metadata
    room = groups.MAX_NAME_LENGTH - len(meta.uid) - 1
    return f"{f'{meta.namespace}-{meta.name}'[:room].rstrip('-.')}-{meta.uid}"


def to_stable_name(pod: models.Pod) -> str:
    """`<namespace>.<pod name>`: that of the next pod of the same name, too. Only for a service whose labels
    carry the UID, as nothing else tells the two pods' groups apart.
    """
    return f"{pod.metadata.namespace}.{pod.metadata.name}"


def to_uid(name: str) -> models.PodUid | None:
    """The UID in a group's name; None if the name is not one of ours."""
    match = _UID_AT_END.search(name)
    return models.PodUid(match[1]) if match else None
