"""What the kernel's files say of a cgroup's usage and of a link's traffic. Pure.

The same figures as a kubelet shows with cAdvisor (cadvisor 0.56, container/libcontainer/handler.go,
setMemoryStats; info/v2 to stats/v1alpha1 in pkg/kubelet/stats/helper.go, Kubernetes 1.36): the working set is
what is used without inactive file pages, never below zero. Differs: on cgroup v1 page faults are those of the
cgroups below as well, so that a pod's are its containers'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from kci.link import types as link

# No limit, as v1 writes it: the largest whole number of pages.
_NO_LIMIT = 1 << 62
_NS_OF_US = 1000


@dataclasses.dataclass(frozen=True)
class Files:
    """Where a hierarchy keeps what is read here: the controller's folder (v1 only) and the file's name."""

    cpu: tuple[str, str]
    memory: tuple[str, str]
    memory_limit: tuple[str, str]
    memory_stat: tuple[str, str]
    processes: tuple[str, str]


V1 = Files(
    cpu=("cpuacct", "cpuacct.usage"),
    memory=("memory", "memory.usage_in_bytes"),
    memory_limit=("memory", "memory.limit_in_bytes"),
    memory_stat=("memory", "memory.stat"),
    processes=("pids", "cgroup.procs"),
)
V2 = Files(
    cpu=("", "cpu.stat"),
    memory=("", "memory.current"),
    memory_limit=("", "memory.max"),
    memory_stat=("", "memory.stat"),
    processes=("", "cgroup.procs"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What was in them, and when."""

    time_ns: int
    cpu: str
    memory: str
    memory_limit: str
    memory_stat: str
    processes: int


def to_usage(read: Contents, *, is_v2: bool) -> link.Usage:
    """ValueError if it is no such files' contents."""
    stat = _pairs(read.memory_stat)
    prefix = "" if is_v2 else "total_"
    memory_bytes = int(read.memory)
    return link.Usage(
        time_ns=read.time_ns,
        cpu_core_ns=_pairs(read.cpu)["usage_usec"] * _NS_OF_US if is_v2 else int(read.cpu),
        memory_bytes=memory_bytes,
        working_set_bytes=max(0, memory_bytes - stat.get(f"{prefix}inactive_file", 0)),
        rss_bytes=stat.get("anon" if is_v2 else "total_rss", 0),
        page_faults=stat.get(f"{prefix}pgfault", 0),
        major_page_faults=stat.get(f"{prefix}pgmajfault", 0),
        memory_limit_bytes=_limit(read.memory_limit),
        processes=read.processes,
    )


def to_traffic(table: str) -> Mapping[str, link.Traffic]:
    """`/proc/net/dev` by the names of the machine's ends of pods' links: what comes in at one of them is what
    its pod sent.
    """
    found = {}
    for line in table.splitlines():
        name, colon, figures = line.partition(":")
        fields = figures.split()
        if colon and len(fields) >= 11:
            found[name.strip()] = link.Traffic(
                received_bytes=int(fields[8]),
                received_errors=int(fields[10]),
                sent_bytes=int(fields[0]),
                sent_errors=int(fields[2]),
            )
    return found


def _pairs(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _limit(text: str) -> int:
    limit = 0 if text.strip() == "max" else int(text)
    return limit if limit < _NO_LIMIT else 0
