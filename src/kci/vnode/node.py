"""The node object as it should be. Pure.

What a node may say of itself is limited by NodeRestriction: labels of the kubelet's list (and any
outside kubernetes.io), taints only when it is created. Behaviour follows the kubelet (1.36.3):
pkg/kubelet/kubelet_node_status.go and pkg/kubelet/nodestatus/setters.go.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from kci.kit import clock
from kci.kube import models

TYPE_LABEL = "type"
TYPE = "virtual-kubelet"
DEFAULT_TAINT = models.Taint(key="virtual-kubelet.io/provider", value="kingsoftcloud", effect="NoSchedule")
DEFAULT_CAPACITY: Mapping[str, str] = {
    "cpu": "1000",
    "memory": "4Ti",
    "pods": "1000",
    "ephemeral-storage": "40Ti",
}
# The API server then speaks WebSocket to us in place of SPDY (KEP-4006).
DECLARED_FEATURES = ("ExtendWebSocketsToKubelet",)

# type, reason, message of the kubelet's conditions; Ready is the last, as there.
_HEALTHY = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSettings:
    name: str
    address: str
    kubelet_port: int
    # Ours, without a leading "v".
    version: str
    taint: models.Taint | None = DEFAULT_TAINT
    capacity: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(DEFAULT_CAPACITY))
    operating_system: str = "linux"
    architecture: str = "amd64"


def to_node(settings: NodeSettings, cluster_version: str, now: datetime.datetime) -> dict[str, Any]:
    """The object to create, with its status: so the node is Ready with one request."""
    node: dict[str, Any] = {
        "metadata": {"name": settings.name, "labels": to_labels(settings)},
        "spec": {},
        "status": to_status(settings, cluster_version, now, seen=None),
    }
    if settings.taint is not None:
        node["spec"]["taints"] = [models.to_json_types(settings.taint)]
    return node


def to_labels(settings: NodeSettings) -> dict[str, str]:
    return {
        TYPE_LABEL: TYPE,
        "kubernetes.io/hostname": settings.name,
        "kubernetes.io/os": settings.operating_system,
        "kubernetes.io/arch": settings.architecture,
    }


def to_status(
    settings: NodeSettings, cluster_version: str, now: datetime.datetime, *, seen: models.Node | None
) -> dict[str, Any]:
    """The whole status, for a strategic merge patch; a condition keeps the time of its last transition."""
    return {
        "capacity": dict(settings.capacity),
        "allocatable": dict(settings.capacity),
        "addresses": [
            {"type": "InternalIP", "address": settings.address},
            {"type": "Hostname", "address": settings.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": settings.kubelet_port}},
        "declaredFeatures": list(DECLARED_FEATURES),
        "nodeInfo": _node_info(settings, cluster_version),
        "conditions": _conditions(now, seen),
    }


def _node_info(settings: NodeSettings, cluster_version: str) -> dict[str, str]:
    version = f"{cluster_version}-vk-v{settings.version}"
    return {
        "kubeletVersion": version,
        "kubeProxyVersion": "",
        "operatingSystem": settings.operating_system,
        "architecture": settings.architecture,
        # The API demands these; a virtual node has no machine that they could describe.
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kernelVersion": "",
        "osImage": "",
        "containerRuntimeVersion": "",
    }


def _conditions(now: datetime.datetime, seen: models.Node | None) -> list[dict[str, str]]:
    known = {condition.type: condition for condition in seen.status.conditions} if seen else {}
    stamp = clock.to_rfc3339(now)
    conditions = []
    for kind, status, reason, message in _HEALTHY:
        before = known.get(kind)
        unchanged = before is not None and before.status == status
        since = before.last_transition_time if before is not None and unchanged else None
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": stamp,
                "lastTransitionTime": since or stamp,
            }
        )
    return conditions


def is_ours(node: models.Node) -> bool:
    """Whether a node of this name may be taken over: any virtual node, never a machine."""
    return node.metadata.labels.get(TYPE_LABEL) == TYPE


def is_current(settings: NodeSettings, cluster_version: str, node: models.Node) -> bool:
    """Whether the node still says what we said last, heartbeat times aside. Others change conditions
    (the control plane, when heartbeats were late) and addresses (another copy of us).
    """
    said = {condition.type: condition.status for condition in node.status.conditions}
    addresses = {address.type: address.address for address in node.status.addresses}
    version = _node_info(settings, cluster_version)["kubeletVersion"]
    return (
        all(said.get(kind) == status for kind, status, _, _ in _HEALTHY)
        and node.status.node_info.get("kubeletVersion") == version
        and addresses.get("InternalIP") == settings.address
        and not missing_labels(settings, node)
    )


def missing_labels(settings: NodeSettings, node: models.Node) -> dict[str, str]:
    has = node.metadata.labels
    return {key: value for key, value in to_labels(settings).items() if has.get(key) != value}


def taint_warning(settings: NodeSettings, node: models.Node) -> str | None:
    """What a person should do if the existing node's taint is not the configured one: a node may not
    change its own taints.
    """
    name, taints = settings.name, node.spec.taints
    if settings.taint is None:
        if DEFAULT_TAINT not in taints:
            return None
        return (
            f"the node {name} still has the taint {DEFAULT_TAINT.key} though --disable-taint is given; "
            f"an administrator removes it with: kubectl taint node {name} {DEFAULT_TAINT.key}-"
        )
    if settings.taint in taints:
        return None
    wanted = f"{settings.taint.key}={settings.taint.value}:{settings.taint.effect}"
    return (
        f"the node {name} lacks the taint {wanted}; "
        f"an administrator adds it with: kubectl taint node {name} {wanted}"
    )
