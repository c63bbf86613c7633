"""Waiting for changes in a folder without asking again and again."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pathlib
import struct
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)

_MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE = 0x002, 0x008, 0x080, 0x100
_EVENT = struct.Struct("iIII")
_READ_BYTES = 16 << 10


class Watch:
    """Used as `with Watch(folder) as watch:`, in the event loop. OSError if the folder cannot be watched."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self._changed = asyncio.Event()
        self._was_closed = False

    def __enter__(self) -> Self:
        self._descriptor = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            mask = _MODIFY | _CLOSE_WRITE | _MOVED_TO | _CREATE
            _check(_libc.inotify_add_watch(self._descriptor, os.fsencode(self._folder), mask))
            asyncio.get_running_loop().add_reader(self._descriptor, self._on_readable)
        except OSError:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    async def wait(self, timeout_s: float) -> bool:
        """Until something changes since the last wait, or the time is over; whether something did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                _ = await self._changed.wait()
        has_changed = self._changed.is_set()
        self._changed.clear()
        return has_changed

    def take_closed(self) -> bool:
        """Whether a writer has closed a file since this was asked last."""
        was_closed, self._was_closed = self._was_closed, False
        return was_closed

    def _on_readable(self) -> None:
        try:
            events = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        position = 0
        while position < len(events):
            _, mask, _, name_bytes = _EVENT.unpack_from(events, position)
            position += _EVENT.size + name_bytes
            self._was_closed = self._was_closed or bool(mask & _CLOSE_WRITE)
        self._changed.set()


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
