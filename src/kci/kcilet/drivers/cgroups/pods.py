"""The port `Cgroups`: `/<parent>/pod<uid>` in every hierarchy of the machine.

The runtime makes the containers' cgroups below it and never removes the parent, so that is done
here: in every hierarchy, not only those with limits, because the runtime makes it in all.
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
import signal
import time
from collections.abc import Mapping

import structlog

from kci.kcilet import ports
from kci.kcilet.drivers.cgroups import limits as limit_files
from kci.kit import tasks
from kci.kube import models

log = structlog.get_logger(__name__)

_CONTROLLERS = ("cpu", "memory", "pids")
_POD_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
# Killed processes leave their cgroup a moment after they were killed.
_EMPTY_WITHIN_S = 5.0
_LOOK_AGAIN_S = 0.01


class PodCgroups:
    """`parent` is a single name below the root of the hierarchies."""

    def __init__(self, parent: str, *, root: pathlib.Path = pathlib.Path("/sys/fs/cgroup")) -> None:
        self._parent = parent.strip("/")
        self._root = root
        self._is_v2 = (root / "cgroup.controllers").exists()

    async def ensure_cgroup(
        self, pod_uid: models.PodUid, *, cpu_milli: int, memory_mib: int, pids: int
    ) -> str:
        path = self._pod_path(pod_uid)
        limits = limit_files.Limits(cpu_milli=cpu_milli, memory_mib=memory_mib, pids=pids)
        await tasks.in_thread(self._ensure, path, limits)
        return f"/{path}"

    async def remove_cgroup(self, pod_uid: models.PodUid) -> None:
        """Ends what still runs in it: by now the runtime has lost it, and it must not go on."""
        await tasks.in_thread(self._remove, self._pod_path(pod_uid))

    async def list_dead(
        self, containers: Mapping[ports.ContainerId, models.PodUid]
    ) -> set[ports.ContainerId]:
        return await tasks.in_thread(self._list_dead, containers)

    async def remove_parent(self) -> None:
        """Remove the parent of all pods with everything in it; when the machine is drained."""
        await tasks.in_thread(self._remove, self._parent)

    def _list_dead(self, containers: Mapping[ports.ContainerId, models.PodUid]) -> set[ports.ContainerId]:
        hierarchy = self._root if self._is_v2 else self._root / "pids"
        return {
            container_id
            for container_id, pod_uid in containers.items()
            if not _has_processes(hierarchy / self._pod_path(pod_uid) / container_id)
        }

    def path_of(self, pod_uid: models.PodUid) -> str:
        """Below the root of each hierarchy."""
        return self._pod_path(pod_uid)

    def _pod_path(self, pod_uid: models.PodUid) -> str:
        if not _POD_UID.fullmatch(pod_uid):
            raise ports.DriverError(f"cannot make a cgroup for the pod UID {pod_uid[:64]!r}: it is no UID")
        return f"{self._parent}/pod{pod_uid}"

    def _hierarchies(self) -> list[pathlib.Path]:
        if self._is_v2:
            return [self._root]
        # cpu and cpuacct are often links to one hierarchy.
        return sorted({entry.resolve() for entry in self._root.iterdir() if entry.is_dir()})

    def _ensure(self, path: str, limits: limit_files.Limits) -> None:
        try:
            if self._is_v2:
                self._make_v2(path)
                _write_all(self._root / path, limit_files.to_v2_files(limits))
                return
            for controller, files in limit_files.to_v1_files(limits).items():
                folder = self._root / controller / path
                folder.mkdir(parents=True, exist_ok=True)
                _write_all(folder, files)
        except OSError as error:
            raise ports.DriverError(
                f"cannot set the limits of cgroup /{path}: {error.strerror} ({error.filename})"
            ) from error

    def _make_v2(self, path: str) -> None:
        """A controller is in a cgroup only if each one above hands it down."""
        folder = self._root
        for part in pathlib.Path(path).parts:
            (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in _CONTROLLERS))
            folder /= part
            folder.mkdir(exist_ok=True)

    def _remove(self, path: str) -> None:
        for hierarchy in self._hierarchies():
            try:
                _remove_tree(hierarchy / path)
            except OSError as error:
                raise ports.DriverError(
                    f"cannot remove cgroup /{path}: {error.strerror} ({error.filename})"
                ) from error


def _has_processes(folder: pathlib.Path) -> bool:
    """Also in cgroups that the container made below its own. DriverError if it cannot be told: what is only
    not seen must not be taken for dead.
    """
    try:
        walk = os.walk(folder, onerror=_raise)
        return any(pathlib.Path(top, "cgroup.procs").read_bytes() for top, _, _ in walk)
    except OSError as error:
        # It is being removed, which can be done only without processes.
        if error.errno in {errno.ENOENT, errno.ENODEV}:
            return False
        raise ports.DriverError(
            f"cannot look for the processes of cgroup {folder}: {error.strerror}"
        ) from error


def _raise(error: OSError) -> None:
    raise error


def _write_all(folder: pathlib.Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        # A value that stands already is not written: a CPU quota may be refused while children have
        # one, even the same.
        file = folder / name
        if file.read_text().strip() != content:
            file.write_text(content)


def _remove_tree(top: pathlib.Path) -> None:
    """Deepest first; processes in it are killed."""
    deadline = time.monotonic() + _EMPTY_WITHIN_S
    while True:
        folders = [pathlib.Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
        try:
            for folder in folders:
                folder.rmdir()
            return
        except FileNotFoundError:
            continue
        except OSError:
            if time.monotonic() > deadline:
                raise
        for folder in folders:
            _kill_all(folder)
        time.sleep(_LOOK_AGAIN_S)


def _kill_all(folder: pathlib.Path) -> None:
    try:
        pids = [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return
    # 0 stands for processes of other process namespaces, and would be ourselves.
    for pid in filter(None, pids):
        log.warning("ending a process that its pod left behind", cgroup=str(folder), pid=pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
