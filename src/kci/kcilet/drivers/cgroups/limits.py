"""A pod's limits as the kernel's files, for cgroup v1 and v2. Pure.

The same values as kubelet's pkg/kubelet/cm/pod_container_manager_linux.go (1.36) writes for a pod,
with the granted size in place of the sum of its containers' limits.
"""

from __future__ import annotations

import dataclasses

PERIOD_US = 100_000
_MIN_QUOTA_US = 1_000
_MIN_SHARES, _MAX_SHARES = 2, 262_144
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """0 is none."""

    cpu_milli: int
    memory_mib: int
    pids: int


def to_v1_files(limits: Limits) -> dict[str, dict[str, str]]:
    """File contents by controller, in the order in which they must be written."""
    cpu = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": _quota(limits, none="-1")}
    if limits.cpu_milli:
        cpu["cpu.shares"] = str(_shares(limits))
    return {
        "cpu": cpu,
        "memory": {"memory.limit_in_bytes": str(limits.memory_mib * _MIB or -1)},
        "pids": {"pids.max": str(limits.pids or "max")},
    }


def to_v2_files(limits: Limits) -> dict[str, str]:
    files = {"cpu.max": f"{_quota(limits, none='max')} {PERIOD_US}"}
    if limits.cpu_milli:
        # The runtimes' own formula, so that a pod weighs against others as its containers do.
        files["cpu.weight"] = str(1 + (_shares(limits) - _MIN_SHARES) * 9999 // (_MAX_SHARES - _MIN_SHARES))
    files["memory.max"] = str(limits.memory_mib * _MIB or "max")
    files["pids.max"] = str(limits.pids or "max")
    return files


def _quota(limits: Limits, *, none: str) -> str:
    if not limits.cpu_milli:
        return none
    return str(max(limits.cpu_milli * PERIOD_US // 1000, _MIN_QUOTA_US))


def _shares(limits: Limits) -> int:
    return max(_MIN_SHARES, min(limits.cpu_milli * 1024 // 1000, _MAX_SHARES))
