"""The parts of a stack: which there are, what each waits for, and in which order they end. Pure.

    programs ─► etcd ─► kube-apiserver ─► kube-controller-manager ─► identity ─┐
    link ──┬──► registry           ├────► kube-scheduler                       ├─► virtual-kubelet ─► node
           │                       ├────► cluster-dns ─► coredns               │
           │                       └────► metrics-api ─► metrics-server        │
           ├──► containerd ─► kcilet ──────────────────────────────────────────┤
           └──► kci-service ───────────────────────────────────────────────────┘
    images ────────────────────────────────────────────────────────────────────────► node

`programs`, `link`, `images`, `identity`, `cluster-dns`, `metrics-api` and `node` are steps that end; the
others are processes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Part(enum.StrEnum):
    PROGRAMS = "programs"
    LINK = "link"
    IMAGES = "images"
    REGISTRY = "registry"
    ETCD = "etcd"
    API_SERVER = "kube-apiserver"
    CONTROLLER_MANAGER = "kube-controller-manager"
    SCHEDULER = "kube-scheduler"
    CLUSTER_DNS = "cluster-dns"
    COREDNS = "coredns"
    METRICS_API = "metrics-api"
    METRICS_SERVER = "metrics-server"
    CONTAINERD = "containerd"
    SERVICE = "kci-service"
    KCILET = "kcilet"
    IDENTITY = "identity"
    VIRTUAL_KUBELET = "virtual-kubelet"
    NODE = "node"


_NEEDS: Mapping[Part, tuple[Part, ...]] = {
    Part.PROGRAMS: (),
    Part.LINK: (),
    Part.IMAGES: (),
    Part.REGISTRY: (Part.LINK,),
    Part.ETCD: (Part.LINK, Part.PROGRAMS),
    Part.API_SERVER: (Part.ETCD,),
    Part.CONTROLLER_MANAGER: (Part.API_SERVER,),
    Part.SCHEDULER: (Part.API_SERVER,),
    Part.CLUSTER_DNS: (Part.API_SERVER,),
    Part.COREDNS: (Part.CLUSTER_DNS,),
    Part.METRICS_API: (Part.API_SERVER,),
    Part.METRICS_SERVER: (Part.METRICS_API,),
    Part.CONTAINERD: (Part.LINK, Part.PROGRAMS),
    Part.SERVICE: (Part.LINK,),
    Part.KCILET: (Part.LINK, Part.CONTAINERD),
    Part.IDENTITY: (Part.LINK, Part.CONTROLLER_MANAGER),
    Part.VIRTUAL_KUBELET: (Part.IDENTITY, Part.SERVICE, Part.KCILET),
    # A stack that says ready can run a pod at once.
    Part.NODE: (Part.VIRTUAL_KUBELET, Part.SCHEDULER, Part.COREDNS, Part.REGISTRY, Part.IMAGES),
}
CONTROL_PLANE = (Part.ETCD, Part.API_SERVER, Part.CONTROLLER_MANAGER, Part.SCHEDULER)
STEPS = (
    Part.PROGRAMS,
    Part.LINK,
    Part.IMAGES,
    Part.IDENTITY,
    Part.CLUSTER_DNS,
    Part.METRICS_API,
    Part.NODE,
)
# Between the two halves the pods are stopped: nobody reports their end, somebody still can end them.
STOP_BEFORE_DRAIN = (Part.VIRTUAL_KUBELET, Part.SERVICE, Part.KCILET)
STOP_AFTER_DRAIN = (
    Part.CONTAINERD,
    Part.METRICS_SERVER,
    Part.COREDNS,
    Part.REGISTRY,
    *reversed(CONTROL_PLANE),
)


def plan(
    *, own_control_plane: bool, own_containerd: bool, own_dns: bool, metrics_server: bool
) -> tuple[Part, ...]:
    """The parts of this stack, each after all that it needs."""
    left_out: set[Part] = set()
    if not own_control_plane:
        # The step stays where its process does not: it takes away what an earlier start has made.
        left_out.update((*CONTROL_PLANE, Part.METRICS_API))
    if not own_dns:
        left_out.update((Part.CLUSTER_DNS, Part.COREDNS))
    if not metrics_server:
        left_out.add(Part.METRICS_SERVER)
    if not own_containerd:
        # The local registry is named in the configuration of our containerd alone.
        left_out.update((Part.CONTAINERD, Part.REGISTRY, Part.IMAGES))
    if not own_control_plane and not own_containerd:
        left_out.add(Part.PROGRAMS)
    return tuple(part for part in _NEEDS if part not in left_out)


def needs(part: Part, planned: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(need for need in _NEEDS[part] if need in planned)
