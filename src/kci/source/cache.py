"""Answers that are kept for a short time, each asked for once however many wait for it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclasses.dataclass
class _Entry(Generic[V]):
    lock: asyncio.Lock
    # (value, until when by the loop's clock)
    kept: tuple[V, float] | None = None


class Cache(Generic[K, V]):
    """At most `size` answers are kept; those that are too old go first."""

    def __init__(self, *, size: int = 1024) -> None:
        self._size = size
        self._entries: dict[K, _Entry[V]] = {}

    async def get(self, key: K, fetch: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        """The kept answer, or that of `fetch` (a value and for how many seconds it may be kept)."""
        loop = asyncio.get_running_loop()
        entry = self._entries.setdefault(key, _Entry(asyncio.Lock()))
        async with entry.lock:
            if entry.kept is not None and loop.time() < entry.kept[1]:
                return entry.kept[0]
            value, keep_s = await fetch()
            entry.kept = (value, loop.time() + keep_s)
        self._shrink(loop.time())
        return value

    def drop(self, key: K) -> None:
        _ = self._entries.pop(key, None)

    def _shrink(self, now_s: float) -> None:
        if len(self._entries) <= self._size:
            return
        free = [key for key, entry in self._entries.items() if not entry.lock.locked()]
        old = [key for key in free if (self._entries[key].kept or (None, 0.0))[1] <= now_s]
        for key in (old or free)[: max(len(old), len(self._entries) - self._size)]:
            del self._entries[key]
