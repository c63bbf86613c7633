"""The supervisor's account of itself: one value, written to `state.json` at each change."""

from __future__ import annotations

import asyncio
import datetime
import threading
from typing import Any

import msgspec
import structlog

from kci.kit import backoff, clock, tasks
from kci.stack import layout, parts, record

log = structlog.get_logger(__name__)
AGAIN = backoff.Backoff(initial_s=0.5, cap_s=10.0)


class Board:
    """Changes are made here and nowhere else. `run` writes them; a burst becomes one write."""

    def __init__(self, where: layout.Layout, state: record.State) -> None:
        self._where = where
        self._latest = tasks.Latest(state)
        self._writing = threading.Lock()

    @property
    def state(self) -> record.State:
        return self._latest.value

    def update(self, **changes: Any) -> None:
        self._latest.set(msgspec.structs.replace(self.state, **changes))

    def update_part(self, part: parts.Part, **changes: Any) -> None:
        before = self.state.part(part)
        after = msgspec.structs.replace(before, **changes)
        if after.state != before.state:
            log.info("part changed", part=part, before=before.state, now=after.state, detail=after.detail)
        others = self.state.parts
        if all(other.name != part for other in others):
            self.update(parts=(*others, after))
            return
        self.update(parts=tuple(after if other.name == part else other for other in others))

    def note_changes(self, **changes: Any) -> None:
        """Note what will have to be put back; write it before it is done."""
        self.update(changes=msgspec.structs.replace(self.state.changes, **changes))

    async def run(self) -> None:
        """Write for ever. A full disk ends nothing: what is to be told waits until it can be."""
        async for _ in self._latest.changes():
            failures = 0
            while problem := await tasks.in_thread(self._try_write):
                failures += 1
                log.warning("state not written", file=str(self._where.state), error=problem)
                await asyncio.sleep(AGAIN.delay_s(failures))

    def _try_write(self) -> str:
        """Empty, or why not."""
        try:
            self.write()
        except OSError as error:
            return str(error)
        return ""

    def write(self) -> None:
        # Taken inside the lock, so that of two writers the later one writes the newer state.
        with self._writing:
            record.write(self._where.state, self.state)


def new_state(
    run_id: str, previous: record.State | None, supervisor: record.ProcessId | None
) -> record.State:
    """A run's first account. What an earlier run of this boot started or changed is still there."""
    fresh = record.State(
        run_id=run_id,
        boot_id=record.boot_id(),
        state=record.StackState.STARTING,
        supervisor=supervisor,
        started_at=clock.to_rfc3339(datetime.datetime.now(datetime.UTC)),
    )
    if previous is None:
        return fresh
    same_boot = previous.boot_id == fresh.boot_id
    return msgspec.structs.replace(
        previous,
        run_id=run_id,
        boot_id=fresh.boot_id,
        state=fresh.state,
        supervisor=supervisor,
        started_at=fresh.started_at,
        started_in_s=None,
        failure="",
        failure_log=(),
        changes=previous.changes
        if same_boot
        else record.Changes(node_registered=previous.changes.node_registered),
        parts=tuple(part for part in previous.parts if part.process) if same_boot else (),
    )
