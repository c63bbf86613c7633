"""The stack's cgroups: whatever still runs in them is ours, so they say what `kci down` must end."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import time

from kci.stack import errors

ROOT = pathlib.Path("/sys/fs/cgroup")
PATIENCE_S = 10.0
INTERVAL_S = 0.02


def check_mounted(root: pathlib.Path = ROOT) -> None:
    """StackError if there is no hierarchy of either version: then no container starts."""
    if (root / "cgroup.controllers").exists() or any(root.glob("*/cgroup.procs")):
        return
    raise errors.StackError(
        f"cannot start containers: no cgroups are mounted in {root}; `mount -t cgroup2 none {root}`, and "
        "where `ip netns exec` hides them, use `kci up --netns NAME` or `nsenter --net` instead"
    )


def remove(parent: str) -> None:
    """Kill all that runs below this cgroup, in every hierarchy, and remove it. Blocking; safe twice."""
    end = time.monotonic() + PATIENCE_S
    while left := _folders(parent):
        for folder in left:
            _kill_members(folder)
            with contextlib.suppress(FileNotFoundError, OSError):
                folder.rmdir()
        if time.monotonic() > end:
            raise errors.StackError(f"cannot remove the cgroup {left[-1]}: something in it does not end")
        time.sleep(INTERVAL_S)


def list_members(parent: str) -> set[int]:
    """Pids of all that runs below this cgroup."""
    members: set[int] = set()
    for folder in _folders(parent):
        members.update(_members(folder))
    return members


def _folders(parent: str) -> list[pathlib.Path]:
    """Deepest first. Under v1 each controller is a folder of the root; some are links to others."""
    tops = [folder for folder in (ROOT / parent, *ROOT.glob(f"*/{parent}")) if folder.is_dir()]
    return [pathlib.Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]


def _kill_members(folder: pathlib.Path) -> None:
    for pid in _members(folder):
        # Members of our own cgroup: what the pid means cannot be anybody else's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _members(folder: pathlib.Path) -> list[int]:
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []
