"""Commands that a kcilet started before it was killed: what the next one finds, and ends."""

import asyncio
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import uuid

import msgspec
import needs
import pytest

from kci.kcilet.drivers.streams import journal, sessions
from kci.kit import tasks

CGROUPS = pathlib.Path("/sys/fs/cgroup")
# A kcilet's part in it, until it is killed.
KCILET = """
import asyncio, pathlib, subprocess, sys
from kci.kcilet.drivers.streams import journal, sessions
from kci.kit import crashpoints

async def main(folder, container, armed, *argv):
    crashpoints.arm(armed)
    async with sessions.Sessions(journal.Journal(pathlib.Path(folder))).starting(container):
        subprocess.Popen(argv)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Container:
    """Processes in a cgroup and a namespace of their own, as a runtime makes them."""

    def __init__(self, cgroup):
        self.name = cgroup.name
        self._cgroup = cgroup
        self._started = [subprocess.Popen(self._joined("unshare", "-p", "--fork", "setsid", "sleep", "1000"))]

    def command(self, *argv):
        """Has a session of its own, and a parent outside of the namespace."""
        first = min(sessions.leaders(self.name), key=lambda one: one.started_at)
        return self._joined("nsenter", "-t", str(first.pid), "-p", "setsid", *argv)

    def run(self, *argv):
        """Its process, once it is there."""
        before = sessions.leaders(self.name)
        self._started.append(subprocess.Popen(self.command(*argv)))
        while not (new := sessions.leaders(self.name) - before):
            pass
        (process,) = new
        # It is there before it has become the command.
        while pathlib.Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"setsid"):
            pass
        return process

    def sleeping(self):
        """What its processes `sleep N` were started with."""
        found = set()
        for pid in self._pids():
            with contextlib.suppress(FileNotFoundError):
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                found |= {words[1].decode()} if words[0] == b"sleep" else set()
        return found

    def remove(self):
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for one in self._started:
            one.wait()
        while True:
            # Killed processes leave their cgroup a moment later.
            with contextlib.suppress(OSError):
                self._cgroup.rmdir()
                return

    def _joined(self, *argv):
        return ["sh", "-c", f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"', "sh", *argv]

    def _pids(self):
        return [int(line) for line in (self._cgroup / "cgroup.procs").read_text().split()]


@pytest.fixture
def container():
    needs.demand("" if os.geteuid() == 0 else "only root can make a cgroup and a namespace of processes")
    hierarchy = CGROUPS / "pids"
    cgroup = (hierarchy if hierarchy.is_dir() else CGROUPS) / f"kci-test-{uuid.uuid4().hex}"
    cgroup.mkdir()
    made = Container(cgroup)
    try:
        while made.sleeping() != {"1000"} or not sessions.leaders(made.name):
            pass
        yield made
    finally:
        made.remove()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "commands"


def next_run(folder):
    return sessions.Sessions(journal.Journal(folder))


def kill_kcilet(folder, container, point, *argv):
    """It runs a command until it dies at a point, or is killed once it has found the command."""
    armed = folder.parent / "armed"
    armed.write_text(f"{point} 1\n" if point else "")
    program = [sys.executable, "-c", KCILET, str(folder), container.name, str(armed)]
    kcilet = subprocess.Popen([*program, *container.command(*argv)])
    try:
        while not point and not has_found(folder):
            assert kcilet.poll() is None
        if not point:
            kcilet.kill()
        assert kcilet.wait(20) == -signal.SIGKILL
    finally:
        kcilet.kill()
        kcilet.wait()


def has_found(folder):
    """Whether the command is noted. A journal of ours would take notes that are being written for broken."""
    notes = [note.read_bytes() for note in folder.iterdir()] if folder.exists() else []
    return any(
        msgspec.json.decode(line, type=journal.Entry).found
        for note in notes
        for line in note.rpartition(b"\n")[0].splitlines()
    )


@pytest.mark.requirement("R27")
@pytest.mark.parametrize("point", ["", "kcilet.exec.found.before", "kcilet.exec.found.after"])
@pytest.mark.parametrize("script", ["sleep 88", "trap '' HUP TERM; sleep 88 & sleep 88; sleep 99"])
async def test_a_command_whose_kcilet_was_killed_ends_and_nothing_else(container, folder, point, script):
    _ = container.run("sleep", "77")
    kill_kcilet(folder, container, point, "sh", "-c", script)
    while "88" not in container.sleeping():
        pass
    await next_run(folder).end_left()
    assert container.sleeping() == {"77", "1000"}
    assert list(folder.iterdir()) == []


async def test_a_command_that_was_not_started_any_more_is_not_looked_for_twice(container, folder):
    kill_kcilet(folder, container, "kcilet.exec.noted", "sleep", "88")
    await next_run(folder).end_left()
    assert container.sleeping() == {"1000"}
    assert list(folder.iterdir()) == []


async def test_a_process_that_only_has_the_number_is_left_alone(container, folder):
    other = container.run("sleep", "77")
    first = journal.Journal(folder)
    _ = first.left()
    first.note(container.name, ()).add((other.pid, other.started_at - 1))
    first.note("of another container", ()).add(other.identity)
    await next_run(folder).end_left()
    assert container.sleeping() == {"77", "1000"}
    assert list(folder.iterdir()) == []


async def test_a_new_command_is_not_taken_for_one_that_was_left(container, folder):
    kill_kcilet(folder, container, "kcilet.exec.noted", "sleep", "88")
    run = next_run(folder)
    async with run.starting(container.name), tasks.background("sweep", run.end_left()) as sweep:
        _ = container.run("sleep", "77")
        await sweep
        assert container.sleeping() == {"77", "1000"}


async def test_a_command_that_has_ended_leaves_no_note(container, folder):
    async with next_run(folder).starting(container.name) as session:
        _ = container.run("sleep", "88")
        await session.end()
        assert len(list(folder.iterdir())) == 1
    assert list(folder.iterdir()) == []
    assert container.sleeping() == {"1000"}


async def test_without_room_for_notes_commands_run_all_the_same(container, tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "commands").write_text("")
    async with asyncio.timeout(20), next_run(tmp_path / "commands").starting(container.name) as session:
        _ = container.run("sleep", "88")
        await session.end()
    assert container.sleeping() == {"1000"}


@pytest.mark.parametrize(
    "cut_off", ["", "{", '{"container_id":"c","before":[[1,', '{"container_id":"c","bef\n']
)
def test_a_note_without_a_whole_line_is_removed(tmp_path, cut_off):
    (tmp_path / "run-0").write_text(cut_off)
    assert journal.Journal(tmp_path).left() == {}
    assert list(tmp_path.iterdir()) == []


def test_the_last_whole_line_counts(tmp_path):
    first = journal.Journal(tmp_path)
    note = first.note("c", [(1, 10), (2, 20)])
    note.add((3, 30))
    (path,) = tmp_path.iterdir()
    with path.open("a") as file:
        file.write('{"container_id":"c","before":[],"found":[4')
    (left,) = journal.Journal(tmp_path).left()["c"]
    assert left.entry == journal.Entry(container_id="c", before=((1, 10), (2, 20)), found=(3, 30))
    left.remove()
    # Found too late: the note does not come back.
    note.add((5, 50))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("R27")
@pytest.mark.parametrize("steps", range(1, 4))
async def test_a_command_ends_though_who_ends_it_is_cancelled(container, folder, steps):
    """First the client says that it leaves, then its line breaks: that cancels what had begun."""
    async with next_run(folder).starting(container.name) as session:
        _ = container.run("sleep", "88")
        async with tasks.background("end", session.end()) as end:
            for _ in range(steps):
                await asyncio.sleep(0)
            end.cancel()
            await asyncio.wait([end])
        assert end.cancelled()
        assert container.sleeping() == {"1000"}
