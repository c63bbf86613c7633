"""Reading and following a container's log file.

Ported from k8s.io/cri-client pkg/logs (0.36). What differs: `--tail` counts a line once though the
runtime cut it into parts; a log that is not followed is read as long as it was when it was opened; and
what rotation has put aside last belongs to the log, so that its lines do not vanish at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import pathlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

from kci.kcilet import ports
from kci.kcilet.drivers.streams import files, inotify, lines
from kci.kit import clock, tasks
from kci.link import types as link

_READ_BYTES = 128 << 10
_TAIL_BLOCK_BYTES = 64 << 10
_NS = 1_000_000_000
# Changes wake us; this is for the end of a container, which changes no file the moment it is known.
_LOOK_AGAIN_S = 1.0
_LOOK_SOON_S = 0.05
_LAST_WRITES_S = 0.1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_FILE = re.compile(r"(\d{1,9})\.log")

IsWritten = Callable[[pathlib.Path], Awaitable[bool]]


async def read(
    log_directory: pathlib.Path,
    container_name: str,
    attempt: int | None,
    options: link.LogOptions,
    *,
    is_written: IsWritten,
    watcher: inotify.Watcher,
    now: datetime.datetime,
) -> AsyncGenerator[bytes, None]:
    """The first item is empty and says that the log is there; a silent one may have no other for long."""
    if not _NAME.fullmatch(container_name):
        raise ports.NotFoundError(
            f"cannot find container {container_name[:64]!r}: that is no container's name"
        )
    decoder = lines.Decoder(
        since_ns=_since_ns(options, now), timestamps=options.timestamps, limit_bytes=options.limit_bytes
    )
    folder = log_directory / container_name
    try:
        path = await tasks.in_thread(_choose_file, folder, attempt, options.previous)
        parts = (
            _follow(path, options.tail_lines, is_written, watcher)
            if options.follow
            else _once(path, options.tail_lines)
        )
        async with contextlib.aclosing(parts):
            yield await anext(parts)
            async for data in parts:
                shown = decoder.feed(data)
                if shown:
                    yield shown
                if decoder.is_done:
                    return
    except OSError as error:
        raise ports.DriverError(
            f"cannot read the log of container {container_name!r}: {error.strerror}"
        ) from error
    shown = decoder.end()
    if shown:
        yield shown


async def _once(path: pathlib.Path, tail_lines: int | None) -> AsyncGenerator[bytes, None]:
    async with _opened(path, tail_lines) as (opened, start):
        first, position = start
        ends = opened.sizes()
        yield b""
        for index in range(first, len(ends)):
            while position < ends[index]:
                size = min(_READ_BYTES, ends[index] - position)
                data = await tasks.in_thread(opened.read, index, size, position)
                if not data:
                    break
                position += len(data)
                yield data
            position = 0


async def _follow(
    path: pathlib.Path, tail_lines: int | None, is_written: IsWritten, watcher: inotify.Watcher
) -> AsyncGenerator[bytes, None]:
    """Until nobody writes the log any more and all of it was read."""
    async with _opened(path, tail_lines) as (opened, start):
        index, position = start
        # The watch comes first: what is written from here on wakes us.
        with watcher.watching(path.parent) as watch:
            yield b""
            patience_s = _LOOK_SOON_S
            is_over = not await is_written(path)
            while True:
                # Looked for before the file is read to its end, which is then its last; but the runtime has
                # a little left to write there when it makes the new one.
                has_next = await tasks.in_thread(opened.has_next, index, path)
                if has_next:
                    await asyncio.sleep(_LAST_WRITES_S)
                while data := await tasks.in_thread(opened.read, index, _READ_BYTES, position):
                    position += len(data)
                    yield data
                if has_next and await tasks.in_thread(opened.advance, index, path):
                    index, position = 0, 0
                    continue
                if is_over:
                    return
                has_changed = await watch.wait(patience_s)
                patience_s = _LOOK_SOON_S if watch.take_closed() else min(2 * patience_s, _LOOK_AGAIN_S)
                is_over = not has_changed and not await is_written(path)


@contextlib.asynccontextmanager
async def _opened(
    path: pathlib.Path, tail_lines: int | None
) -> AsyncIterator[tuple[files.OpenFiles, tuple[int, int]]]:
    """The log's files, and where in them to begin: index and position."""
    opened = files.OpenFiles()
    # Closed even while a thread is opening it: this may end at any moment.
    with contextlib.closing(opened):
        await tasks.in_thread(opened.open, path)
        yield opened, await tasks.in_thread(_start, opened, tail_lines)


def _choose_file(folder: pathlib.Path, attempt: int | None, previous: bool) -> pathlib.Path:  # noqa: FBT001
    """The attempt's file; without one the newest, or the one before that."""
    try:
        found = {int(match[1]) for entry in folder.iterdir() if (match := _FILE.fullmatch(entry.name))}
    except (FileNotFoundError, NotADirectoryError):
        found = set()
    if attempt is None and found:
        attempt = max(found) - previous
    if attempt not in found:
        which = "an earlier run" if previous else "it"
        raise ports.NotFoundError(
            f"cannot find the log of container {folder.name!r}: there is none of {which}"
        )
    return folder / f"{attempt}.log"


def _start(opened: files.OpenFiles, tail_lines: int | None) -> tuple[int, int]:
    if tail_lines is None:
        return 0, 0
    sizes = opened.sizes()
    end = (len(sizes) - 1, sizes[-1])
    return lines.count_back(_lines_back(opened, sizes), tail_lines, end)


def _lines_back(opened: files.OpenFiles, sizes: list[int]) -> Iterator[tuple[tuple[int, int], bytes]]:
    for index in reversed(range(len(sizes))):
        read = functools.partial(opened.read, index)
        for offset, line in lines.lines_back(read, sizes[index], block_bytes=_TAIL_BLOCK_BYTES):
            yield (index, offset), line


def _since_ns(options: link.LogOptions, now: datetime.datetime) -> int:
    if options.since_time:
        try:
            return clock.parse_rfc3339_ns(options.since_time)
        except ValueError as error:
            raise ports.DriverError(f"cannot read sinceTime: {error}") from error
    if options.since_seconds is not None:
        return int(now.timestamp() * _NS) - options.since_seconds * _NS
    return 0
