"""When a stream should end though nobody says so: nothing has moved on it for too long."""

from __future__ import annotations

import asyncio


class Activity:
    """When data moved last. Pings do not count: they say that a program runs, not that anyone uses it."""

    def __init__(self) -> None:
        self._moved_s = asyncio.get_running_loop().time()

    def touch(self) -> None:
        self._moved_s = asyncio.get_running_loop().time()

    async def idle(self, timeout_s: float) -> None:
        """Returns once nothing has moved for so long."""
        loop = asyncio.get_running_loop()
        # An event set by each movement would cost more than waking up once per timeout.
        while (left_s := self._moved_s + timeout_s - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)
