"""The Summary API (k8s.io/kubelet/pkg/apis/stats/v1alpha1, 1.36): what /stats/summary says. Pure.

Of the node it tells what its pods use together: there is no machine of its own behind it. File systems,
volumes, swap and pressure are left out, as all of them may be.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import msgspec

from kci.kit import clock
from kci.kube import models
from kci.vnode import provider
from kci.vnode.usage import keeper, samples

# A pod's interface, as the CNI plugin names it.
_INTERFACE = "eth0"
_NS = 1_000_000_000


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What is None is left out; a 0 is not."""


class CpuStats(_Part, frozen=True):
    time: str
    usage_nano_cores: int | None = None
    usage_core_nano_seconds: int | None = None


class MemoryStats(_Part, frozen=True):
    time: str
    available_bytes: int | None = None
    usage_bytes: int | None = None
    working_set_bytes: int | None = None
    rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None


class InterfaceStats(_Part, frozen=True):
    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


class NetworkStats(InterfaceStats, frozen=True):
    """The default interface, and all of them."""

    time: str
    interfaces: tuple[InterfaceStats, ...]


class ProcessStats(_Part, frozen=True, rename=None):
    process_count: int


class ContainerStats(_Part, frozen=True):
    name: str
    start_time: str
    cpu: CpuStats
    memory: MemoryStats


class PodReference(_Part, frozen=True):
    name: str
    namespace: str
    uid: str


class PodStats(_Part, frozen=True):
    pod_ref: PodReference
    start_time: str
    containers: tuple[ContainerStats, ...]
    cpu: CpuStats
    memory: MemoryStats
    network: NetworkStats | None = None
    process_stats: ProcessStats | None = msgspec.field(default=None, name="process_stats")


class NodeStats(_Part, frozen=True):
    node_name: str
    start_time: str
    cpu: CpuStats | None = None
    memory: MemoryStats | None = None


class Summary(_Part, frozen=True):
    node: NodeStats
    pods: tuple[PodStats, ...]


def to_summary(view: keeper.View, *, node_name: str, only_cpu_and_memory: bool) -> Summary:
    node = NodeStats(node_name=node_name, start_time=_time(view.started_at_ns))
    if view.now is None:
        return Summary(node=node, pods=())
    usages = [pod.usage for pod in view.now.pods.values()]
    node = msgspec.structs.replace(
        node,
        cpu=CpuStats(
            time=_time(view.now.time_ns),
            usage_nano_cores=samples.node_rate(view.before, view.now),
            usage_core_nano_seconds=view.now.node_cpu_core_ns,
        ),
        memory=MemoryStats(
            time=_time(view.now.time_ns),
            usage_bytes=sum(usage.memory_bytes for usage in usages),
            working_set_bytes=sum(usage.working_set_bytes for usage in usages),
            rss_bytes=sum(usage.rss_bytes for usage in usages),
            page_faults=sum(usage.page_faults for usage in usages),
            major_page_faults=sum(usage.major_page_faults for usage in usages),
        ),
    )
    pods = tuple(
        _to_pod(pod, used, view.before, only_cpu_and_memory=only_cpu_and_memory) for pod, used in told(view)
    )
    return Summary(node=node, pods=pods)


def told(view: keeper.View) -> Iterable[tuple[models.Pod, provider.PodUsage]]:
    """The pods that the node knows and whose usage was found."""
    for uid, used in () if view.now is None else view.now.pods.items():
        if uid in view.pods:
            yield view.pods[uid], used


def _to_pod(
    pod: models.Pod, used: provider.PodUsage, before: samples.Sample | None, *, only_cpu_and_memory: bool
) -> PodStats:
    stats = PodStats(
        pod_ref=PodReference(name=pod.metadata.name, namespace=pod.metadata.namespace, uid=pod.uid),
        start_time=_time(used.started_at_ns),
        containers=tuple(
            ContainerStats(
                name=one.name,
                start_time=_time(one.started_at_ns),
                cpu=_to_cpu(one.usage, samples.container_rate(before, used, one)),
                memory=_to_memory(one.usage),
            )
            for one in used.containers
        ),
        cpu=_to_cpu(used.usage, samples.pod_rate(before, used)),
        memory=_to_memory(used.usage),
    )
    if only_cpu_and_memory:
        return stats
    return msgspec.structs.replace(
        stats,
        network=None if used.traffic is None else _to_network(used.traffic, used.usage.time_ns),
        process_stats=ProcessStats(process_count=used.usage.processes),
    )


def _to_cpu(usage: provider.Usage, rate: int | None) -> CpuStats:
    return CpuStats(
        time=_time(usage.time_ns), usage_nano_cores=rate, usage_core_nano_seconds=usage.cpu_core_ns
    )


def _to_memory(usage: provider.Usage) -> MemoryStats:
    limit = usage.memory_limit_bytes
    return MemoryStats(
        time=_time(usage.time_ns),
        available_bytes=max(0, limit - usage.working_set_bytes) if limit else None,
        usage_bytes=usage.memory_bytes,
        working_set_bytes=usage.working_set_bytes,
        rss_bytes=usage.rss_bytes,
        page_faults=usage.page_faults,
        major_page_faults=usage.major_page_faults,
    )


def _to_network(traffic: provider.Traffic, time_ns: int) -> NetworkStats:
    default = InterfaceStats(
        name=_INTERFACE,
        rx_bytes=traffic.received_bytes,
        rx_errors=traffic.received_errors,
        tx_bytes=traffic.sent_bytes,
        tx_errors=traffic.sent_errors,
    )
    return NetworkStats(time=_time(time_ns), interfaces=(default,), **msgspec.structs.asdict(default))


def _time(time_ns: int) -> str:
    return clock.to_rfc3339(datetime.datetime.fromtimestamp(time_ns // _NS, datetime.UTC))
