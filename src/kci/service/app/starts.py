"""How groups start: which trace a start belongs to, and what the engine told of its steps.

Kept in memory alone. After a restart of the service a start that is under way goes on without its trace, and
the engine tells the steps of those that are over again.
"""

from __future__ import annotations

import contextlib

from kci.contract import ids
from kci.kit import observing
from kci.link import types as link


class Starts:
    """Holds something of a group until it is deleted: less than a kilobyte."""

    def __init__(self, tracer: observing.Tracer = observing.NO_TRACER) -> None:
        self._tracer = tracer
        # Of starts that are under way.
        self._traceparents: dict[ids.GroupId, str] = {}
        self._steps: dict[ids.GroupId, tuple[link.StartStep, ...]] = {}

    def begin(self, group_id: ids.GroupId, traceparent: str) -> None:
        if traceparent:
            self._traceparents[group_id] = traceparent

    def traceparent(self, group_id: ids.GroupId) -> str:
        """Empty once the start is over, and of one that is in no trace."""
        return self._traceparents.get(group_id, "")

    def working(
        self, group_id: ids.GroupId, name: str, *, kind: observing.Kind = observing.Kind.INTERNAL
    ) -> contextlib.AbstractContextManager[None]:
        """Around work for a group, which its trace shows while it starts."""
        parent = self._traceparents.get(group_id)
        if not parent:
            return contextlib.nullcontext()
        return observing.spanned(
            self._tracer.begin(name, parent=parent, kind=kind, attributes={"kci.group.id": group_id})
        )

    def note(self, report: link.GroupReport) -> None:
        """Take over what the engine tells; the caller knows that the group is not deleted."""
        if report.phase is link.Phase.GONE:
            self.forget(report.group_id)
            return
        if report.start:
            self._steps[report.group_id] = report.start
        if report.phase not in {link.Phase.PENDING, link.Phase.IMAGE_PULLING}:
            self._traceparents.pop(report.group_id, None)

    def steps(self, group_id: ids.GroupId) -> tuple[link.StartStep, ...]:
        """None while it starts, and of a start that the engine does not know any more."""
        return self._steps.get(group_id, ())

    def forget(self, group_id: ids.GroupId) -> None:
        self._traceparents.pop(group_id, None)
        self._steps.pop(group_id, None)
