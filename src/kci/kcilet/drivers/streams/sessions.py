"""The processes of commands: finding the one that a command started, and ending it.

The runtime's API starts commands and cannot end them: one whose client has left would run on for ever. So
the kernel is asked. A command's process leads a session of its own, is in the container's cgroup, and has
its parent outside of the container's namespace of processes; commands of one container are started one
after another, so the one that is new belongs to the command that was started. Where containers have a
kernel of their own nothing is found, and nothing is ended.

Which commands run is noted (journal.py): those of a run of ours that was killed are ended by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from collections.abc import Set as AbstractSet

import structlog

from kci.kcilet import ports
from kci.kcilet.drivers.streams import journal as journals
from kci.kit import crashpoints, tasks

log = structlog.get_logger(__name__)

_FILE_BYTES = 4096
# How long a process may take to appear before the next command of its container may start.
_APPEARS_S = 10.0
# The same for one that was about to be started when an earlier run was killed.
_LEFT_APPEARS_S = 1.0
_FIRST_LOOK_S = 0.03
_LOOK_S = 0.1
_ENDS_LOOK_S = 0.02
# What a process is given to end by itself, of the second in which it must have ended.
_GRACE_S = 0.4
# One that cannot be killed (its disk hangs) is left alone after this time.
_GIVE_UP_S = 10.0


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by the time when it was started."""

    pid: int
    started_at: int
    # A command's process is left by the program that made it, and gets another parent.
    parent: int = dataclasses.field(compare=False)
    session: int = dataclasses.field(compare=False)

    @property
    def identity(self) -> journals.Identity:
        return self.pid, self.started_at

    @classmethod
    def of(cls, identity: journals.Identity) -> Process:
        """One that leads a session; whose child it is is not known any more."""
        pid, started_at = identity
        return cls(pid=pid, started_at=started_at, parent=0, session=pid)


class Sessions:
    """What commands started in containers."""

    def __init__(self, journal: journals.Journal) -> None:
        self._journal = journal
        # Known before the first command of ours is started: it is not to be taken for one of these.
        self._left = journal.left()
        self._gates: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def starting(self, container_id: ports.ContainerId) -> AsyncIterator[Session]:
        """Inside the block a command is started and runs; the session that is given is what it started."""
        with contextlib.ExitStack() as held:
            await self._enter_gate(container_id, held)
            before, note = await tasks.in_thread(self._begin, container_id)
            crashpoints.reached("kcilet.exec.noted")
            session = Session(container_id, note)
            try:
                async with tasks.background("session", session.find(before, held.close)):
                    yield session
            finally:
                crashpoints.reached("kcilet.exec.done")
                await tasks.in_thread(note.remove)

    async def end_left(self) -> None:
        """End the commands of a run that was killed: their clients left with it."""
        _ = await tasks.wait_all((self._end_left_in(one) for one in list(self._left)), name="left commands")

    async def _end_left_in(self, container_id: str) -> None:
        with contextlib.ExitStack() as held:
            await self._enter_gate(container_id, held)

    async def _enter_gate(self, container_id: str, held: contextlib.ExitStack) -> None:
        """Behind it no other command of the container is being started, and none is left."""
        gate = self._gates.setdefault(container_id, asyncio.Lock())
        _ = await gate.acquire()
        _ = held.callback(gate.release)
        for note in self._left.pop(container_id, ()):
            session = Session(container_id, note)
            if note.entry.found is None:
                await session.find({Process.of(one) for one in note.entry.before}, within_s=_LEFT_APPEARS_S)
            else:
                session.know(Process.of(note.entry.found))
            await session.end()
            await tasks.in_thread(note.remove)

    def _begin(self, container_id: str) -> tuple[set[Process], journals.Note]:
        before = leaders(container_id)
        return before, self._journal.note(container_id, [one.identity for one in before])


class Session:
    """The session of one command, once it is found."""

    def __init__(self, container_id: str, note: journals.Note) -> None:
        self._container_id = container_id
        self._note = note
        self._leader: Process | None = None
        self._looked = asyncio.Event()

    async def find(
        self,
        before: AbstractSet[Process],
        open_gate: Callable[[], None] = lambda: None,
        *,
        within_s: float = _APPEARS_S,
    ) -> None:
        """Look until it is there, then let the next command start."""
        look_s = _FIRST_LOOK_S
        # Without the container's own first process in sight, neither will this one be.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while before and self._leader is None:
                    await asyncio.sleep(look_s)
                    look_s = min(2 * look_s, _LOOK_S)
                    new = await tasks.in_thread(leaders, self._container_id) - before
                    self._leader = min(new, key=lambda one: one.started_at, default=None)
        if self._leader is not None:
            crashpoints.reached("kcilet.exec.found.before")
            await tasks.in_thread(self._note.add, self._leader.identity)
            crashpoints.reached("kcilet.exec.found.after")
        open_gate()
        self._looked.set()

    def know(self, noted: Process) -> None:
        """It was found before, by a run that was killed. It counts only if it still is that process."""
        if _read(noted.pid) == noted and is_in(noted.pid, self._container_id):
            self._leader = noted
        self._looked.set()

    async def end(self) -> None:
        """End what the command started, children that share its session included; also if who asks for it is
        cancelled meanwhile: the client's line breaks soon after it has said that it leaves.
        """
        await tasks.finish("ending a command", self._end(), within_s=_APPEARS_S + _GIVE_UP_S)

    async def _end(self) -> None:
        _ = await self._looked.wait()
        if self._leader is None:
            return
        number = self._leader.session
        log.info("ending a command whose client has left", container=self._container_id, pid=number)
        for hint in (signal.SIGHUP, signal.SIGTERM):
            await tasks.in_thread(send, hint, number, self._container_id)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while await tasks.in_thread(members, number, self._container_id):
            if loop.time() >= began_s + _GIVE_UP_S:
                log.warning("cannot end a command", container=self._container_id, pid=number)
                return
            if loop.time() >= began_s + _GRACE_S:
                await tasks.in_thread(send, signal.SIGKILL, number, self._container_id)
            await asyncio.sleep(_ENDS_LOOK_S)


def leaders(container_id: str) -> set[Process]:
    """The container's first process, and those that commands started."""
    return {
        one
        for one in _processes()
        if one.session == one.pid and is_in(one.pid, container_id) and _came_from_outside(one)
    }


def members(session: int, container_id: str) -> list[Process]:
    """The processes of a session. The container's name is looked for as well: a session's number may have
    become another's.
    """
    return [one for one in _processes() if one.session == session and is_in(one.pid, container_id)]


def send(number: signal.Signals, session: int, container_id: str) -> None:
    for one in members(session, container_id):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(one.pid)
            try:
                # Looked at through the descriptor's life: it cannot have become another process's.
                if _read(one.pid) == one:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def first_process(sandbox_id: str) -> int | None:
    """Any process in the cgroup that bears this name."""
    return next((one.pid for one in _processes() if is_in(one.pid, sandbox_id)), None)


def is_in(pid: int, name: str) -> bool:
    """Whether one of its cgroups, of whatever version, bears the name of a container or sandbox."""
    return name.encode() in _content(f"/proc/{pid}/cgroup")


def parse_stat(text: bytes) -> Process | None:
    """`/proc/<pid>/stat`; None for a process that has ended and only waits for its parent. The program's
    name, in parentheses, may itself hold anything.
    """
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    if fields[0] in {b"Z", b"X"}:
        return None
    return Process(
        pid=int(head.partition(b" ")[0]),
        started_at=int(fields[19]),
        parent=int(fields[1]),
        session=int(fields[3]),
    )


def _processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208  (Paths would cost more than all the rest)
        if name.isdigit() and (found := _read(int(name))) is not None:
            yield found


def _read(pid: int) -> Process | None:
    text = _content(f"/proc/{pid}/stat")
    return parse_stat(text) if text else None


def _content(path: str) -> bytes:
    """A small file of the kernel's; nothing if the process has ended. At each command's start all processes
    are looked at, and by way of a Path that would take three times as long.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(descriptor, _FILE_BYTES)
    except ProcessLookupError:
        return b""
    finally:
        os.close(descriptor)


def _came_from_outside(one: Process) -> bool:
    """Whether its parent counts processes in another namespace than itself."""
    try:
        own, parent = [pathlib.Path(f"/proc/{pid}/ns/pid").readlink() for pid in (one.pid, one.parent)]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return own != parent
