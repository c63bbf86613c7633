"""Tells watchers of each change of a group, as a whole state.

What a slow watcher has not taken yet is kept once per group, the newest state only: that bounds its
memory, and losing the states between does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from kci.contract import errors, ids
from kci.service.domain import groups

_MAX_WATCHERS = 1000


class FeedClosedError(Exception):
    """The service stops."""


class Subscription:
    """One watcher's changes that it has not taken yet."""

    def __init__(self, wants: Callable[[groups.Group], bool]) -> None:
        self.wants = wants
        self.closed = False
        self._pending: dict[ids.GroupId, groups.Group] = {}
        self._changed = asyncio.Event()

    def put(self, group: groups.Group) -> None:
        known = self._pending.get(group.group_id)
        if known is None or known.revision < group.revision:
            self._pending[group.group_id] = group
            self._changed.set()

    def close(self) -> None:
        self.closed = True
        self._changed.set()

    def forget_until(self, seen: groups.Group) -> None:
        """Drop what is not newer than this state of the group."""
        known = self._pending.get(seen.group_id)
        if known is not None and known.revision <= seen.revision:
            del self._pending[seen.group_id]

    async def take(self, timeout_s: float | None = None) -> list[groups.Group]:
        """All changes that wait, after the first there is; none if the time is over. FeedClosedError at
        the service's end.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._pending and not self.closed:
                    self._changed.clear()
                    await self._changed.wait()
        if self.closed:
            raise FeedClosedError
        taken = list(self._pending.values())
        self._pending.clear()
        return taken


class Feed:
    """All watchers."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def publish(self, group: groups.Group) -> None:
        for subscription in self._subscriptions:
            if subscription.wants(group):
                subscription.put(group)

    @contextlib.contextmanager
    def subscribe(self, wants: Callable[[groups.Group], bool]) -> Iterator[Subscription]:
        if len(self._subscriptions) >= _MAX_WATCHERS or self._closed:
            raise errors.ApiError(errors.TOO_MANY_REQUESTS, "cannot watch: too many watch already")
        subscription = Subscription(wants)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
