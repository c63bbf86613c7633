"""Waiting for changes in folders without asking again and again.

One inotify instance for the whole program: a user may have few (128 by default), and watches in plenty.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pathlib
import struct
from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)

_MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE = 0x002, 0x008, 0x080, 0x100
_MASK = _MODIFY | _CLOSE_WRITE | _MOVED_TO | _CREATE
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 << 10


class Watch:
    """What happens in one folder, for one who waits."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._was_closed = False

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

    def note(self, mask: int) -> None:
        self._was_closed = self._was_closed or bool(mask & _CLOSE_WRITE)
        self._changed.set()


class Watcher:
    """Open for as long as anybody watches; used in one event loop."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._watches: dict[int, list[Watch]] = {}

    @contextlib.contextmanager
    def watching(self, folder: pathlib.Path) -> Iterator[Watch]:
        """OSError if the folder cannot be watched."""
        if not self._watches:
            self._open()
        watch = Watch()
        try:
            # The same folder gives the same number again.
            number = _check(_libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _MASK))
            self._watches.setdefault(number, []).append(watch)
            try:
                yield watch
            finally:
                self._leave(number, watch)
        finally:
            if not self._watches:
                self._close()

    def _leave(self, number: int, watch: Watch) -> None:
        watches = self._watches[number]
        watches.remove(watch)
        if not watches:
            del self._watches[number]
            # An error says that the folder is gone already.
            _libc.inotify_rm_watch(self._descriptor, number)

    def _open(self) -> None:
        self._descriptor = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_readable)

    def _close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _on_readable(self) -> None:
        try:
            events = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        position = 0
        while position < len(events):
            number, mask, _, name_bytes = _EVENT.unpack_from(events, position)
            position += _EVENT.size + name_bytes
            # Without a number events were lost: then anything may have happened.
            numbers = [number] if number >= 0 else list(self._watches)
            for watch in (watch for one in numbers for watch in self._watches.get(one, ())):
                watch.note(mask)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
