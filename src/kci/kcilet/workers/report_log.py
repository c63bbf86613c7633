"""The newest report of each group, for any number of subscribers."""

from __future__ import annotations

import asyncio
import collections
import contextlib

from kci.contract import ids
from kci.link import types as link

# Reports of groups that are gone and that nobody asks for any more.
REMEMBERED_GONE = 1000


class ReportLog:
    """A subscriber that is slow skips states, never groups: what it gets is always the newest."""

    def __init__(self) -> None:
        self._reports: dict[ids.GroupId, tuple[int, link.GroupReport]] = {}
        self._gone: collections.OrderedDict[ids.GroupId, None] = collections.OrderedDict()
        self._version = 0
        self._changed = asyncio.Event()

    def get(self, group_id: ids.GroupId) -> link.GroupReport | None:
        return self._reports[group_id][1] if group_id in self._reports else None

    def put(self, report: link.GroupReport) -> None:
        """Tell a report, unless it says what the last one said."""
        if self.get(report.group_id) == report:
            return
        self._version += 1
        # Anew at the end: subscribers read from the end back to what they know.
        _ = self._reports.pop(report.group_id, None)
        self._reports[report.group_id] = (self._version, report)
        _ = self._gone.pop(report.group_id, None)
        if report.phase is link.Phase.GONE:
            self._gone[report.group_id] = None
            if len(self._gone) > REMEMBERED_GONE:
                oldest, _ = self._gone.popitem(last=False)
                del self._reports[oldest]
        self._changed.set()
        self._changed = asyncio.Event()

    async def after(self, known: int, *, timeout_s: float) -> tuple[int, list[link.GroupReport]]:
        """What is newer than a version (0: all), and the version that this is; waits for something new,
        but returns nothing when nothing came in time.
        """
        if self._version <= known:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    _ = await self._changed.wait()
        return self._version, self._since(known)

    def _since(self, known: int) -> list[link.GroupReport]:
        news = []
        for version, report in reversed(self._reports.values()):
            if version <= known:
                break
            news.append(report)
        return news[::-1]
