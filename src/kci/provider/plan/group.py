"""The whole request, from its parts; and everything that keeps a pod from becoming one."""

from __future__ import annotations

import dataclasses

from kci.contract import groups
from kci.kit import secret
from kci.kube import models
from kci.provider import annotations as pod_annotations
from kci.provider.plan import names, size
from kci.vnode import provider


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the node's settings say for all of its pods."""

    cluster_id: str
    node_name: str
    cluster_domain: str = "cluster.local"
    cluster_dns: tuple[str, ...] = ()
    node_dns: tuple[str, ...] = ()
    subnet_id: str = ""
    security_group_ids: tuple[str, ...] = ()
    kube_proxy: bool = False


def find_refusals(pod: models.Pod, defaults: Defaults) -> list[provider.Refusal]:
    """Why KCI could not take the pod; each names the field and the remedy."""
    wishes, found = pod_annotations.read(pod.metadata.annotations)
    if not (wishes.subnet_id or defaults.subnet_id):
        found.append(
            provider.Refusal(
                "MissingSubnet",
                f"no subnet: set the annotation {pod_annotations.SUBNET} on the pod, or "
                "KCI_SUBNET_ID on the node",
            )
        )
    if not (wishes.security_group_ids or defaults.security_group_ids):
        found.append(
            provider.Refusal(
                "MissingSecurityGroup",
                f"no security group: set the annotation {pod_annotations.SECURITY_GROUPS} on the pod, or "
                "KCI_SECURITY_GROUP_IDS on the node",
            )
        )
    if len(pod.metadata.name) > groups.MAX_LABEL_LENGTH:
        found.append(
            provider.Refusal(
                "NameTooLong",
                f"metadata.name has {len(pod.metadata.name)} characters: KCI finds a pod by a label of at "
                f"most {groups.MAX_LABEL_LENGTH}, use a shorter name",
            )
        )
    granted = size.choose_size(pod, wishes)
    if granted.cores > pod_annotations.MAX_CORES or granted.memory_gb > pod_annotations.MAX_MEMORY_GB:
        found.append(
            provider.Refusal(
                "TooLarge",
                f"spec.containers[*].resources add up to {granted.cores:g} cores and "
                f"{granted.memory_gb:g} GiB: an instance has at most {pod_annotations.MAX_CORES:g} and "
                f"{pod_annotations.MAX_MEMORY_GB:g}",
            )
        )
    return found


def to_group(
    pod: models.Pod,
    defaults: Defaults,
    *,
    kubeconfig: secret.Secret,
    with_pod_uuid: bool,
    fence: groups.Fence | None = None,
) -> groups.CreateContainerGroup:
    """The request for a pod that has no refusals. `with_pod_uuid`: the service takes the UID as a label."""
    wishes, _ = pod_annotations.read(pod.metadata.annotations)
    granted = size.choose_size(pod, wishes)
    kube_proxy = defaults.kube_proxy if wishes.kube_proxy is None else wishes.kube_proxy
    node_dns = groups.MachineDnsConfig(name_server=defaults.node_dns) if defaults.node_dns else None
    return groups.CreateContainerGroup(
        container_group_name=names.to_name(pod),
        subnet_id=wishes.subnet_id or defaults.subnet_id,
        security_group_id=wishes.security_group_ids or defaults.security_group_ids,
        cpu=granted.cores,
        memory=granted.memory_gb,
        kube_config=kubeconfig.reveal(),
        label=_labels(pod, defaults, with_pod_uuid=with_pod_uuid),
        cluster_dns=",".join(defaults.cluster_dns),
        cluster_domain=defaults.cluster_domain,
        machine_dns_config=node_dns,
        kube_proxy=groups.KubeProxy(enabled=kube_proxy),
        fence=fence,
    )


def _labels(pod: models.Pod, defaults: Defaults, *, with_pod_uuid: bool) -> tuple[groups.Label, ...]:
    labels = (
        groups.Label(key="cluster-id", value=defaults.cluster_id),
        groups.Label(key="namespace", value=pod.metadata.namespace),
        groups.Label(key="pod-name", value=pod.metadata.name),
        groups.Label(key="node-name", value=defaults.node_name),
    )
    if not with_pod_uuid:
        return labels
    return (*labels, groups.Label(key="pod-uuid", value=pod.metadata.uid))
