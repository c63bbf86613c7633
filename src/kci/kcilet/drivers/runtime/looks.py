"""Looks at many pods at once: all that ask while one look is under way share the next one.

After a start or in a burst everybody looks, and the runtime's lists cost as much for one pod as for all.
A look that is shared begins after each of those who share it asked, so nobody gets an older one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kci.kcilet import ports
from kci.kube import models

T = TypeVar("T")


class _Look(Generic[T]):
    def __init__(self) -> None:
        self.at: set[models.PodUid] = set()
        self.seen: T | None = None
        self.error: ports.DriverError | None = None


class Looks(Generic[T]):
    """`look` is given the pods that somebody waits for."""

    def __init__(self, look: Callable[[frozenset[models.PodUid]], Awaitable[T]]) -> None:
        self._look = look
        self._next: _Look[T] = _Look()
        self._gate = asyncio.Lock()

    async def at(self, pod_uid: models.PodUid) -> T:
        """What is seen from now on, of this pod and of others."""
        look = self._next
        look.at.add(pod_uid)
        async with self._gate:
            if look.seen is None and look.error is None:
                # The first of those who wait looks for all of them.
                self._next = _Look()
                try:
                    look.seen = await self._look(frozenset(look.at))
                except ports.DriverError as error:
                    look.error = error
        if look.error is not None:
            raise look.error
        assert look.seen is not None
        return look.seen
