"""Network and mount namespaces of a stack.

`enter_*` change the calling process and must come before its first thread. The private mount
namespace is shared by all parts, so that a tmpfs the kcilet mounts is there for containerd.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import subprocess
from collections.abc import Sequence

from kci.stack import errors, processes, record

NETNS_FOLDER = pathlib.Path("/run/netns")
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_BIND, MS_MOVE = 0x1000, 0x2000
MS_REC, MS_SLAVE, MS_SHARED = 0x4000, 0x80000, 0x100000
CGROUPS = pathlib.Path("/sys/fs/cgroup")
UNIFIED = CGROUPS / "unified"
COMMAND_TIMEOUT_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def netns_path(name: str) -> pathlib.Path:
    return NETNS_FOLDER / name


def has_netns(name: str) -> bool:
    """Whether the name is a namespace's; a file without one is what is left if making it was cut short."""
    path = netns_path(name)
    return path.exists() and path.stat().st_dev != path.parent.stat().st_dev


def add_netns(name: str) -> None:
    """Make it under the name that `ip netns` knows. Not by that command, which makes its folder a mount
    that stays for ever.
    """
    path = netns_path(name)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.touch(mode=0o444, exist_ok=True)
    _run(["unshare", f"--net={path}", "true"], f"cannot make the network namespace {name}")


def remove_netns(name: str, mount_namespace: int | None = None) -> None:
    """Remove it if it is there; in another mount namespace (an open descriptor) if given, since a name
    that was mounted there is there to stay until it is unmounted there.
    """
    argv = ["ip", "netns", "delete", name]
    if mount_namespace is not None:
        argv = ["nsenter", f"--mount=/proc/self/fd/{mount_namespace}", *argv]
    if netns_path(name).exists():
        keep = () if mount_namespace is None else (mount_namespace,)
        _run(argv, f"cannot remove the network namespace {name}", keep)


def enter_netns(name: str) -> None:
    _set_namespace(netns_path(name), CLONE_NEWNET)


def enter_network_of(process: record.ProcessId) -> bool:
    """Join the network namespace of a process; False if it is gone meanwhile."""
    return _join(process, "net", CLONE_NEWNET)


def enter_network_of_stack(state: record.State) -> None:
    """Join the network namespace that a stack is in: its supervisor's, or of one that was killed the one that
    has its name.
    """
    living = state.supervisor if processes.is_alive(state.supervisor) else None
    if living is not None and enter_network_of(living):
        return
    if state.netns and has_netns(state.netns):
        enter_netns(state.netns)


def enter_mounts_of(process: record.ProcessId) -> bool:
    """Join the mount namespace of a process; False if it is gone meanwhile."""
    return _join(process, "mnt", CLONE_NEWNS)


def enter_new_mounts() -> None:
    """A mount namespace of our own: the machine's mounts come in, none of ours goes out, and containers
    see ours.
    """
    _check(_libc.unshare(CLONE_NEWNS), "cannot make a private mount namespace")
    _mount("none", "/", MS_REC | MS_SLAVE)
    if os.path.ismount(UNIFIED):
        _leave_out_unified()
    _mount("none", "/", MS_REC | MS_SHARED)


def _leave_out_unified() -> None:
    """Show the hierarchies of version 1 alone, in a new folder over the machine's. crun refuses a machine
    with both versions mounted, and where merely the mount is gone it makes plain folders that nobody removes.
    """
    _mount("none", UNIFIED, 0, "tmpfs")
    for entry in sorted(CGROUPS.iterdir()):
        shown = UNIFIED / entry.name
        if entry.is_symlink():
            shown.symlink_to(entry.readlink())
        elif entry != UNIFIED:
            shown.mkdir()
            _mount(str(entry), shown, MS_BIND)
    _mount(str(UNIFIED), CGROUPS, MS_MOVE)


def _mount(source: str, target: pathlib.Path | str, flags: int, kind: str | None = None) -> None:
    done = _libc.mount(
        source.encode(), os.fsencode(target), kind and kind.encode(), ctypes.c_ulong(flags), None
    )
    _check(done, f"cannot mount {target} in a private mount namespace")


def _join(process: record.ProcessId, name: str, kind: int) -> bool:
    try:
        _set_namespace(pathlib.Path(f"/proc/{process.pid}/ns/{name}"), kind)
    except errors.StackError:
        if processes.is_alive(process):
            raise
        return False
    return True


def _set_namespace(path: pathlib.Path, kind: int) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.StackError(f"cannot enter the namespace {path}: {error.strerror}") from error
    try:
        _check(_libc.setns(descriptor, kind), f"cannot enter the namespace {path}")
    finally:
        os.close(descriptor)


def _check(result: int, sentence: str) -> None:
    if result != 0:
        raise errors.StackError(f"{sentence}: {os.strerror(ctypes.get_errno())}")


def _run(argv: Sequence[str], sentence: str, descriptors: Sequence[int] = ()) -> None:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False, pass_fds=descriptors
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.StackError(f"{sentence}: {error}") from error
    if done.returncode != 0:
        raise errors.StackError(f"{sentence}: {done.stderr.strip()}")
