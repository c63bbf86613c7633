"""No space and no descriptors left, for the service's store and the kcilet's folder on a real file system;
and a disk that fails under the service's store.
"""

import contextlib
import os
import pathlib
import resource
import shutil
import signal
import subprocess

import between
import guard as guard_module
import line as lines
import pytest
from line import IDLE, eventually, pod

from kci.stack import record

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.requirement("R08")]

SIZE_MIB = 48
# How soon things work again once there is space.
HEALS_S = 10
# In the words of the kernel and of SQLite.
COMPLAINTS = (b"No space left", b"disk is full", b"Too many open files", b"unable to open")
FOLDERS = {"kci-service": "service", "kcilet": "kcilet"}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A stack with a small file system of its own for each folder."""
    stack = lines.new_line()
    images = tmp_path_factory.mktemp("images")
    with contextlib.ExitStack() as mounts:
        try:
            stack.kci("up", "--detach", "--netns", stack.netns, *guard_module.UP)
            stack.kci("down")
            for folder in FOLDERS.values():
                mounts.enter_context(_small(stack.state_dir / folder, images / folder))
            stack.kci("up", "--detach", "--netns", stack.netns, *guard_module.UP)
            yield stack
        finally:
            stack.kci("down", check=False)
    stack.kci("down", "--purge", check=False)


@contextlib.contextmanager
def _small(folder, image):
    """A file system of its own in place of a folder, with its content."""
    with image.open("wb") as file:
        file.truncate(SIZE_MIB << 20)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        _run("cp", "-a", f"{aside}/.", str(folder))
        # It holds the store's key, which must stand in one place only.
        shutil.rmtree(aside)
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*argv):
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def full(folder):
    """To the last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), b"x" * size)
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def without_descriptors(pid):
    """No file, socket or pipe can be opened by a process any more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def _answers(line):
    """Whether the service takes a new connection."""
    try:
        return (
            line.http(f"http://{record.read_state(line.where).gateway}:{between.SERVICE_PORT}/healthz")
            is not None
        )
    except subprocess.SubprocessError:
        return False


def _complains(log, offset):
    text = log.read_bytes()[offset:]
    return any(words in text for words in COMPLAINTS)


@pytest.mark.parametrize("part", FOLDERS)
@pytest.mark.parametrize("want", ["space", "descriptors"])
def test_pods_go_on_and_it_heals_by_itself(line, runs, part, want):
    runs.count = 1
    names = [f"{kind}-{part}-{want}" for kind in ("before", "during", "deleted")]
    before, during, deleted = names
    line.apply(pod(before, IDLE), pod(deleted, IDLE))
    line.wait_ready(f"pod/{before}", f"pod/{deleted}")
    process = line.process(part)
    uid = line.pods()[before]["metadata"]["uid"]
    instance = line.live_instances()[uid]
    log = line.where.log(part)
    offset = log.stat().st_size
    lack = full(line.state_dir / FOLDERS[part]) if want == "space" else without_descriptors(process.pid)
    with lack:
        line.apply(pod(during, IDLE))
        line.kubectl("delete", "pod", deleted, "--wait=false")
        if (part, want) == ("kci-service", "descriptors"):
            # Whatever it needs for a call is open already, but for the caller's own connection.
            assert not _answers(line)
        else:
            eventually(lambda: _complains(log, offset), what=f"{part} says that it has no {want}")
    line.wait_ready(f"pod/{during}", timeout_s=HEALS_S + 20)
    eventually(lambda: deleted not in line.pods(), timeout_s=HEALS_S + 20, what="the deleted pod is gone")
    eventually(lambda: _answers(line), timeout_s=HEALS_S, what="the service takes connections again")
    assert line.process(part) == process, f"{part} has crashed"
    assert line.live_instances()[uid] == instance
    assert lines.restarts(line.pods()[before]) == 0
    line.kubectl("delete", "pods", before, during, "--timeout=60s")


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_a_disk_that_fails_under_the_store_loses_nothing_and_heals(line, recorder, runs, tmp_path, call):
    """The n-th write or flush of the store gets EIO, for n = 1 and on, until there are not so many on the way
    of one pod. What was acknowledged meanwhile is kept by the checker's account.
    """
    step = {"pwrite64": runs.scale(quick=20, faults=8, release=1), "fdatasync": 1}[call]
    line.apply(pod("stays", IDLE))
    line.wait_ready("pod/stays")
    instances = line.live_instances()
    process, log = line.process("kci-service"), line.where.log("kci-service")
    offset = log.stat().st_size
    number, fired, runs.count = 1, True, 0
    while fired:
        name = f"{call}-{number}"
        with _failing_disk(line, process, call, number, tmp_path / "trace") as trace:
            line.apply(pod(name, IDLE))
            line.wait_ready(f"pod/{name}", timeout_s=HEALS_S + 20)
            line.kubectl("delete", "pod", name, "--wait=false")
            eventually(lambda name=name: name not in line.pods(), timeout_s=HEALS_S + 20, what="it is gone")
        fired = "(INJECTED)" in trace.read_text()
        runs.count += fired
        number += step
    assert runs.count > 1
    assert b"disk I/O error" in log.read_bytes()[offset:]
    assert line.process("kci-service") == process, "the service has crashed"
    assert line.live_instances() == instances
    line.kubectl("delete", "pod", "stays", "--timeout=60s")


@contextlib.contextmanager
def _failing_disk(line, process, call, number, trace):
    """The n-th such call on the store's files fails, in a service that runs."""
    store = line.where.service_database
    files = [store.with_name(f"{store.name}{end}") for end in ("", "-wal", "-shm")]
    with subprocess.Popen(
        [
            "strace", "-f", "-p", str(process.pid), "-o", str(trace), "-e", f"trace={call}",
            "-e", f"inject={call}:error=EIO:when={number}",
            *(part for file in files for part in ("-P", str(file))),
        ],
        stderr=subprocess.DEVNULL,
    ) as strace:  # fmt: skip
        try:
            eventually(lambda: _is_traced(process.pid), what="strace watches the service")
            yield trace
        finally:
            # It lets go of the service, which goes on.
            strace.send_signal(signal.SIGINT)


def _is_traced(pid):
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return not any("TracerPid:\t0\n" in (thread / "status").read_text() for thread in threads)
