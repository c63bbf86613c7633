"""What `kci up`, `status` and `down` do: start a supervisor, read its account, ask it to end.

Blocking, for a command of the user. The work itself is the supervisor's (supervisor.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec

from kci.kit import files
from kci.stack import board, cgroups, containerd, errors, layout, processes, record, settings, typed

POLL_INTERVAL_S = 0.1
# How long a supervisor takes at most from its start to its first word, on a busy machine.
FIRST_WORD_S = 20.0
LOG_TAIL_LINES = 8
SUPERVISOR = "supervisor"
TOOLS = {"ip": "iproute2", "nsenter": "util-linux"}
ENDED = (record.StackState.FAILED, record.StackState.STOPPED)


@dataclasses.dataclass(frozen=True)
class Run:
    """A supervisor's run, which this command started (`process`) or found (`found`)."""

    where: layout.Layout
    run_id: str
    process: subprocess.Popen[bytes] | None = None
    found: record.ProcessId | None = None
    # Whether the one that was found was started with other settings than those asked for now.
    differs: bool = False

    def has_ended(self) -> bool:
        return self.process.poll() is not None if self.process else not processes.is_alive(self.found)


def start(asked: settings.Settings, *, foreground: bool) -> Run:
    """Start the stack, or find the one that runs in that state folder already.

    In the foreground the supervisor ends with this process.
    """
    _check_root()
    asked = settings.checked(asked)
    where = layout.Layout(pathlib.Path(asked.state_dir))
    record.read_choices(where)
    if not running_state(where):
        _check_same_netns(where, asked)
        _check_tools(asked)
    for folder in (where.root, where.logs):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _claimed(where) as (lock, running):
        if running:
            differs = record.read_launch(where).settings != asked
            return Run(where, running.run_id, found=running.supervisor, differs=differs)
        run_id = secrets.token_hex(8)
        if where.launch.exists() and _is_left(where, record.read_state(where)):
            files.write_atomic(where.launch_before, where.launch.read_bytes())
        record.write(where.launch, record.Launch(run_id=run_id, settings=asked))
        where.down_request.unlink(missing_ok=True)
        options = ("--end-with", str(os.getpid())) if foreground else ()
        return Run(where, run_id, _spawn(where, lock, run_id, *options))


def follow(run: Run, *, timeout_s: float | None = None) -> Iterator[record.State]:
    """Each new account of the run, until it has ended; the last one says how."""
    end = time.monotonic() + timeout_s if timeout_s else None
    seen: record.State | None = None
    while end is None or time.monotonic() < end:
        # Asked before the file is read: what a supervisor wrote last is then not missed.
        ended = run.has_ended()
        state = record.read_state(run.where)
        if state and state.run_id == run.run_id and state != seen:
            seen = state
            yield state
        if ended:
            if seen is None or seen.state not in ENDED:
                yield _lost(run.where, seen)
            return
        time.sleep(POLL_INTERVAL_S)
    raise errors.StackError(
        f"cannot wait any longer than {timeout_s:g} s for the supervisor: see {run.where.log(SUPERVISOR)}"
    )


def stop(state_dir: pathlib.Path, *, keep_node: bool) -> Run | None:
    """Ask the supervisor to end, or have one clean up after one that was killed. None: nothing runs."""
    _check_root()
    where = _layout(state_dir)
    record.read_choices(where)
    state = record.read_state(where)
    if state is None or state.state is record.StackState.STOPPED:
        return None
    with _claimed(where) as (lock, running):
        record.write(where.down_request, record.DownRequest(keep_node=keep_node))
        if running and running.supervisor:
            processes.send(running.supervisor, signal.SIGTERM)
            return Run(where, running.run_id, found=running.supervisor)
        run_id = secrets.token_hex(8)
        return Run(where, run_id, _spawn(where, lock, run_id, "--clean"))


def interrupt(run: Run) -> None:
    """Ask the supervisor of a run to end; `follow` goes on until it has."""
    supervisor = processes.observe(run.process.pid) if run.process else run.found
    if supervisor:
        processes.send(supervisor, signal.SIGTERM)


def purge(state_dir: pathlib.Path) -> bool:
    """Remove the state folder of a stack that does not run; False if there is none."""
    _check_root()
    where = _layout(state_dir)
    record.read_choices(where)
    if not where.launch.exists():
        return False
    with _claimed(where) as (_, running):
        if running:
            raise errors.RunningError(f"cannot remove {where.root}: a stack runs in it")
        shutil.rmtree(where.root)
    return True


def read(state_dir: pathlib.Path) -> record.State | None:
    """The stack's account. What a killed supervisor wrote last is corrected by what still lives."""
    where = _layout(state_dir)
    record.read_choices(where)
    state = record.read_state(where)
    if state is None or state.state is record.StackState.STOPPED or running_state(where):
        return state
    same_boot = state.boot_id == record.boot_id()
    place = record.read_place(where)
    lost = f"its supervisor was killed: `{place.up}` brings the stack back, `{place.kci('down')}` cleans up"
    return msgspec.structs.replace(
        state,
        state=record.StackState.FAILED,
        failure=state.failure if state.state is record.StackState.FAILED else lost,
        supervisor=None,
        parts=tuple(
            part
            if part.process is None or (same_boot and processes.is_alive(part.process))
            else msgspec.structs.replace(part, state=record.PartState.STOPPED, process=None)
            for part in state.parts
        ),
    )


def running_state(where: layout.Layout) -> record.State | None:
    """The account of a supervisor that lives."""
    state = record.read_state(where)
    if state and state.boot_id == record.boot_id() and processes.is_alive(state.supervisor):
        return state
    return None


def _lost(where: layout.Layout, seen: record.State | None) -> record.State:
    """What there is to say of a supervisor that ended without a last word."""
    account = seen or board.new_state("", None, None)
    return msgspec.structs.replace(
        account,
        state=record.StackState.FAILED,
        supervisor=None,
        failure="the supervisor ended without a word: "
        f"`{record.read_place(where).kci('down')}` cleans up after it",
        failure_log=processes.last_lines(where.log(SUPERVISOR), count=LOG_TAIL_LINES),
    )


def _layout(state_dir: pathlib.Path) -> layout.Layout:
    return layout.Layout(state_dir.expanduser().absolute())


@contextlib.contextmanager
def _claimed(where: layout.Layout) -> Iterator[tuple[int, record.State | None]]:
    """The state folder's lock, or the account of the supervisor that holds it.

    Whoever starts a supervisor hands it the lock, so of two that start one at once the other finds it.
    """
    descriptor = os.open(where.lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + FIRST_WORD_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running = running_state(where)
            else:
                yield descriptor, None
                return
            if running:
                yield descriptor, running
                return
            if time.monotonic() > end:
                raise errors.RunningError(
                    f"cannot use the state folder {where.root}: another kci works in it; try again"
                )
            time.sleep(POLL_INTERVAL_S)
    finally:
        os.close(descriptor)


def _spawn(where: layout.Layout, lock: int, run_id: str, *options: str) -> subprocess.Popen[bytes]:
    """A supervisor in a session of its own: neither our terminal nor our end reaches it."""
    argv = [sys.executable, "-P", "-m", "kci.stack.supervisor", "--state-dir", str(where.root)]
    argv += ["--run-id", run_id, "--lock", str(lock), *options]
    log_file = where.log(SUPERVISOR)
    processes.rotate(log_file)
    # It inherits that signals wait: one that comes before it can handle them must not just end it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, processes.STOP_SIGNALS)
    try:
        with log_file.open("ab") as log:
            log_file.chmod(0o600)
            return subprocess.Popen(
                argv, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, pass_fds=(lock,),
            )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_root() -> None:
    if os.geteuid() != 0:
        raise errors.StackError("cannot set up links, namespaces and containers without being root: use sudo")


def _check_same_netns(where: layout.Layout, asked: settings.Settings) -> None:
    """What a killed supervisor has left can only be taken up, or cleaned, where it is."""
    state = record.read_state(where)
    if state is None or not _is_left(where, state):
        return
    if state.netns != asked.netns:
        place = f"the network namespace {state.netns}" if state.netns else "the machine's network namespace"
        raise errors.StackError(
            f"cannot start: a stack of {where.root} that was killed is left in {place}: "
            f"`{typed.Place(asked).kci('down')}` first, or start it there again"
        )


def _is_left(where: layout.Layout, state: record.State | None) -> bool:
    """Whether something runs that a supervisor started which is no more."""
    if state is None or state.boot_id != record.boot_id():
        return False
    programs = any(processes.is_alive(part.process) for part in state.parts)
    return programs or state.changes.has_pods or bool(processes.find_shims(where.containerd_socket))


def _check_tools(asked: settings.Settings) -> None:
    """What is missing on the machine is said before anything is started."""
    machine = settings.read_machine()
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool, path=machine.path)]
    if missing:
        raise errors.StackError(f"cannot start without {', '.join(TOOLS)}: apt install {' '.join(missing)}")
    if asked.own_containerd:
        cgroups.check_mounted()
        containerd.find_binaries(asked.runtime, machine)
