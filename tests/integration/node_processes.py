"""The processes of a node, seen from inside its namespaces: containerd, shims, and those of pods."""

import dataclasses
import os
import pathlib
import signal

from kci.kit import environment

PROC = pathlib.Path("/proc")


@dataclasses.dataclass(frozen=True)
class Process:
    """With its start time, so that another one of the same number is another."""

    pid: int
    started: str

    def send(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)


def observe(pid):
    # The fields after the name, which stands in brackets: the start time is the 22nd of all.
    return Process(pid, (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])


def is_traced(pid):
    """By strace, with every thread."""
    return not any(
        "TracerPid:\t0\n" in (thread / "status").read_text()
        for thread in (PROC / str(pid) / "task").iterdir()
    )


def containerd():
    """The one that runs now; needs a node that comes back."""
    return observe(int(pathlib.Path(environment.read()["KCI_TEST_ROOT"], "containerd.pid").read_text()))


def shims():
    return [
        observe(pid)
        for pid, words in _commands()
        if words[0].rpartition("/")[2].startswith("containerd-shim")
    ]


def shim_of(sandbox_id):
    (found,) = [pid for pid, words in _commands() if "containerd-shim" in words[0] and sandbox_id in words]
    return observe(found)


def of_container(container_id):
    """The container's processes, its first one first."""
    top = pathlib.Path("/sys/fs/cgroup/pids", environment.read()["KCI_TEST_CGROUP"])
    pids = [
        pid
        for folder in top.glob(f"*/{container_id}")
        for pid in (folder / "cgroup.procs").read_text().split()
    ]
    return [observe(pid) for pid in sorted(map(int, pids))]


def _commands():
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if words[0]:
                yield int(entry.name), words
