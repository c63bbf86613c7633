"""How long pods take to come up, from when this node first sees them, step by step.

Seen is where the time begins; a pod that runs already when it is first seen is none that starts here. A start
is the trace's first span as well, which ends when the pod runs.
"""

from __future__ import annotations

import contextlib
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

    def __init__(
        self,
        tell: observing.OnTime,
        *,
        now_s: Callable[[], float],
        tracer: observing.Tracer = observing.NO_TRACER,
    ) -> None:
        self._tell = tell
        self._now_s = now_s
        self._tracer = tracer
        # Of starts that are traced and under way.
        self._spans: dict[models.PodUid, observing.Span] = {}
        self._seen_s: dict[models.PodUid, float] = {}
        self._reached: dict[models.PodUid, set[Step]] = {}

    def saw(self, pod: models.Pod) -> None:
        """The pod is there, or changed."""
        has_begun = pod.status.phase not in {"", "Pending"}
        if pod.uid not in self._seen_s:
            if has_begun or pod.metadata.deletion_timestamp:
                return
            self._seen_s[pod.uid], self._reached[pod.uid] = self._now_s(), set()
            self._spans[pod.uid] = self._tracer.begin("start pod", attributes=_attributes(pod))
        if has_begun:
            self.reached(pod.uid, Step.STARTED)
        if any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions):
            self.reached(pod.uid, Step.READY)

    def reached(self, uid: models.PodUid, step: Step) -> None:
        if uid in self._seen_s and step not in self._reached[uid]:
            self._reached[uid].add(step)
            self._tell(self._now_s() - self._seen_s[uid], step.value)
            if step is Step.STARTED:
                self._end_span(uid, observing.OK)

    def since_s(self, uid: models.PodUid) -> float | None:
        """How long ago the pod was first seen; None of one that does not start here."""
        return self._now_s() - self._seen_s[uid] if uid in self._seen_s else None

    def within(self, uid: models.PodUid) -> contextlib.AbstractContextManager[None]:
        """Around what is done for the pod's start, so that its trace shows it."""
        return observing.within(self._spans.get(uid, observing.NO_SPAN))

    def forget(self, uid: models.PodUid) -> None:
        _ = self._seen_s.pop(uid, None)
        _ = self._reached.pop(uid, None)
        self._end_span(uid, "PodGone")

    def close(self) -> None:
        """Tell of starts that are under way as far as they came, because this node stops."""
        for uid in list(self._spans):
            self._end_span(uid, "NodeStopped")

    def _end_span(self, uid: models.PodUid, code: str) -> None:
        self._spans.pop(uid, observing.NO_SPAN).end(code)


def _attributes(pod: models.Pod) -> observing.Attributes:
    return {
        "k8s.namespace.name": pod.metadata.namespace,
        "k8s.pod.name": pod.metadata.name,
        "k8s.pod.uid": pod.uid,
        "k8s.node.name": pod.spec.node_name,
    }


def created_message(instance_id: str, took_s: float, since_s: float | None) -> str:
    """The text of the Event, from which `kci explain` reads the times again."""
    after = "" if since_s is None else f" ({1000 * since_s:.0f}ms after the pod was seen)"
    return f"Created instance {instance_id} in {1000 * took_s:.0f}ms{after}"
