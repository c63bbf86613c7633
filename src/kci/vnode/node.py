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
from kci.kube import models, reasons, tolerations

TYPE_LABEL = "type"
TYPE = "virtual-kubelet"
DEFAULT_TAINT = models.Taint(key="virtual-kubelet.io/provider", value="kingsoftcloud", effect="NoSchedule")
# Keys that virtual nodes of this kind have had: a taint of one of them comes from such a node's settings.
TAINT_KEYS = frozenset({DEFAULT_TAINT.key, "rbkci-virtual-kubelet.io/provider"})
OWN_LABELS = frozenset({TYPE_LABEL, "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"})
DEFAULT_CAPACITY: Mapping[str, str] = {
    "cpu": "1000",
    "memory": "4Ti",
    "pods": "1000",
    "ephemeral-storage": "40Ti",
}
# The API server then speaks WebSocket to us in place of SPDY (KEP-4006).
DECLARED_FEATURES = ("ExtendWebSocketsToKubelet",)

# type, reason, message of the kubelet's conditions; Ready is the last, as there.
_HEALTHY: tuple[tuple[str, str, reasons.OfCondition, str], ...] = (
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
    taints: tuple[models.Taint, ...] = (DEFAULT_TAINT,)
    # More labels than `to_labels` gives by itself.
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
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
    if settings.taints:
        node["spec"]["taints"] = [models.to_json_types(taint) for taint in settings.taints]
    return node


def to_labels(settings: NodeSettings) -> dict[str, str]:
    return {
        **settings.labels,
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
    """What a person should do if the existing node's taints are not the configured ones: a node may not
    change its own. Taints of keys that are not ours, nor configured, are others' business.
    """
    has, wants = node.spec.taints, settings.taints
    places = {(taint.key, taint.effect) for taint in wants}
    stale = [taint for taint in has if taint.key in TAINT_KEYS and (taint.key, taint.effect) not in places]
    missing = [taint for taint in wants if taint not in has]
    if not (stale or missing):
        return None
    changes = [*map(tolerations.to_text, missing), *(f"{taint.key}:{taint.effect}-" for taint in stale)]
    return (
        f"the node {settings.name} was created with other taints than it should have now, "
        f"{', '.join(map(tolerations.to_text, wants)) or 'none'}, and may not change its own; an "
        f"administrator does it with: kubectl taint node {settings.name} --overwrite {' '.join(changes)}"
    )


# Ported from k8s.io/kubelet v0.36 pkg/apis/well_known_labels.go.
_ALLOWED_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    }
)
_ALLOWED_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_KUBERNETES = ("kubernetes.io", "k8s.io")


def may_set_label(key: str) -> bool:
    """Whether NodeRestriction lets a node give itself this label
    (plugin/pkg/admission/noderestriction v1.36.3).
    """
    prefix = key.rpartition("/")[0]
    return (
        not _is_under(prefix, _KUBERNETES) or key in _ALLOWED_LABELS or _is_under(prefix, _ALLOWED_PREFIXES)
    )


def _is_under(prefix: str, domains: tuple[str, ...]) -> bool:
    return any(prefix == domain or prefix.endswith(f".{domain}") for domain in domains)
