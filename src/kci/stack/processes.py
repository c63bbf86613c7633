"""Processes of the stack: started in sessions of their own, found again after a crash, ended for sure.

A process is always named by pid and start time and signalled through a pidfd, so a pid that was
reused is never hit. All of it works on processes that are not our children as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Collection, Iterator

import structlog

from kci.stack import commands, record

log = structlog.get_logger(__name__)
KILL_TIMEOUT_S = 10.0
# How a program is asked to end.
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
# A log is cut when it has grown past this; one older piece is kept.
LOG_LIMIT_BYTES = 32 * 2**20


def observe(pid: int) -> record.ProcessId | None:
    """The process that has this pid now; None if there is none, or only its exit status is left."""
    fields = _stat(pid)
    if not fields or fields[0] in {"Z", "X"}:
        return None
    return record.ProcessId(pid=pid, start_ticks=int(fields[19]))


def _stat(pid: int) -> list[str]:
    """What the kernel says of it from its state on; nothing if there is none."""
    try:
        # The program's name in the second field may hold anything, so count from its end.
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_alive(process: record.ProcessId | None) -> bool:
    return process is not None and observe(process.pid) == process


def is_paused(process: record.ProcessId) -> bool:
    """Whether somebody stopped it (SIGSTOP, a debugger): it lives, and does nothing."""
    fields = _stat(process.pid)
    return bool(fields) and fields[0] in {"T", "t"}


async def start(command: commands.Command, log_file: pathlib.Path) -> asyncio.subprocess.Process:
    """Start it with output appended to its log, away from our terminal's signals."""
    rotate(log_file)
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *command.argv,
            cwd="/",
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def send(process: record.ProcessId, number: signal.Signals) -> bool:
    """Signal it; False if it is gone."""
    with _opened(process) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
                return True
    return False


async def stop(process: record.ProcessId | None, timeout_s: float) -> bool:
    """Ask it to end, then kill it. True once it is gone; safe for what never was or is gone already."""
    if process is None:
        return True
    for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
        with _opened(process) as descriptor:
            if descriptor is None:
                return True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if await _wait_ended(descriptor, patience_s):
                return True
    return False


async def wait_ended(process: record.ProcessId, timeout_s: float) -> bool:
    with _opened(process) as descriptor:
        return descriptor is None or await _wait_ended(descriptor, timeout_s)


def find_shims(containerd_socket: pathlib.Path) -> list[record.ProcessId]:
    """Shims of the containerd that listens there. They outlive it, and hold its mount namespace."""
    address = str(containerd_socket).encode()
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"containerd-shim" not in arguments[0] or address not in arguments:
            continue
        process = observe(int(entry.name))
        if process:
            found.append(process)
    return found


def has_ancestor(pid: int, ancestors: Collection[int]) -> bool:
    """Whether one of these is a process' parent, or its parent's, and so on."""
    while pid > 1:
        if pid in ancestors:
            return True
        fields = _stat(pid)
        if not fields:
            return False
        pid = int(fields[1])
    return False


def owner_of_socket(path: pathlib.Path) -> record.ProcessId | None:
    """The process that listens on a unix socket; None if nobody does."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return observe(struct.unpack("3i", credentials)[0])


def rotate(log_file: pathlib.Path) -> None:
    """Keep a log within bounds; its writer appends, so it can be cut while it is open. What cannot be done
    now, of a full disk, is told and tried again at the next call.
    """
    try:
        if log_file.stat().st_size > LOG_LIMIT_BYTES:
            older = log_file.with_suffix(".log.1")
            older.write_bytes(log_file.read_bytes())
            os.truncate(log_file, 0)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("log not rotated", log_file=str(log_file), error=error.strerror)


def log_size(log_file: pathlib.Path) -> int:
    return log_file.stat().st_size if log_file.exists() else 0


def last_lines(log_file: pathlib.Path, *, count: int, offset: int = 0) -> tuple[str, ...]:
    """The last lines that were written after this offset."""
    try:
        with log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset if offset <= size else 0, size - 16384))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(line[:400] for line in lines if line.strip())[-count:]


@contextlib.contextmanager
def _opened(process: record.ProcessId) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Compared after the pidfd is held: from here on the pid cannot mean another process.
        yield descriptor if is_alive(process) else None
    finally:
        os.close(descriptor)


async def _wait_ended(descriptor: int, timeout_s: float) -> bool:
    if _has_ended(descriptor):
        return True
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _has_ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
