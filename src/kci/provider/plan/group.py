"""What becomes of a pod on KCI: the decision, which `kci plan` shows as well, and the request for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from kci.contract import groups, packages
from kci.kit import secret
from kci.kube import models
from kci.provider import annotations as pod_annotations
from kci.provider.plan import names, own_pod, size
from kci.vnode import provider

ACCEPTED: Final = "Accepted"
SIZE_ROUNDED: Final = "InstanceSizeRounded"
LIMIT_CLAMPED: Final = "LimitAboveInstance"
MANY_CONTAINERS: Final = "MoreContainersThanDocumented"
DISK_LIMIT: Final = "DiskNotLimited"
# Of Kingsoft Cloud; our own service runs any number.
_DOCUMENTED_CONTAINERS = 5
_RESOURCES = "spec.containers[*].resources"
_SIZE_FIELD = f"metadata.annotations[{pod_annotations.CPU}]"


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
    # Annotations that stand for what a pod does not say.
    instance_settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # None: as the service says.
    table: packages.Table | None = None
    # Refuse annotations that name a size which there is not, rather than round it up.
    strict_sizes: bool = False
    # Leave init containers out of the sum.
    sum_containers_only: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What a pod gets, what is changed for it, and what stands against it. No size: none is large enough,
    or which there are is not known yet.
    """

    wishes: pod_annotations.Wishes
    subnet_id: str
    security_group_ids: tuple[str, ...]
    kube_proxy: bool
    choice: size.Choice | None
    notices: tuple[provider.Notice, ...]
    refusals: tuple[provider.Refusal, ...]


def decide(
    pod: models.Pod, defaults: Defaults, offered: packages.Table | None = packages.STANDARD
) -> Decision:
    """The same whoever asks: the node before it creates, the user before the pod exists. `offered` are the
    service's sizes, where the node has no table of its own; None: not known yet, nor then is the pod's.
    """
    wishes, refusals = pod_annotations.read(pod.metadata.annotations, defaults.instance_settings)
    subnet_id = wishes.subnet_id or defaults.subnet_id
    security_group_ids = wishes.security_group_ids or defaults.security_group_ids
    refusals += _of_place(subnet_id, security_group_ids)
    refusals += _of_name(pod.metadata.name)
    choice: size.Choice | None = None
    table = defaults.table or offered
    try:
        choice = None
        if table:
            choice = size.choose(pod, wishes, table, sum_containers_only=defaults.sum_containers_only)
    except packages.TooLargeError as error:
        refusals.append(_too_large(str(error), by_annotation=wishes.cores is not None))
    if choice is not None and choice.is_off_table and defaults.strict_sizes:
        refusals.append(_not_offered(choice))
    of_ours = own_pod.refusal(pod, defaults.node_name)
    if of_ours is not None:
        # Nothing else that is wrong with it matters.
        refusals = [of_ours]
    return Decision(
        wishes=wishes,
        subnet_id=subnet_id,
        security_group_ids=security_group_ids,
        kube_proxy=defaults.kube_proxy if wishes.kube_proxy is None else wishes.kube_proxy,
        choice=choice,
        notices=tuple(_notices(pod, choice)),
        refusals=tuple(refusals),
    )


def _of_place(subnet_id: str, security_group_ids: tuple[str, ...]) -> Iterator[provider.Refusal]:
    if not subnet_id:
        yield provider.Refusal(
            "MissingSubnet",
            f"no subnet: set the annotation {pod_annotations.SUBNET} on the pod, or KCI_SUBNET_ID on the "
            "node",
            f"metadata.annotations[{pod_annotations.SUBNET}]",
        )
    if not security_group_ids:
        yield provider.Refusal(
            "MissingSecurityGroup",
            f"no security group: set the annotation {pod_annotations.SECURITY_GROUPS} on the pod, or "
            "KCI_SECURITY_GROUP_IDS on the node",
            f"metadata.annotations[{pod_annotations.SECURITY_GROUPS}]",
        )


def _of_name(name: str) -> Iterator[provider.Refusal]:
    if len(name) > groups.MAX_LABEL_LENGTH:
        yield provider.Refusal(
            "NameTooLong",
            f"metadata.name has {len(name)} characters: KCI finds a pod by a label of at most "
            f"{groups.MAX_LABEL_LENGTH}, use a shorter name",
            "metadata.name",
        )


def _too_large(why: str, *, by_annotation: bool) -> provider.Refusal:
    field = _SIZE_FIELD if by_annotation else _RESOURCES
    subject = "the pod's annotations" if by_annotation else _RESOURCES
    return provider.Refusal("TooLarge", f"{subject}: {why}; ask for less", field)


def _not_offered(choice: size.Choice) -> provider.Refusal:
    return provider.Refusal(
        "SizeNotOffered",
        f"the pod's annotations: there is no size of {choice.asked}, and this node rounds none (it runs with "
        f"--strict-sizes); ask for {choice.grant.size}",
        _SIZE_FIELD,
    )


def _notices(pod: models.Pod, choice: size.Choice | None) -> Iterator[provider.Notice]:
    yield from pod_annotations.unknown(pod.metadata.annotations)
    if (count := len(pod.spec.containers)) > _DOCUMENTED_CONTAINERS:
        yield provider.Notice(
            MANY_CONTAINERS,
            f"spec.containers has {count}: Kingsoft Cloud documents at most {_DOCUMENTED_CONTAINERS} for an "
            "instance and may refuse the pod; run fewer in one pod if it is meant for there",
            is_warning=True,
        )
    if fields := ", ".join(_disk_limits(pod.spec)):
        yield provider.Notice(
            DISK_LIMIT,
            f"{fields}: the service of this project does not hold limits of disk yet, and the pod runs "
            "without them; where a limit must hold, use an emptyDir with medium Memory and a sizeLimit",
            is_warning=True,
        )
    if choice is None:
        return
    granted = choice.grant.size
    if choice.is_off_table:
        yield provider.Notice(
            SIZE_ROUNDED,
            f"There is no size of {choice.asked}, for which the annotations ask: rounded up to {granted}",
            is_warning=True,
        )
    yield provider.Notice(ACCEPTED, f"Granted {granted}: {choice.grant.rule}")
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        for what, limit in size.limits_above(container, granted):
            yield provider.Notice(
                LIMIT_CLAMPED,
                f"Container {container.name} has a {what} limit of {limit}, and the instance {granted}: it "
                "cannot use more than the instance has",
                is_warning=True,
            )


def _disk_limits(spec: models.PodSpec) -> Iterator[str]:
    """The fields that limit what the pod writes to a disk."""
    for number, volume in enumerate(spec.volumes):
        folder = volume.empty_dir
        if folder is not None and folder.medium != "Memory" and folder.size_limit is not None:
            yield f"spec.volumes[{number}].emptyDir.sizeLimit"
    for kind, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for number, container in enumerate(containers):
            if "ephemeral-storage" in container.resources.limits:
                yield f"spec.{kind}[{number}].resources.limits[ephemeral-storage]"


def to_group(
    pod: models.Pod,
    defaults: Defaults,
    *,
    kubeconfig: secret.Secret,
    with_pod_uuid: bool,
    with_bandwidth: bool = False,
    offered: packages.Table = packages.STANDARD,
    fence: groups.Fence | None = None,
) -> groups.CreateContainerGroup:
    """The request for a pod that has no refusals. `with_pod_uuid`: the service takes the UID as a label;
    `with_bandwidth`: it takes limits of the traffic.
    """
    decision = decide(pod, defaults, offered)
    assert decision.choice is not None, f"pod {pod.key} has refusals"
    retain_ip = decision.wishes.retain_ip
    assert with_pod_uuid or not retain_ip, f"pod {pod.key} is refused: see retain_ip_refusal"
    granted = decision.choice.grant.size
    node_dns = groups.MachineDnsConfig(name_server=defaults.node_dns) if defaults.node_dns else None
    return groups.CreateContainerGroup(
        container_group_name=names.to_stable_name(pod) if retain_ip else names.to_name(pod),
        subnet_id=decision.subnet_id,
        security_group_id=decision.security_group_ids,
        cpu=granted.cores,
        memory=granted.gib,
        kube_config=kubeconfig.reveal(),
        retain_ip=retain_ip,
        retain_ip_hours=decision.wishes.retain_ip_hours or groups.RETAIN_IP_HOURS,
        label=_labels(pod, defaults, with_pod_uuid=with_pod_uuid),
        cluster_dns=",".join(defaults.cluster_dns),
        cluster_domain=defaults.cluster_domain,
        machine_dns_config=node_dns,
        machine_host_aliase=decision.wishes.host_aliases,
        kube_proxy=groups.KubeProxy(enabled=decision.kube_proxy),
        bandwidth=_to_bandwidth(decision.wishes) if with_bandwidth else None,
        fence=fence,
    )


def retain_ip_refusal(decision: Decision, *, with_pod_uuid: bool) -> provider.Refusal | None:
    """An address is retained for a name that the next pod has as well; without the UID in a label, that pod
    would be taken for the one before it.
    """
    if with_pod_uuid or not decision.wishes.retain_ip:
        return None
    return provider.Refusal(
        "RetainIpNotSupported",
        f"metadata.annotations: {pod_annotations.RETAIN_IP} needs a service that keeps the pod's UID as a "
        "label, and the one at hand does not; leave the annotation out",
        f"metadata.annotations[{pod_annotations.RETAIN_IP}]",
    )


def _to_bandwidth(wishes: pod_annotations.Wishes) -> groups.Bandwidth | None:
    if wishes.ingress_bps is None and wishes.egress_bps is None:
        return None
    return groups.Bandwidth(ingress=wishes.ingress_bps or 0, egress=wishes.egress_bps or 0)


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
