"""A value that is read when somebody asks, and kept for a moment, so that many who ask cost one read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Whoever asks while a read goes on waits for that one. A failure is kept as well, as it is what the
    others would meet; a caller that leaves takes nothing from them: the next one in line reads.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], *, for_s: float) -> None:
        self._read = read
        self._for_s = for_s
        self._turn = asyncio.Lock()
        self._until_s = 0.0
        self._value: T | None = None
        self._failure: Exception | None = None

    async def get(self) -> T:
        """A value that was read no longer ago than it is kept."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._until_s:
                try:
                    self._value, self._failure = await self._read(), None
                except Exception as error:
                    self._value, self._failure = None, error
                    self._until_s = loop.time() + self._for_s
                    raise
                self._until_s = loop.time() + self._for_s
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            assert self._value is not None
            return self._value
