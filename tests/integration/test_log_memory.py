"""Logs that are far larger than what may be kept of them in memory."""

import asyncio
import contextlib
import datetime
import pathlib
import resource

import pytest

from kci.kcilet.drivers.streams import inotify, logs
from kci.kit import tasks
from kci.link import types as link

NOW = datetime.datetime(2026, 11, 23, 18, 0, tzinfo=datetime.UTC)
HEAD = b"2026-11-23T18:00:00.000000001Z stdout "
# As a runtime cuts long lines.
PART = 16 << 10
LINE = 100 << 20
FOLLOWERS = 200


async def still_written(_path):
    return True


async def no_longer_written(_path):
    return False


def opened(folder, is_written, *, watcher=None, **options):
    return logs.read(
        folder,
        "main",
        0,
        link.LogOptions(**options),
        is_written=is_written,
        watcher=watcher or inotify.Watcher(),
        now=NOW,
    )


@pytest.fixture
def path(tmp_path):
    (tmp_path / "main").mkdir()
    return tmp_path / "main" / "0.log"


def memory_mib():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


@pytest.mark.requirement("R38")
@pytest.mark.parametrize("options", [{}, {"tail_lines": 1}, {"timestamps": True}, {"follow": True}])
async def test_a_line_of_100_mb_is_one_line_and_kept_in_pieces(path, options):
    with path.open("wb") as file:
        file.write(HEAD + b"F before\n")
        for _ in range(LINE // PART):
            file.write(HEAD + b"P " + b"x" * PART + b"\n")
        file.write(HEAD + b"F end\n")
    before_mib = await tasks.in_thread(memory_mib)
    size = ends = 0
    async for chunk in opened(path.parent.parent, no_longer_written, **options):
        size += len(chunk)
        ends += chunk.count(b"\n")
    assert await tasks.in_thread(memory_mib) - before_mib < 64
    whole = LINE + len(b"end\n")
    stamps = 2 * len(b"2026-11-23T18:00:00.000000001Z ") if "timestamps" in options else 0
    assert (size, ends) == ((whole, 1) if "tail_lines" in options else (whole + 7 + stamps, 2))


@pytest.mark.requirement("R38")
async def test_what_is_no_line_at_all_is_passed_over(path):
    with path.open("wb") as file:
        for _ in range(LINE // PART):
            file.write(b"y" * PART)
        file.write(b"\n" + HEAD + b"F end\n")
    before_mib = await tasks.in_thread(memory_mib)
    for options in ({}, {"tail_lines": 5}):
        parts = opened(path.parent.parent, no_longer_written, **options)
        assert b"".join([part async for part in parts]) == b"end\n"
    assert await tasks.in_thread(memory_mib) - before_mib < 64


@pytest.mark.requirement("R38")
async def test_a_long_log_with_many_slow_followers_is_not_kept(path, runs):
    size = runs.scale(quick=64, faults=256, release=1024) << 20
    line = HEAD + b"F " + b"z" * 100 + b"\n"
    block = line * 5000
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(block)
        lines = file.tell() // len(line)
    before_mib = await tasks.in_thread(memory_mib)
    watcher = inotify.Watcher()
    async with contextlib.AsyncExitStack() as stack:
        followers = [
            await stack.enter_async_context(
                contextlib.aclosing(opened(path.parent.parent, still_written, watcher=watcher, follow=True))
            )
            for _ in range(FOLLOWERS)
        ]
        for follower in followers:
            # The first says that the log is there; the second is all that a slow reader has taken.
            assert await anext(follower) == b""
            assert await anext(follower)
        fast, seen = opened(path.parent.parent, no_longer_written, follow=True), 0
        async with asyncio.timeout(120):
            async for part in fast:
                seen += part.count(b"\n")
        assert await tasks.in_thread(memory_mib) - before_mib < 256
    assert seen == lines
