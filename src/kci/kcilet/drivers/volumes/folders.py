"""The port `Volumes`: everything of a pod below `<state>/pods/<uid>`.

    volumes/<name>             mounted into containers; on a tmpfs if it is to stay in memory
    subpaths/<volume>/<id>     binds of what a sub-path stood for when it was resolved
    files/<name>               hosts file, termination logs

A tenant writes volumes while we work on them, so a path of theirs is only used through a descriptor
that was opened beneath the volume's root (CVE-2017-1002101, CVE-2021-25741).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Sequence

from kci.kcilet import ports
from kci.kcilet.drivers.volumes import atomic, kernel, trees
from kci.kit import tasks
from kci.kube import models

# Pod UIDs, volume and file names become parts of paths.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_EMPTY_DIR_MODE = 0o777
# ConfigMaps and Secrets hold at most 1 MiB each; old and new lie side by side for a moment.
_CONTENT_TMPFS_BYTES = 64 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class PodFolders:
    """`state_dir` is ours alone, and in the mount namespace that the runtime uses."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        self._pods = state_dir / "pods"
        # A sub-path must not be resolved while what it leads through is being exchanged.
        self._locks: dict[models.PodUid, asyncio.Lock] = {}

    async def ensure_volumes(
        self, pod_uid: models.PodUid, volumes: Sequence[ports.ContentVolume | ports.EmptyDir]
    ) -> None:
        for volume in volumes:
            with _driver_errors(f"prepare volume {volume.name!r} of pod {pod_uid}"):
                async with self._lock(pod_uid):
                    await tasks.in_thread(_ensure_volume, self._volume(pod_uid, volume.name), volume)

    async def ensure_file(
        self, pod_uid: models.PodUid, name: str, content: bytes, *, mode: int = 0o644
    ) -> str:
        with _driver_errors(f"write file {name!r} of pod {pod_uid}"):
            path = self._pod(pod_uid) / "files" / _checked(name)
            await tasks.in_thread(_write_in_place, path, content, mode)
            return str(path)

    def host_path(self, pod_uid: models.PodUid, volume: str) -> str:
        return str(self._volume(pod_uid, volume))

    async def ensure_sub_path(self, pod_uid: models.PodUid, volume: str, sub_path: str) -> str:
        with _driver_errors(f"resolve sub-path {sub_path[:256]!r} of volume {volume!r} of pod {pod_uid}"):
            digest = hashlib.sha256(sub_path.encode()).hexdigest()[:16]
            target = self._pod(pod_uid) / "subpaths" / _checked(volume) / digest
            async with self._lock(pod_uid):
                await tasks.in_thread(_bind_sub_path, self._volume(pod_uid, volume), sub_path, target)
            return str(target)

    async def read_file(self, pod_uid: models.PodUid, name: str, *, limit: int) -> bytes:
        with _driver_errors(f"read file {name!r} of pod {pod_uid}"):
            path = self._pod(pod_uid) / "files" / _checked(name)
            return await tasks.in_thread(_read_end, path, limit)

    async def remove_volumes(self, pod_uid: models.PodUid) -> None:
        with _driver_errors(f"remove the volumes of pod {pod_uid}"):
            await tasks.in_thread(_remove_pod, self._pod(pod_uid))
        _ = self._locks.pop(pod_uid, None)

    async def list_pods(self) -> list[models.PodUid]:
        with _driver_errors("list the pods' folders"):
            return await tasks.in_thread(self._list)

    def _list(self) -> list[models.PodUid]:
        if not self._pods.is_dir():
            return []
        names = sorted(entry.name for entry in self._pods.iterdir())
        return [models.PodUid(name) for name in names if _NAME.fullmatch(name)]

    def _lock(self, pod_uid: models.PodUid) -> asyncio.Lock:
        return self._locks.setdefault(pod_uid, asyncio.Lock())

    def _volume(self, pod_uid: models.PodUid, name: str) -> pathlib.Path:
        return self._pod(pod_uid) / "volumes" / _checked(name)

    def _pod(self, pod_uid: models.PodUid) -> pathlib.Path:
        return self._pods / _checked(pod_uid)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ports.DriverError(f"cannot use {name[:64]!r} as the name of a folder or file")
    return name


@contextlib.contextmanager
def _driver_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ports.DriverError(f"cannot {what}: {error.strerror}") from error
    except ValueError as error:
        raise ports.DriverError(f"cannot {what}: {error}") from error


def _ensure_volume(path: pathlib.Path, volume: ports.ContentVolume | ports.EmptyDir) -> None:
    match volume:
        case ports.ContentVolume(files=files, in_memory=in_memory, fs_group=fs_group):
            _ensure_folder(path, mode=0o755, memory_bytes=_CONTENT_TMPFS_BYTES if in_memory else None)
            atomic.write(path, files, fs_group)
        case ports.EmptyDir(in_memory=in_memory, size_limit_bytes=size, fs_group=fs_group):
            # A tmpfs without a size takes half of the machine's memory at most.
            _ensure_folder(path, mode=_EMPTY_DIR_MODE, memory_bytes=(size or 0) if in_memory else None)
            if fs_group is not None:
                _give_to_group(path, fs_group)


def _ensure_folder(path: pathlib.Path, *, mode: int, memory_bytes: int | None) -> None:
    """With `memory_bytes` on a tmpfs of that size, 0 being the kernel's own choice."""
    if not path.is_dir():
        # Under its name only once it is right: a crash in between would leave a wrong mode for good.
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        unfinished.chmod(mode)
        unfinished.rename(path)
    if memory_bytes is not None and not path.is_mount():
        kernel.mount_tmpfs(str(path), size_bytes=memory_bytes or None, mode=mode)


def _give_to_group(path: pathlib.Path, fs_group: int) -> None:
    """As a kubelet does for a volume's root; what is made in it later inherits the group."""
    folder = os.open(path, _FOLDER)
    try:
        found = os.fstat(folder)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_gid != fs_group or not mode & stat.S_ISGID:
            os.fchown(folder, -1, fs_group)
            os.fchmod(folder, mode | stat.S_ISGID | 0o770)
    finally:
        os.close(folder)


def _write_in_place(path: pathlib.Path, content: bytes, mode: int) -> None:
    """The same inode: a container that has the file mounted sees the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, mode), "r+b") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        if file.read(len(content) + 1) != content:
            file.seek(0)
            file.write(content)
            file.truncate()
        os.fchmod(file.fileno(), mode)


def _read_end(path: pathlib.Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b""
        file.seek(max(0, found.st_size - limit))
        return file.read(limit)


def _bind_sub_path(volume: pathlib.Path, sub_path: str, target: pathlib.Path) -> None:
    """What is mounted later is what was found here, whatever the path leads to by then."""
    parts = [part for part in sub_path.split("/") if part not in {"", "."}]
    if not parts or sub_path.startswith("/") or ".." in parts or "\0" in sub_path:
        raise ValueError("it must be a relative path that stays in the volume")
    root = os.open(volume, _FOLDER)
    try:
        found = _open_or_make(root, parts)
        try:
            _bind(found, target)
        finally:
            os.close(found)
    finally:
        os.close(root)


def _open_or_make(root: int, parts: Sequence[str]) -> int:
    """Missing folders are made with the mode of the volume's root, as a kubelet does."""
    mode = stat.S_IMODE(os.fstat(root).st_mode)
    current = os.dup(root)
    for number, part in enumerate(parts):
        try:
            following = kernel.open_beneath(root, "/".join(parts[: number + 1]), os.O_PATH)
        except FileNotFoundError:
            try:
                os.mkdir(part, mode, dir_fd=current)
                following = os.open(part, _FOLDER, dir_fd=current)
                os.fchmod(following, mode)
            except OSError:
                os.close(current)
                raise
        except OSError:
            os.close(current)
            raise
        os.close(current)
        current = following
    return current


def _bind(found: int, target: pathlib.Path) -> None:
    wanted = os.fstat(found)
    if not stat.S_ISDIR(wanted.st_mode) and not stat.S_ISREG(wanted.st_mode):
        raise ValueError("it is neither a folder nor a regular file")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        there = target.stat()
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
            return
        # It led elsewhere before; containers that run keep what they were given.
        _unmount_all(target)
        target.rmdir() if target.is_dir() else target.unlink()
    if stat.S_ISDIR(wanted.st_mode):
        target.mkdir()
    else:
        target.touch()
    kernel.bind(found, str(target))


def _remove_pod(pod: pathlib.Path) -> None:
    for mounted in (*pod.glob("subpaths/*/*"), *pod.glob("volumes/*")):
        _unmount_all(mounted)
    trees.remove(pod)


def _unmount_all(path: pathlib.Path) -> None:
    """Mounts may lie on each other."""
    while kernel.unmount(str(path)):
        continue
