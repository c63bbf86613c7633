"""What rotation does with files, and how a log is read on over it."""

import asyncio
import contextlib
import datetime
import gzip
import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kci.kcilet import ports
from kci.kcilet.drivers.logs import folders, rotation
from kci.kcilet.drivers.streams import files, inotify, logs
from kci.kit import tasks
from kci.link import types as link

NOW = datetime.datetime(2026, 11, 23, 18, 0, tzinfo=datetime.UTC)
STAMPS = [f"0.log.20261123-1800{second:02d}" for second in range(60)]


class Clock:
    def __init__(self):
        self.seconds = 0

    def now(self):
        self.seconds += 1
        return NOW + datetime.timedelta(seconds=self.seconds)


class Runtime:
    """One container that writes lines to its log, as a runtime does: by the file, not by its name."""

    def __init__(self, folder):
        self.path = folder / "main" / "0.log"
        self.path.parent.mkdir(parents=True)
        self.answers = True
        self.count = 0
        self._file = None
        self._open()

    def _open(self):
        if self._file is not None:
            self._file.close()
        self._file = self.path.open("ab", buffering=0)

    def close(self):
        self._file.close()

    async def list_written(self):
        return [(ports.ContainerId("c-1"), self.path)]

    async def reopen(self, _container_id):
        if not self.answers:
            raise ports.DriverError("cannot reopen the log: the runtime is away")
        self._open()

    def write(self, lines):
        for _ in range(lines):
            self.count += 1
            self._file.write(b"2026-11-23T18:00:00.000000001Z stdout F %d\n" % self.count)

    async def is_written(self, _path):
        return False


@pytest.fixture
def runtime(tmp_path):
    with contextlib.closing(Runtime(tmp_path)) as one:
        yield one


def rotate(runtime, **policy):
    policy = rotation.Policy(**{"max_bytes": 1, **policy})
    return rotation.Rotation(
        list_written=runtime.list_written, reopen=runtime.reopen, policy=policy, clock=Clock()
    )


async def read(runtime, **options):
    folder = runtime.path.parent.parent
    parts = logs.read(
        folder,
        "main",
        0,
        link.LogOptions(**options),
        is_written=runtime.is_written,
        watcher=inotify.Watcher(),
        now=NOW,
    )
    return [int(line) for line in b"".join([part async for part in parts]).split()]


def names(runtime):
    return sorted(entry.name for entry in runtime.path.parent.iterdir())


@given(st.lists(st.sampled_from(STAMPS), unique=True), st.integers(2, 8), st.randoms(use_true_random=False))
def test_cleaning_keeps_the_newest_and_leaves_nothing_half_done(stamps, max_files, chance):
    found = [stamp + chance.choice(["", ".gz", ".tmp"]) for stamp in stamps]
    found += [name + ".gz" for name in found if name in STAMPS and chance.random() < 0.2]
    cleaning = rotation.plan_cleaning(found, max_files=max_files)
    kept = sorted(set(found) - set(cleaning.remove))
    # With the one put aside next and the one written then, there are at most as many as wanted.
    assert len(kept) <= max_files - 2
    assert not any(name.endswith(".tmp") for name in kept)
    assert set(cleaning.compress) == {name for name in kept if not name.endswith(".gz")}
    # A log of which the compressed form is whole is there once.
    assert len({name.removesuffix(".gz") for name in kept}) == len(kept)
    used = {name.removesuffix(".gz") for name in found if not name.endswith(".tmp")}
    assert {name.removesuffix(".gz") for name in kept} == set(sorted(used)[len(used) - len(kept) :])
    assert len(kept) == min(len(used), max_files - 2)


async def test_only_a_log_that_is_large_is_rotated_and_the_newest_stays_readable(runtime):
    rotated = rotate(runtime, max_bytes=1000, max_files=4)
    runtime.write(5)
    await rotated.look()
    assert names(runtime) == ["0.log"]
    for _ in range(5):
        runtime.write(30)
        await rotated.look()
    assert [name.endswith(".gz") for name in names(runtime)] == [False, True, True, False]
    runtime.write(2)
    # What was put aside last is read with what is written now.
    assert await read(runtime) == list(range(126, 158))
    assert await read(runtime, tail_lines=3) == [155, 156, 157]
    assert await read(runtime, tail_lines=2) == [156, 157]
    assert await read(runtime, tail_lines=0) == []
    packed = runtime.path.with_name(names(runtime)[2])
    assert gzip.decompress(packed.read_bytes()).endswith(b" F 125\n")


async def test_a_runtime_that_is_away_has_its_log_as_it_was(runtime):
    runtime.write(3)
    runtime.answers = False
    rotated = rotate(runtime)
    await rotated.look()
    assert names(runtime) == ["0.log"]
    runtime.write(1)
    runtime.answers = True
    await rotated.look()
    assert len(names(runtime)) == 2
    assert await read(runtime) == [1, 2, 3, 4]


async def test_a_runtime_that_did_it_and_did_not_say_so_keeps_its_new_file(runtime):
    """As when its answer comes too late: what it writes now must not lose its name."""

    async def reopen(container_id):
        await Runtime.reopen(runtime, container_id)
        raise ports.UnavailableError("cannot reopen the log: no answer in time")

    runtime.reopen = reopen
    runtime.write(3)
    await rotate(runtime).look()
    runtime.write(2)
    assert len(names(runtime)) == 2
    assert await read(runtime) == [1, 2, 3, 4, 5]


async def test_a_rotation_that_was_cut_short_is_ended_by_the_next_look(runtime):
    """As after a crash between the two steps."""
    runtime.write(3)
    runtime.path.rename(runtime.path.with_name(STAMPS[0]))
    runtime.write(2)
    await rotate(runtime).look()
    runtime.write(1)
    assert await read(runtime) == [1, 2, 3, 4, 5, 6]


async def test_a_reader_that_is_slow_misses_no_line_of_what_is_still_there(runtime):
    writes = asyncio.Event()

    async def is_written(_path):
        return not writes.is_set()

    runtime.write(10)
    rotated = rotate(runtime)
    parts = logs.read(
        runtime.path.parent.parent,
        "main",
        0,
        link.LogOptions(follow=True),
        is_written=is_written,
        watcher=inotify.Watcher(),
        now=NOW,
    )
    shown = b""
    async with asyncio.timeout(20), contextlib.aclosing(parts):
        shown += await anext(parts)
        for _ in range(2):
            # The first file is open, the second is put aside before the reader comes to it.
            await rotated.look()
            runtime.write(10)
        writes.set()
        async for part in parts:
            shown += part
    assert [int(line) for line in shown.split()] == list(range(1, 31))


async def test_a_log_is_removed_with_what_was_put_aside_of_it_and_no_other(tmp_path):
    logs_of_pod = folders.Folders(tmp_path)
    path = tmp_path / "default_web_uid-1" / "main" / "1.log"
    # There is none, and no folder.
    await logs_of_pod.remove_log(str(path))
    path.parent.mkdir(parents=True)
    moment = "20261123-180000"
    for name in ("1.log", f"1.log.{moment}", f"1.log.{moment}.gz", f"1.log.{moment}.tmp"):
        path.with_name(name).touch()
    others = {"0.log", "11.log", f"0.log.{moment}.gz", f"11.log.{moment}"}
    for name in others:
        path.with_name(name).touch()
    for _ in range(2):
        await logs_of_pod.remove_log(str(path))
        assert {file.name for file in path.parent.iterdir()} == others


async def test_a_log_that_cannot_be_removed_says_which(tmp_path):
    path = tmp_path / "0.log"
    path.mkdir()
    with pytest.raises(ports.DriverError, match=f"cannot remove the log {path}: "):
        await folders.Folders(tmp_path).remove_log(str(path))


async def test_a_reader_that_leaves_while_the_log_is_being_opened_leaves_no_file_open(runtime):
    runtime.write(1)
    before = descriptors()
    for _ in range(200):
        parts = logs.read(
            runtime.path.parent.parent,
            "main",
            0,
            link.LogOptions(follow=True),
            is_written=runtime.is_written,
            watcher=inotify.Watcher(),
            now=NOW,
        )
        async with tasks.background("read", anext(parts)):
            await asyncio.sleep(0)
    # Each thread that was still at it has ended.
    for _ in range(50):
        await tasks.in_thread(lambda: None)
    assert descriptors() <= before + 2


def test_what_is_closed_before_it_is_open_stays_closed(runtime):
    before = descriptors()
    opened = files.OpenFiles()
    opened.close()
    opened.open(runtime.path)
    assert opened.read(0, 10, 0) == b""
    assert not opened.has_next(0, runtime.path)
    assert descriptors() == before


def test_a_log_that_is_a_link_or_no_file_is_not_opened(runtime, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    runtime.path.unlink()
    runtime.path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        files.OpenFiles().open(runtime.path)
    runtime.path.unlink()
    os.mkfifo(runtime.path)
    with pytest.raises(ports.NotFoundError):
        files.OpenFiles().open(runtime.path)


def descriptors():
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))
