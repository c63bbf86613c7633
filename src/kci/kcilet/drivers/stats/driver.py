"""The port `Stats`: reads the accounts of many pods in one go, in a thread.

A cgroup that goes while it is read is left out, as one that was never there; so is a container that the
machine's cgroups do not show, such as one in a virtual machine.
"""

from __future__ import annotations

import errno
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

from kci.kcilet import ports
from kci.kcilet.drivers.stats import accounts
from kci.kit import tasks
from kci.kube import models
from kci.link import types as link

# Removed, or being removed.
_GONE = frozenset((errno.ENOENT, errno.ENODEV))
_READ_BYTES = 16 << 10
# Of this process, whichever network namespace one of its threads is in for a moment.
_LINKS = pathlib.Path("/proc/self/net/dev")


class MachineStats:
    """`cgroup_of` says where a pod's cgroup is below each hierarchy's root, `link_of` the name of its link on
    the machine's side.
    """

    def __init__(
        self,
        *,
        cgroup_of: Callable[[models.PodUid], str],
        link_of: Callable[[models.PodUid], str],
        root: pathlib.Path = pathlib.Path("/sys/fs/cgroup"),
        links: pathlib.Path = _LINKS,
    ) -> None:
        self._cgroup_of = cgroup_of
        self._link_of = link_of
        self._root = root
        self._links = links
        self._is_v2 = (root / "cgroup.controllers").exists()
        self._files = accounts.V2 if self._is_v2 else accounts.V1

    async def read_usage(
        self, pods: Mapping[models.PodUid, Sequence[ports.ContainerId]]
    ) -> Mapping[models.PodUid, ports.PodUsage]:
        return await tasks.in_thread(self._read_all, pods)

    def _read_all(
        self, pods: Mapping[models.PodUid, Sequence[ports.ContainerId]]
    ) -> dict[models.PodUid, ports.PodUsage]:
        try:
            traffic = accounts.to_traffic(self._links.read_text())
            found = {uid: self._read_pod(uid, containers, traffic) for uid, containers in pods.items()}
        except (OSError, ValueError) as error:
            raise ports.DriverError(f"cannot read what pods use: {error}") from error
        return {uid: usage for uid, usage in found.items() if usage is not None}

    def _read_pod(
        self,
        pod_uid: models.PodUid,
        containers: Sequence[ports.ContainerId],
        traffic: Mapping[str, link.Traffic],
    ) -> ports.PodUsage | None:
        path = self._cgroup_of(pod_uid)
        # The pod's own cgroup holds no process: they are in the containers' and the sandbox's.
        usage = self._read(path, count=self._count_below)
        if usage is None:
            return None
        found = {one: self._read(f"{path}/{one}", count=self._count_in) for one in containers}
        return ports.PodUsage(
            usage=usage,
            traffic=traffic.get(self._link_of(pod_uid)),
            containers={one: of_one for one, of_one in found.items() if of_one is not None},
        )

    def _read(self, path: str, *, count: Callable[[str], int]) -> link.Usage | None:
        files = self._files
        try:
            contents = accounts.Contents(
                # Of the CPU's account, as rates are made of these two.
                time_ns=time.time_ns(),
                cpu=self._text(files.cpu, path),
                memory=self._text(files.memory, path),
                memory_limit=self._text(files.memory_limit, path),
                memory_stat=self._text(files.memory_stat, path),
                processes=count(path),
            )
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return accounts.to_usage(contents, is_v2=self._is_v2)

    def _text(self, file: tuple[str, str], path: str) -> str:
        controller, name = file
        return _read_text(f"{self._root}/{controller}/{path}/{name}")

    def _count_in(self, path: str) -> int:
        return self._text(self._files.processes, path).count("\n")

    def _count_below(self, path: str) -> int:
        folder = self._root / self._files.processes[0] / path
        with os.scandir(folder) as entries:
            below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return sum(self._count_if_there(f"{path}/{name}") for name in below)

    def _count_if_there(self, path: str) -> int:
        try:
            return self._count_in(path)
        except OSError as error:
            if error.errno in _GONE:
                return 0
            raise


def _read_text(path: str) -> str:
    """Without Python's layers over it: of a thousand pods these are many thousand files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts).decode()
