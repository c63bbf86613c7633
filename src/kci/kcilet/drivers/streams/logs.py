"""Reading and following a container's log file.

Ported from k8s.io/cri-client pkg/logs (0.36). What differs: `--tail` counts a line once though the
runtime cut it into parts; and a log that is not followed is read as long as it was when it was opened.
The file is opened without following a link and must be a regular one (CVE-2026-53489).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import re
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

from kci.kcilet import ports
from kci.kcilet.drivers.streams import inotify, lines
from kci.kit import tasks
from kci.link import types as link

_READ_BYTES = 128 << 10
_TAIL_BLOCK_BYTES = 64 << 10
_NS = 1_000_000_000
# Changes wake us; this is for the end of a container, which changes no file the moment it is known.
_LOOK_AGAIN_S = 1.0
_LOOK_SOON_S = 0.05
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_FILE = re.compile(r"(\d{1,9})\.log")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

IsWritten = Callable[[pathlib.Path], Awaitable[bool]]


async def read(
    log_directory: pathlib.Path,
    container_name: str,
    attempt: int | None,
    options: link.LogOptions,
    *,
    is_written: IsWritten,
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
            _follow(path, options.tail_lines, is_written)
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
    file = await tasks.in_thread(_open, path)
    try:
        position, end = await tasks.in_thread(_range, file, tail_lines)
        yield b""
        while position < end:
            data = await tasks.in_thread(os.pread, file, min(_READ_BYTES, end - position), position)
            if not data:
                return
            position += len(data)
            yield data
    finally:
        os.close(file)


async def _follow(
    path: pathlib.Path, tail_lines: int | None, is_written: IsWritten
) -> AsyncGenerator[bytes, None]:
    """Until nobody writes the log any more and all of it was read."""
    file = await tasks.in_thread(_open, path)
    try:
        # The watch comes first: what is written from here on wakes us.
        with inotify.Watch(path.parent) as watch:
            position, _ = await tasks.in_thread(_range, file, tail_lines)
            yield b""
            patience_s = _LOOK_SOON_S
            is_over = not await is_written(path)
            while True:
                # Looked for before the old file is read to its end, which is then its last.
                rotated = await tasks.in_thread(_open_if_other, path, file)
                while data := await tasks.in_thread(os.pread, file, _READ_BYTES, position):
                    position += len(data)
                    yield data
                if rotated is not None:
                    os.close(file)
                    file, position = rotated, 0
                    continue
                if is_over:
                    return
                has_changed = await watch.wait(patience_s)
                patience_s = _LOOK_SOON_S if watch.take_closed() else min(2 * patience_s, _LOOK_AGAIN_S)
                is_over = not has_changed and not await is_written(path)
    finally:
        os.close(file)


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


def _open(path: pathlib.Path) -> int:
    folder = os.open(path.parent, _FOLDER)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(path.name, flags, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ports.NotFoundError(f"cannot read the log {path}: it is no regular file")
    return file


def _open_if_other(path: pathlib.Path, file: int) -> int | None:
    """The file that has taken the name since, if one has."""
    try:
        other = _open(path)
    except FileNotFoundError:
        return None
    if os.path.sameopenfile(other, file):
        os.close(other)
        return None
    return other


def _range(file: int, tail_lines: int | None) -> tuple[int, int]:
    """From where to read, and where the file ends now."""
    end = os.fstat(file).st_size
    if tail_lines is None:
        return 0, end
    return lines.count_back(lines_back(file, end), tail_lines, end), end


def lines_back(file: int, end: int, *, block_bytes: int = _TAIL_BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from the last line backwards, reading no more than is asked for."""
    position, rest = end, b""
    while position > 0:
        size = min(block_bytes, position)
        position -= size
        rest = os.pread(file, size, position) + rest
        first, *whole = rest.split(b"\n")
        offset = position + len(rest)
        for line in reversed(whole):
            offset -= len(line) + 1
            if line:
                yield offset + 1, line
        rest = first[: lines.MAX_LINE_BYTES]
    if rest:
        yield 0, rest


def _since_ns(options: link.LogOptions, now: datetime.datetime) -> int:
    if options.since_time:
        try:
            return lines.parse_time_ns(options.since_time)
        except ValueError as error:
            raise ports.DriverError(f"cannot read sinceTime: {error}") from error
    if options.since_seconds is not None:
        return int(now.timestamp() * _NS) - options.since_seconds * _NS
    return 0
