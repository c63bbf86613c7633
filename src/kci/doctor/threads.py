"""Blocking calls in threads that nobody waits for: one that hangs must not hold up the end of the program, as
those of asyncio's own pool would.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *args: object) -> T:
    """What the call returns or raises."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            value = call(*args)
        except BaseException as error:  # noqa: BLE001  (handed on)
            _tell(loop, result, functools.partial(result.set_exception, error))
        else:
            _tell(loop, result, functools.partial(result.set_result, value))

    threading.Thread(target=work, name="question", daemon=True).start()
    return await result


def _tell(loop: asyncio.AbstractEventLoop, result: asyncio.Future[T], settle: Callable[[], None]) -> None:
    def unless_given_up() -> None:
        if not result.done():
            settle()

    # The loop may have ended without us.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(unless_given_up)
