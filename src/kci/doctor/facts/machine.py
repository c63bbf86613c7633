"""What the machine has. Blocking, each function by itself; in the network namespace of the process."""

from __future__ import annotations

import ctypes
import datetime
import os
import pathlib
import shutil

from kci.doctor.findings import machine as findings
from kci.kit import linkgroups
from kci.stack import (
    addresses,
    cgroups,
    containerd,
    errors,
    layout,
    lifecycle,
    links,
    namespaces,
    otherfirewalls,
    preparation,
    record,
    settings,
    trial,
    typed,
)

_UNSYNCHRONIZED = 0x40
_PROC = pathlib.Path("/proc")
# pid_max and threads-max bound the same; the lower one counts.
_LIMITS = ("sys/kernel/pid_max", "sys/kernel/threads-max")


class _Timex(ctypes.Structure):
    """The beginning of the kernel's struct timex, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 40),
    )


def user_id() -> int:
    return os.geteuid()


def missing_tools() -> dict[str, str]:
    path = settings.read_machine().path
    return {tool: package for tool, package in lifecycle.TOOLS.items() if not shutil.which(tool, path=path)}


def try_kernel() -> tuple[str, tuple[str, ...]]:
    """What is missing for every pod, and what for some."""
    try:
        return "", trial.run()
    except errors.StackError as error:
        return str(error), ()


def cgroup_facts(root: pathlib.Path = cgroups.ROOT) -> findings.Cgroups:
    writable = not os.statvfs(root).f_flag & os.ST_RDONLY
    whole = root / "cgroup.controllers"
    if whole.exists():
        return findings.Cgroups(frozenset({2}), frozenset(whole.read_text().split()), writable)
    unified = root / namespaces.UNIFIED.name
    # Of version 1 each controller that is on has a folder.
    folders = {entry.name for entry in root.iterdir() if entry.is_dir() and entry != unified}
    versions = {1} if folders else set()
    if (unified / "cgroup.controllers").exists():
        versions.add(2)
    return findings.Cgroups(frozenset(versions), frozenset(folders), writable)


def runtime(asked: settings.Settings) -> findings.Runtime:
    here = settings.read_machine()
    try:
        found = containerd.find_binaries(asked.runtime, here)
        version = containerd.runtime_version(found.runtime, here) or ()
    except errors.StackError as error:
        return findings.Runtime(problem=str(error))
    return findings.Runtime(found.containerd_version, found.runtime, ".".join(map(str, version)))


def available_mib() -> int:
    for line in (_PROC / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) // 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def space(folder: pathlib.Path) -> findings.Space:
    """Of the folder, or the nearest one above it that exists."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    seen = os.statvfs(there)
    return findings.Space(
        str(there),
        seen.f_blocks * seen.f_frsize,
        seen.f_bavail * seen.f_frsize,
        seen.f_files,
        seen.f_favail,
    )


def pids(root: pathlib.Path = cgroups.ROOT) -> findings.Pids:
    used = int((_PROC / "loadavg").read_text().split()[3].partition("/")[2])
    most = min(int((_PROC / name).read_text()) for name in _LIMITS)
    for line in (_PROC / "self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names and "pids" not in names.split(","):
            continue
        folder = (root / "pids" if names else root) / path.lstrip("/")
        try:
            limit = (folder / "pids.max").read_text().strip()
            current = int((folder / "pids.current").read_text())
        except OSError:
            continue
        if limit != "max":
            return findings.Pids(used, most, current, int(limit))
    return findings.Pids(used, most)


def clock() -> findings.Clock:
    seen = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(seen)) < 0:
        raise OSError(ctypes.get_errno(), "cannot ask the kernel of its clock")
    now = datetime.datetime.now(datetime.UTC)
    return findings.Clock(now.year, is_synchronized=not seen.status & _UNSYNCHRONIZED)


def firewalls(where: layout.Layout, place: typed.Place) -> tuple[str, ...]:
    return otherfirewalls.find_warnings(where.bridge, place)


def ranges(where: layout.Layout, asked: settings.Settings) -> tuple[str, str, str]:
    """What is in the way of the stack's ranges, and which those are: chosen before, or now."""
    kept = record.read_choices(where)
    try:
        found = addresses.choose_ranges(
            pods=asked.pod_cidr,
            services=asked.service_cidr,
            own_control_plane=asked.own_control_plane,
            routes=links.list_routes(),
            bridge=where.bridge,
            link_group=linkgroups.number_of(where.bridge),
            kept=preparation.kept_ranges(kept) if kept else None,
        )
    except errors.StackError as error:
        return str(error), "", ""
    return "", str(found.pods), str(found.services or "")


def resolvers(asked: settings.Settings, gateway: str) -> tuple[str, ...]:
    return preparation.read_resolvers(asked.netns, own=gateway)
