"""How one pod's start goes: noted step by step, for the trace that it belongs to and for its report.

It begins when the group is wanted and is over when a status that says more than Pending is written. A pod
that ran before we knew of it has no start, and what is started again later is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from kci.kcilet import ports
from kci.kcilet.plan import actions, starts
from kci.kit import observing
from kci.kube import models
from kci.link import types as link


class Start:
    """A worker's. Nothing of it is kept over a restart of ours."""

    def __init__(
        self,
        uid: models.PodUid,
        group: link.WantedGroup | None,
        tracer: observing.Tracer,
        now_s: Callable[[], float],
    ) -> None:
        # What the report tells, once all of it is known.
        self.told: tuple[link.StartStep, ...] = ()
        self._uid = uid
        self._group = group
        self._tracer = tracer
        self._now_s = now_s
        self._began_s = now_s()
        self._spells: Mapping[starts.Step, starts.Spell] = {}
        self._span = observing.NO_SPAN
        self._pod: models.Pod | None = None
        self._seen = ports.SeenPod(pod_uid=uid)
        self._is_over = group is None

    def know(self, pod: models.Pod) -> None:
        """The pod is known."""
        if self._pod is None and not self._is_over:
            self._spells = {starts.Step.KNOWN: (self._began_s, self._now_s())}
        self._pod = pod

    def look(self, seen: ports.SeenPod) -> None:
        """Take in what is there of the pod."""
        self._seen = seen
        if not self._is_over and starts.has_run_before(seen, self._began_s):
            self._end("RanBefore")

    @contextlib.contextmanager
    def acting(self, action: actions.Action) -> Iterator[None]:
        """Around an action."""
        step = None if self._is_over else starts.step_of(action, self._pod)
        if step is None:
            yield
            return
        if not self._spells.keys() - {starts.Step.KNOWN}:
            self._open_span()
        container = starts.container_of(action)
        attributes = {"k8s.container.name": container} if container else observing.NONE
        began_s = self._now_s()
        try:
            with observing.spanned(self._span.child(_NAMES[step], attributes=attributes)):
                yield
        finally:
            self._spells = starts.lengthened(self._spells, step, (began_s, self._now_s()))

    @contextlib.contextmanager
    def telling(self, status: models.PodStatus) -> Iterator[None]:
        """Around writing this status."""
        if self._is_over:
            yield
            return
        began_s = self._now_s()
        with observing.spanned(self._span.child(_NAMES[starts.Step.TOLD])):
            yield
        if status.phase in {"", "Pending"}:
            return
        if starts.Step.STARTED in self._spells and self._pod is not None:
            spells = starts.with_init_ends(self._spells, self._pod, self._seen)
            self.told = starts.to_link({**spells, starts.Step.TOLD: (began_s, self._now_s())})
        self._end(observing.OK)

    def give_up(self) -> None:
        """Nobody works on the pod any more."""
        self._end("GivenUp")

    def _open_span(self) -> None:
        """With the first action, and as long as the start: of a pod that runs already there is none."""
        assert self._group is not None
        if self._span is not observing.NO_SPAN:
            return
        self._span = self._tracer.begin(
            "run pod",
            parent=self._group.traceparent,
            since_s=self._began_s,
            attributes={
                "k8s.namespace.name": self._group.namespace,
                "k8s.pod.name": self._group.pod_name,
                "k8s.pod.uid": self._uid,
                "kci.group.id": self._group.group_id,
            },
        )
        self._span.child(_NAMES[starts.Step.KNOWN], since_s=self._began_s).end()

    def _end(self, code: str) -> None:
        self._is_over = True
        self._span.end(code)
        self._span = observing.NO_SPAN


_NAMES = {
    starts.Step.KNOWN: "read pod",
    starts.Step.VOLUMES: "prepare volumes",
    starts.Step.IMAGE: "ensure image",
    starts.Step.SANDBOX: "run sandbox",
    starts.Step.INIT: "start container",
    starts.Step.STARTED: "start container",
    starts.Step.TOLD: "write status",
}
