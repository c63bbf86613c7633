"""The machine on which `kci up` runs. Pure.

Where too little is left follows the kubelet's eviction thresholds (pkg/kubelet/eviction/defaults_linux.go,
v1.36: memory 100Mi, file system 10 %, inodes 5 %); where next to nothing is left, pods fail.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from kci.doctor.findings import finding
from kci.stack import settings, typed

MEMORY_LOW_MIB, MEMORY_NONE_MIB = 1024, 100
SPACE_LOW, INODES_LOW = 0.10, 0.05
SPACE_NONE_MIB, INODES_NONE = 256, 1000
PIDS_HIGH = 0.8
# What stack/containerd.py writes is read from this version on.
CONTAINERD_MINIMUM = (1, 6)
CONTROLLERS = ("cpu", "memory", "pids")
# As kit, service and kcilet are released after it: a clock before it is surely wrong.
OLDEST_YEAR = 2025


@dataclasses.dataclass(frozen=True)
class Cgroups:
    """`versions` that are mounted; `controllers` that are on in what containers get."""

    versions: frozenset[int]
    controllers: frozenset[str]
    is_writable: bool = True


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What containers would be started with; `problem` says why with nothing."""

    containerd: str = ""
    handler: str = ""
    handler_version: str = ""
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Space:
    """Of the file system that holds `path`. No inodes: it has no fixed number of them."""

    path: str
    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int


@dataclasses.dataclass(frozen=True)
class Pids:
    """Processes and threads: how many there are and may be, of the machine and of the cgroup we are in."""

    used: int
    most: int
    in_cgroup: int = 0
    most_in_cgroup: int | None = None


@dataclasses.dataclass(frozen=True)
class Clock:
    year: int
    is_synchronized: bool


def judge_privileges(uid: int, place: typed.Place) -> finding.Finding:
    if uid == 0:
        return finding.well("we are root")
    return finding.wrong(
        "we are not root, and much of a stack only root may see", f"sudo {place.kci('doctor')}"
    )


def judge_tools(missing: Mapping[str, str]) -> finding.Finding:
    """`missing` has a package for each program that is not there."""
    if not missing:
        return finding.well("the programs that kci up calls are there")
    return finding.wrong(
        f"not installed: {', '.join(sorted(missing))}",
        f"apt install {' '.join(sorted(set(missing.values())))}",
    )


def judge_kernel(problem: str, lacks: Iterable[str]) -> list[finding.Finding]:
    """What the trial of nftables and queues said: the first thing missing, or what some pods lack."""
    if problem:
        remedy = "apt install nftables, and boot a kernel with the options of docs/machine.md"
        return [finding.of_sentence(finding.Level.WRONG, problem, otherwise=remedy)]
    remedy = "boot a kernel with the options of docs/machine.md"
    found = [finding.of_sentence(finding.Level.WARNING, text, otherwise=remedy) for text in lacks]
    return found or [finding.well("nftables and queues have all that pods' networks need")]


def judge_cgroups(seen: Cgroups, place: typed.Place) -> finding.Finding:
    if not seen.versions:
        return finding.wrong("no cgroups are mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    if not seen.is_writable:
        return finding.wrong(
            "/sys/fs/cgroup is read-only, so no container starts", "mount -o remount,rw /sys/fs/cgroup"
        )
    missing = [name for name in CONTROLLERS if name not in seen.controllers]
    if missing:
        return finding.wrong(
            f"the kernel has these cgroup controllers off: {', '.join(missing)}",
            "boot with cgroup_enable=memory, without cgroup_disable=…, and "
            f'echo "{" ".join(f"+{name}" for name in missing)}" > /sys/fs/cgroup/cgroup.subtree_control',
        )
    if len(seen.versions) > 1:
        if not place.asked.own_containerd and place.asked.runtime is not settings.Runtime.RUNC:
            return finding.warning(
                "cgroups of version 1 and 2 are both mounted, and crun in a containerd that is not ours "
                "refuses that",
                f"{place.up} --runtime runc, or umount /sys/fs/cgroup/unified",
            )
        return finding.well("cgroups of version 1 and 2; containers of our containerd see version 1 alone")
    return finding.well(f"cgroups of version {min(seen.versions)}")


def judge_runtime(seen: Runtime) -> finding.Finding:
    if seen.problem:
        return finding.of_sentence(finding.Level.WRONG, seen.problem, otherwise="apt install containerd runc")
    if _version(seen.containerd) < CONTAINERD_MINIMUM:
        return finding.wrong(
            f"containerd {seen.containerd or 'of an unknown version'} is older than "
            f"{'.'.join(map(str, CONTAINERD_MINIMUM))}, whose configuration it is given",
            "apt install containerd, from a newer release",
        )
    return finding.well(f"containerd {seen.containerd}, {seen.handler} {seen.handler_version}")


def judge_cri(socket: str, answer: str) -> finding.Finding:
    """Of another containerd; `answer` is why it takes no connection."""
    if answer:
        return finding.wrong(
            f"nobody answers at {socket}, which --cri-endpoint names: {answer}",
            "systemctl restart containerd",
        )
    return finding.well(f"a runtime answers at {socket}")


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def judge_memory(available_mib: int) -> finding.Finding:
    text = f"{available_mib} MiB of memory are available"
    remedy = "see what takes it: ps aux --sort=-rss | head"
    if available_mib < MEMORY_NONE_MIB:
        return finding.wrong(f"only {text}", remedy)
    if available_mib < MEMORY_LOW_MIB:
        return finding.warning(f"only {text}", remedy)
    return finding.well(text)


def judge_space(seen: Space) -> finding.Finding:
    free_mib = seen.free_bytes // 2**20
    text = f"{free_mib} MiB are free for {seen.path}"
    remedy = f"free some, or move the state folder: du -xh {seen.path} | sort -h | tail"
    if free_mib < SPACE_NONE_MIB:
        return finding.wrong(f"only {text}", remedy)
    if seen.free_bytes < seen.total_bytes * SPACE_LOW:
        return finding.warning(f"only {text}, less than a tenth", remedy)
    return finding.well(text)


def judge_inodes(seen: Space) -> finding.Finding:
    if not seen.total_inodes:
        return finding.well(f"the file system of {seen.path} has no fixed number of inodes")
    text = f"{seen.free_inodes} inodes are free for {seen.path}"
    remedy = f"find what has many files: du -x --inodes {seen.path} | sort -n | tail"
    if seen.free_inodes < INODES_NONE:
        return finding.wrong(f"only {text}", remedy)
    if seen.free_inodes < seen.total_inodes * INODES_LOW:
        return finding.warning(f"only {text}, less than a twentieth", remedy)
    return finding.well(text)


def judge_pids(seen: Pids) -> finding.Finding:
    rows = [("the machine", seen.used, seen.most, "sysctl -w kernel.pid_max=4194304")]
    if seen.most_in_cgroup is not None:
        remedy = "raise pids.max of this shell's cgroup, or TasksMax= of its systemd unit"
        rows.append(("our cgroup", seen.in_cgroup, seen.most_in_cgroup, remedy))
    for where, used, most, remedy in rows:
        if used >= most * PIDS_HIGH:
            text = f"{used} of {most} processes and threads of {where} are taken"
            return finding.warning(text, remedy) if used < most else finding.wrong(text, remedy)
    return finding.well(f"{seen.used} of {seen.most} processes and threads")


def judge_clock(seen: Clock) -> finding.Finding:
    remedy = "timedatectl set-ntp true, or install chrony"
    if seen.year < OLDEST_YEAR:
        return finding.wrong(f"the clock says {seen.year}, so no certificate is valid", remedy)
    if not seen.is_synchronized:
        return finding.warning(
            "the kernel does not say that somebody keeps the clock right; KCI refuses calls that are five "
            "minutes off",
            remedy,
        )
    return finding.well("the clock is kept right")


def judge_firewalls(warnings: Iterable[str]) -> list[finding.Finding]:
    """Each sentence names a chain that drops pods' traffic, and what opens it in backticks."""
    found = []
    for text in warnings:
        what = re.split(r"[;:] ", text, maxsplit=1)[0]
        typed = " && ".join(re.findall(r"`([^`]+)`", text))
        found.append(finding.warning(what, f"{typed} (docs/how-to/beside-other-firewalls.md)".strip()))
    return found or [finding.well("no other firewall drops pods' traffic")]


def judge_ranges(problem: str, place: typed.Place, *, pods: str, services: str) -> finding.Finding:
    if problem:
        return finding.of_sentence(finding.Level.WRONG, problem, otherwise=f"{place.up} --pod-cidr CIDR")
    taken = f"pods {pods}" + (f", services {services}" if services else "")
    return finding.well(f"no route of the machine is in the way of {taken}")
