"""What /metrics/resource says, in Prometheus' text format. Pure.

Names, labels, types, help and timestamps as those of the kubelet 1.36
(pkg/kubelet/metrics/collectors/resource_metrics.go): all values but start times carry the time of their read.
`scrape_error`, deprecated since 1.29, is hidden there by now, and not told here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from kci.vnode.usage import keeper, summary

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NS = 1_000_000_000
_NS_OF_MS = 1_000_000

_FAMILIES = {
    "container_cpu_usage_seconds_total": (
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    ),
    "container_memory_working_set_bytes": ("gauge", "Current working set of the container in bytes"),
    "container_start_time_seconds": ("gauge", "Start time of the container since unix epoch in seconds"),
    "node_cpu_usage_seconds_total": ("counter", "Cumulative cpu time consumed by the node in core-seconds"),
    "node_memory_working_set_bytes": ("gauge", "Current working set of the node in bytes"),
    "pod_cpu_usage_seconds_total": ("counter", "Cumulative cpu time consumed by the pod in core-seconds"),
    "pod_memory_working_set_bytes": ("gauge", "Current working set of the pod in bytes"),
    "resource_scrape_error": (
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    ),
}


@dataclasses.dataclass(frozen=True)
class _Value:
    family: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    # 0: none is told.
    time_ns: int = 0


def to_text(view: keeper.View | None) -> str:
    """None: it could not be had."""
    values = [_Value("resource_scrape_error", 1.0 if view is None else 0.0)]
    if view is not None:
        values += [*_of_node(view), *_of_pods(view)]
    lines = []
    for family, (kind, about) in _FAMILIES.items():
        found = sorted((one for one in values if one.family == family), key=lambda one: one.labels)
        if found:
            lines += [f"# HELP {family} [STABLE] {about}", f"# TYPE {family} {kind}", *map(_line, found)]
    return "".join(f"{line}\n" for line in lines)


def _of_node(view: keeper.View) -> Iterator[_Value]:
    if view.now is None:
        return
    time_ns = view.now.time_ns
    working_set = sum(pod.usage.working_set_bytes for pod in view.now.pods.values())
    yield _Value("node_cpu_usage_seconds_total", view.now.node_cpu_core_ns / _NS, time_ns=time_ns)
    yield _Value("node_memory_working_set_bytes", working_set, time_ns=time_ns)


def _of_pods(view: keeper.View) -> Iterator[_Value]:
    for pod, used in summary.told(view):
        names = (("namespace", pod.metadata.namespace), ("pod", pod.metadata.name))
        for one in used.containers:
            labels = (("container", one.name), *names)
            cpu, time_ns = one.usage.cpu_core_ns / _NS, one.usage.time_ns
            working_set = one.usage.working_set_bytes
            if one.started_at_ns > 0:
                yield _Value("container_start_time_seconds", one.started_at_ns / _NS, labels)
            yield _Value("container_cpu_usage_seconds_total", cpu, labels, time_ns)
            yield _Value("container_memory_working_set_bytes", working_set, labels, time_ns)
        cpu, time_ns = used.usage.cpu_core_ns / _NS, used.usage.time_ns
        yield _Value("pod_cpu_usage_seconds_total", cpu, names, time_ns)
        yield _Value("pod_memory_working_set_bytes", used.usage.working_set_bytes, names, time_ns)


def _line(one: _Value) -> str:
    # Names of namespaces, pods and containers hold nothing that would have to be escaped.
    labels = ",".join(f'{name}="{value}"' for name, value in one.labels)
    braces = f"{{{labels}}}" if labels else ""
    time = f" {one.time_ns // _NS_OF_MS}" if one.time_ns else ""
    value = int(one.value) if float(one.value).is_integer() else one.value
    return f"{one.family}{braces} {value}{time}"
