"""What would become of a pod that does not exist yet: the node's own decisions, told in one piece. Pure.

What the node runs with is only partly known here. What is not known is a note, not a refusal: a node's
subnet that was not told may well be set there.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from kci.contract import packages
from kci.kube import admission, bandwidth, dns, models, tolerations
from kci.provider import annotations as pod_annotations
from kci.provider.plan import group
from kci.vnode import node as nodes

MISPLACED = "AnnotationNotOnPod"
UNTOLERATED = "MissingToleration"
INVALID = "InvalidPod"
DEFAULT_TAINTS = (nodes.DEFAULT_TAINT,)
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
# Stands for what the node has and we were not told.
_NOT_TOLD = "(not told)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """What is known of the node; None where nothing was told."""

    taints: tuple[models.Taint, ...] = ()
    subnet_id: str | None = None
    security_group_ids: tuple[str, ...] | None = None
    cluster_dns: tuple[str, ...] | None = None
    node_dns: tuple[str, ...] | None = None
    cluster_domain: str = "cluster.local"
    kube_proxy: bool = False
    # The cluster's service range.
    services: Network | None = None
    strict_sizes: bool = False
    sum_containers_only: bool = False
    instance_settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    table: packages.Table = packages.STANDARD


class _Shown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what `kci plan -o json` prints."""


class Granted(_Shown, frozen=True):
    """Cores, and memory in GiB."""

    cpu: float
    memory: float


class Remark(_Shown, frozen=True):
    reason: str
    message: str


class Refused(_Shown, frozen=True):
    field: str
    reason: str
    message: str


class Dns(_Shown, frozen=True):
    """`of_node`: servers of the node come first, which were not told."""

    policy: str
    of_node: bool
    servers: tuple[str, ...]
    searches: tuple[str, ...]
    options: tuple[str, ...]


class Bandwidth(_Shown, frozen=True):
    """Bits per second; None is no limit."""

    ingress: int | None
    egress: int | None


class Preview(_Shown, frozen=True):
    """One pod. Nothing is granted if anything is refused. `changes` is what would be otherwise than written,
    `notes` what to look after elsewhere.
    """

    kind: str
    namespace: str
    name: str
    replicas: int = 1
    granted: Granted | None = None
    rule: str = ""
    # None: the node's, which was not told.
    subnet: str | None = None
    security_groups: tuple[str, ...] | None = None
    dns: Dns | None = None
    kube_proxy: bool = False
    bandwidth: Bandwidth | None = None
    changes: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()
    refused: tuple[Refused, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A pod as a manifest describes it; of several that are alike, one."""

    kind: str
    pod: models.Pod
    replicas: int = 1
    # Where in its object the pod is described, such as spec.template; empty for a pod by itself.
    template: str = ""
    # Of what makes the pod, by where they stand in it; the pod itself never gets them.
    outer_annotations: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


def preview(subject: Subject, node: Node) -> Preview:
    pod = subject.pod
    decision = group.decide(pod, _defaults(node))
    resolved = dns.resolve(
        pod,
        cluster_dns=_told(node.cluster_dns),
        cluster_domain=node.cluster_domain,
        machine=dns.Resolver(_told(node.node_dns)),
    )
    refused = (
        *(Refused(field=one.field, reason=one.reason, message=one.message) for one in decision.refusals),
        *(
            Refused(field=one.field, reason=one.reason, message=one.message)
            for one in admission.refusals(pod)
        ),
    )
    grant = None if refused or decision.choice is None else decision.choice.grant
    return Preview(
        kind=subject.kind,
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        replicas=subject.replicas,
        granted=Granted(cpu=grant.size.cores, memory=grant.size.gib) if grant else None,
        rule=grant.rule if grant else "",
        subnet=None if decision.subnet_id == _NOT_TOLD else decision.subnet_id,
        security_groups=(
            None if decision.security_group_ids == (_NOT_TOLD,) else decision.security_group_ids
        ),
        dns=Dns(
            policy=pod.spec.dns_policy,
            of_node=_NOT_TOLD in resolved.resolver.servers,
            servers=tuple(server for server in resolved.resolver.servers if server != _NOT_TOLD),
            searches=resolved.resolver.searches,
            options=resolved.resolver.options,
        ),
        kube_proxy=decision.kube_proxy,
        bandwidth=Bandwidth(ingress=decision.wishes.ingress_bps, egress=decision.wishes.egress_bps),
        changes=(
            *_misplaced(subject),
            *(
                Remark(reason=one.reason, message=one.message)
                for one in decision.notices
                if one.reason not in {group.ACCEPTED, group.MANY_CONTAINERS}
            ),
        ),
        notes=(
            *_of_place(decision),
            *(
                Remark(reason=UNTOLERATED, message=tolerations.message(taint))
                for taint in tolerations.untolerated(pod, node.taints)
            ),
            *(Remark(reason=note.reason, message=note.message) for note in resolved.notes),
            *(
                Remark(reason=one.reason, message=one.message)
                for one in decision.notices
                if one.reason == group.MANY_CONTAINERS
            ),
            *_of_dns(resolved.resolver, node, has_proxy=decision.kube_proxy),
        ),
        refused=refused,
    )


def _told(values: tuple[str, ...] | None) -> tuple[str, ...]:
    return (_NOT_TOLD,) if values is None else values


def _defaults(node: Node) -> group.Defaults:
    return group.Defaults(
        cluster_id="",
        node_name="",
        cluster_domain=node.cluster_domain,
        cluster_dns=node.cluster_dns or (),
        node_dns=node.node_dns or (),
        subnet_id=_NOT_TOLD if node.subnet_id is None else node.subnet_id,
        security_group_ids=_told(node.security_group_ids),
        kube_proxy=node.kube_proxy,
        instance_settings=node.instance_settings,
        table=node.table,
        strict_sizes=node.strict_sizes,
        sum_containers_only=node.sum_containers_only,
    )


def _misplaced(subject: Subject) -> Iterator[Remark]:
    """What stands on a Deployment and is meant for its pods."""
    for place, given in subject.outer_annotations.items():
        for key in sorted(given):
            if _is_for_pods(key) and key not in subject.pod.metadata.annotations:
                yield Remark(
                    reason=MISPLACED,
                    message=f"{key} is in the {subject.kind}'s {place}, where it does nothing: put it on the "
                    f"pod template, {subject.template}.metadata.annotations",
                )


def _is_for_pods(key: str) -> bool:
    return key.startswith(pod_annotations.PREFIX) or key in {bandwidth.INGRESS, bandwidth.EGRESS}


def _of_place(decision: group.Decision) -> Iterator[Remark]:
    if decision.subnet_id == _NOT_TOLD:
        yield Remark(
            reason="SubnetNotTold",
            message=f"the pod names no subnet: the node must have KCI_SUBNET_ID, or the pod the annotation "
            f"{pod_annotations.SUBNET}",
        )
    if decision.security_group_ids == (_NOT_TOLD,):
        yield Remark(
            reason="SecurityGroupNotTold",
            message="the pod names no security group: the node must have KCI_SECURITY_GROUP_IDS, or the pod "
            f"the annotation {pod_annotations.SECURITY_GROUPS}",
        )


def _of_dns(resolver: dns.Resolver, node: Node, *, has_proxy: bool) -> Iterator[Remark]:
    """What the instance's own check would find at the cluster."""
    for server in resolver.servers:
        if not has_proxy and node.services is not None and _is_in(server, node.services):
            yield Remark(
                reason="DNSNotReachable",
                message=f"DNS server {server} is a ClusterIP, and the pod has no kube-proxy to reach it: "
                f'set the annotation {pod_annotations.KUBE_PROXY}: "true", KCI_KUBE_PROXY=true, or another '
                "--cluster-dns",
            )


def _is_in(server: str, network: Network) -> bool:
    try:
        return ipaddress.ip_address(server) in network
    except ValueError:
        # The node's servers, which were not told, or none that a manifest may have.
        return False
