"""System calls that Python lacks: mounts, and opening a path that cannot leave its folder."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.syscall.restype = ctypes.c_long

_MS_NOSUID, _MS_NODEV, _MS_BIND = 2, 4, 4096
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
# The same number on every architecture that has it (Linux 5.6).
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_TRIES = 16


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def mount_tmpfs(target: str, *, size_bytes: int | None, mode: int) -> None:
    """OSError if it fails."""
    options = f"mode={mode:o}" + (f",size={size_bytes}" if size_bytes else "")
    _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


def bind(descriptor: int, target: str) -> None:
    """Bind what an open descriptor stands for, so that no path can be exchanged in between."""
    _mount(f"/proc/thread-self/fd/{descriptor}", target, "", _MS_BIND, "")


def unmount(target: str) -> bool:
    """Also a busy one: it leaves the tree at once and ends with its last user. False if there was none."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        return True
    number = ctypes.get_errno()
    # EINVAL: not a mount point.
    if number in {errno.EINVAL, errno.ENOENT}:
        return False
    raise OSError(number, os.strerror(number), target)


def open_beneath(root: int, path: str, flags: int) -> int:
    """Open a path below a folder. Links are followed only as long as they stay below it."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_TRIES):
        descriptor: int = _libc.syscall(
            _SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number in {errno.ENOSYS, errno.EPERM}:
            return walk_beneath(root, path, flags)
        # EAGAIN: something was renamed meanwhile, and the kernel could not be sure.
        if number != errno.EAGAIN:
            raise OSError(number, os.strerror(number), path)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def walk_beneath(root: int, path: str, flags: int) -> int:
    """Without openat2: part by part, following no link at all."""
    current = os.dup(root)
    try:
        parts = [part for part in path.split("/") if part not in {"", "."}]
        if ".." in parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            step = flags if is_last else os.O_PATH | os.O_DIRECTORY
            following = os.open(part, step | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = following
            if stat.S_ISLNK(os.fstat(current).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return current
    except OSError:
        os.close(current)
        raise


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(kind), flags, os.fsencode(options)
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
