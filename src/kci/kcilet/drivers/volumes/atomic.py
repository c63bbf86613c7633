"""Content that is exchanged as a whole: a reader sees all of the old files or all of the new.

    volume/..2026_11_23_18_00_00.<id>-<shape>/user/name   the files
    volume/..data  -> ..2026_11_23_18_00_00.<id>-<shape>  exchanged by one rename
    volume/user    -> ..data/user                         what the container sees

Ported from pkg/volume/util/atomic_writer.go (1.36). What differs: the folder's name ends with a
digest of the files' paths, modes and owners, which takes the place of walking the old tree; and whatever
else begins with `..` is an unfinished write of before and is removed. Containers mount such a
volume read-only; it is written through descriptors all the same, following no link.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import pathlib
import stat
import uuid
from collections.abc import Sequence

from kci.kcilet import ports
from kci.kcilet.drivers.volumes import kernel, trees

_DATA, _NEW_DATA = "..data", "..data_tmp"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_PATH, _MAX_NAME = 4096, 255
# fsGroup on what containers only read (pkg/volume/volume_linux.go).
_GROUP_READ, _GROUP_ENTER = 0o440, 0o110


def write(folder: pathlib.Path, files: Sequence[ports.VolumeFile], fs_group: int | None) -> None:
    """Make the folder show exactly these files. OSError or ValueError if that cannot be done."""
    for file in files:
        check_path(file.path)
    root = os.open(folder, _FOLDER)
    try:
        if fs_group is not None:
            _give_to_group(root, fs_group)
        shape = _shape(files, fs_group)
        current = _read_link(root, _DATA)
        if current is None or not current.endswith(f"-{shape}") or not _holds(root, current, files):
            current = _write_new(root, shape, files, fs_group)
        visible = {pathlib.PurePosixPath(file.path).parts[0] for file in files}
        _show(root, visible)
        _clear(folder, root, {*visible, _DATA, current})
    finally:
        os.close(root)


def check_path(path: str) -> None:
    """ValueError unless it is a relative path that stays below, and is not one of our own names."""
    # Without what says nothing: "./..data" is one of ours as well.
    parts = pathlib.PurePosixPath(path).parts
    if (
        not parts
        or "\0" in path
        or path.startswith("/")
        or ".." in parts
        or parts[0].startswith("..")
        or len(path.encode()) > _MAX_PATH
        or any(len(part.encode()) > _MAX_NAME for part in parts)
    ):
        raise ValueError(f"the path {path[:256]!r} does not stay in the volume")


def _write_new(root: int, shape: str, files: Sequence[ports.VolumeFile], fs_group: int | None) -> str:
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y_%m_%d_%H_%M_%S")
    name = f"..{moment}.{uuid.uuid4().hex[:8]}-{shape}"
    target = _make_folder(root, name, fs_group)
    try:
        for file in files:
            _write_file(target, file, fs_group)
    finally:
        os.close(target)
    _unlink(root, _NEW_DATA)
    os.symlink(name, _NEW_DATA, dir_fd=root)
    os.rename(_NEW_DATA, _DATA, src_dir_fd=root, dst_dir_fd=root)
    return name


def _write_file(target: int, file: ports.VolumeFile, fs_group: int | None) -> None:
    *folders, name = pathlib.PurePosixPath(file.path).parts
    current = os.dup(target)
    try:
        for part in folders:
            inner = _make_folder(current, part, fs_group)
            os.close(current)
            current = inner
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=current), "wb") as output:
            output.write(file.content)
            if fs_group is not None or file.owner is not None:
                group = -1 if fs_group is None else fs_group
                os.fchown(output.fileno(), -1 if file.owner is None else file.owner, group)
            os.fchmod(output.fileno(), file.mode | (_GROUP_READ if fs_group is not None else 0))
    finally:
        os.close(current)


def _make_folder(parent: int, name: str, fs_group: int | None) -> int:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        return os.open(name, _FOLDER, dir_fd=parent)
    folder = os.open(name, _FOLDER, dir_fd=parent)
    os.fchmod(folder, 0o755)
    if fs_group is not None:
        _give_to_group(folder, fs_group)
    return folder


def _give_to_group(folder: int, fs_group: int) -> None:
    os.fchown(folder, -1, fs_group)
    mode = stat.S_IMODE(os.fstat(folder).st_mode)
    os.fchmod(folder, mode | stat.S_ISGID | _GROUP_READ | _GROUP_ENTER)


def _holds(root: int, current: str, files: Sequence[ports.VolumeFile]) -> bool:
    """Read back, because a crash of the machine may have kept names without content."""
    for file in files:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = kernel.open_beneath(root, f"{current}/{file.path}", flags)
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as found:
            if found.read(len(file.content) + 1) != file.content:
                return False
    return True


def _show(root: int, names: set[str]) -> None:
    for name in names:
        target = f"{_DATA}/{name}"
        if _read_link(root, name) != target:
            _unlink(root, name)
            os.symlink(target, name, dir_fd=root)


def _clear(folder: pathlib.Path, root: int, keep: set[str]) -> None:
    for name in os.listdir(root):
        if name in keep:
            continue
        try:
            os.unlink(name, dir_fd=root)
        except IsADirectoryError:
            trees.remove(folder / name)


def _shape(files: Sequence[ports.VolumeFile], fs_group: int | None) -> str:
    lines = sorted(f"{pathlib.PurePosixPath(file.path)}\0{file.mode:o}\0{file.owner}" for file in files)
    return hashlib.sha256("\n".join([str(fs_group), *lines]).encode()).hexdigest()[:16]


def _read_link(root: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=root)
    except OSError:
        return None


def _unlink(root: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=root)
    except FileNotFoundError:
        return
