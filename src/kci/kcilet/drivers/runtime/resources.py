"""A container's cgroup values from its requests and limits, clamped to what its pod was granted.

Ported from pkg/kubelet/kuberuntime/kuberuntime_container_linux.go, pkg/kubelet/cm/helpers_linux.go
and pkg/kubelet/qos/policy.go (1.36). What differs: the clamp (a group's granted size is a ceiling,
and cgroup v1 refuses a CPU quota above the parent's), and no score below 0 in the kernel's choice
of victims, so that no pod outlives this machine's own programs.
"""

from __future__ import annotations

from collections.abc import Mapping

from kci.kcilet import ports
from kci.kcilet.drivers.runtime.api import api_pb2
from kci.kube import models, quantity

CPU_PERIOD_US = 100_000
_MIN_QUOTA_US = 1_000
_MIN_SHARES = 2
_MAX_SHARES = 262_144
_MIB = 1 << 20
_GUARANTEED, _BEST_EFFORT = "Guaranteed", "BestEffort"


def to_linux_resources(
    spec: ports.ContainerSpec, *, machine_memory_bytes: int
) -> api_pb2.LinuxContainerResources:
    """0 in a field means "not set" to the runtime: no quota, no limit."""
    requests, limits = spec.container.resources.requests, spec.container.resources.limits
    pod_limits = (spec.pod.spec.resources or models.ResourceRequirements()).limits
    # The pod's own limit stands in where the container has none (pod-level resources).
    cpu_limit_milli = _milli(limits, "cpu") or _milli(pod_limits, "cpu")
    memory_limit_bytes = _bytes(limits, "memory") or _bytes(pod_limits, "memory")
    request_milli = _milli(requests, "cpu") if "cpu" in requests else cpu_limit_milli
    return api_pb2.LinuxContainerResources(
        cpu_shares=_to_shares(request_milli),
        cpu_period=CPU_PERIOD_US,
        cpu_quota=_to_quota_us(_clamp(cpu_limit_milli, spec.cpu_milli_limit)),
        memory_limit_in_bytes=_clamp(memory_limit_bytes, spec.memory_mib_limit * _MIB),
        oom_score_adj=_to_oom_score_adj(spec, machine_memory_bytes),
    )


def _clamp(limit: int, ceiling: int) -> int:
    return min(limit, ceiling) if limit and ceiling else limit


def _to_shares(milli: int) -> int:
    return max(_MIN_SHARES, min(milli * 1024 // 1000, _MAX_SHARES))


def _to_quota_us(milli: int) -> int:
    return max(milli * CPU_PERIOD_US // 1000, _MIN_QUOTA_US) if milli else 0


def _to_oom_score_adj(spec: ports.ContainerSpec, machine_memory_bytes: int) -> int:
    qos_class = spec.pod.status.qos_class
    if qos_class == _GUARANTEED:
        return 0
    if qos_class == _BEST_EFFORT:
        return 1000
    requested = _bytes(spec.container.resources.requests, "memory")
    return max(3, min(1000 - 1000 * requested // machine_memory_bytes, 999))


def _milli(quantities: Mapping[str, str | int | float], name: str) -> int:
    return quantity.to_milli(quantities[name]) if name in quantities else 0


def _bytes(quantities: Mapping[str, str | int | float], name: str) -> int:
    return quantity.to_bytes(quantities[name]) if name in quantities else 0
