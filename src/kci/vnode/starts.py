"""How long pods take to come up, from when this node first sees them, step by step.

Seen is where the time begins; a pod that runs already when it is first seen is none that starts here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from kci.kit import observing
from kci.kube import models


class Step(enum.StrEnum):
    """In their order."""

    # The create call goes out.
    CREATED = "created"
    # It is answered.
    ACKNOWLEDGED = "acknowledged"
    # The pod's status says that it runs, or ran.
    STARTED = "started"
    READY = "ready"


class Starts:
    """`tell` gets the seconds since the pod was seen, and the step; each once for a pod."""

    def __init__(self, tell: observing.OnTime, *, now_s: Callable[[], float]) -> None:
        self._tell = tell
        self._now_s = now_s
        self._seen_s: dict[models.PodUid, float] = {}
        self._reached: dict[models.PodUid, set[Step]] = {}

    def saw(self, pod: models.Pod) -> None:
        """The pod is there, or changed."""
        has_begun = pod.status.phase not in {"", "Pending"}
        if pod.uid not in self._seen_s:
            if has_begun or pod.metadata.deletion_timestamp:
                return
            self._seen_s[pod.uid], self._reached[pod.uid] = self._now_s(), set()
        if has_begun:
            self.reached(pod.uid, Step.STARTED)
        if any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions):
            self.reached(pod.uid, Step.READY)

    def reached(self, uid: models.PodUid, step: Step) -> None:
        if uid in self._seen_s and step not in self._reached[uid]:
            self._reached[uid].add(step)
            self._tell(self._now_s() - self._seen_s[uid], step.value)

    def forget(self, uid: models.PodUid) -> None:
        _ = self._seen_s.pop(uid, None)
        _ = self._reached.pop(uid, None)
