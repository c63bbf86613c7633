"""The Node object, its Lease, and the kubelet API behind it. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from kci.doctor.findings import finding
from kci.kube import models
from kci.stack import typed
from kci.vnode import node as nodes

# When the control plane takes a node for gone: kubelet's Lease, and node-monitor-grace-period (1.36).
LEASE_S = 40.0
READY = "Ready"


@dataclasses.dataclass(frozen=True)
class Served:
    """What the kubelet API is served with: names and end of its certificate, and whether the cluster's CA
    (None: not known) signed it.
    """

    names: frozenset[str]
    end: datetime.datetime
    is_of_cluster: bool | None


def judge_settings(problems: Sequence[str], warnings: Sequence[str]) -> list[finding.Finding]:
    """What the program says of its flags and variables; each says what to write."""
    found = [
        finding.of_sentence(
            finding.Level.WRONG, text, otherwise="correct it (docs/reference/virtual-kubelet.md)"
        )
        for text in problems
    ]
    found += [
        finding.of_sentence(finding.Level.WARNING, text, otherwise="docs/reference/virtual-kubelet.md")
        for text in warnings
    ]
    return found or [finding.well("what the virtual node is told is in order")]


def judge_node(
    seen: models.Node | None, node_name: str, place: typed.Place, *, log: str
) -> list[finding.Finding]:
    if seen is None:
        return [
            finding.wrong(
                f"there is no node {node_name}: the virtual node does not run, waits for its identity, or "
                "has another name",
                f"{place.inside('kubectl get csr')}; {log}",
            )
        ]
    if not nodes.is_ours(seen):
        return [
            finding.wrong(
                f"the node {node_name} is a machine, no virtual node: it has no label "
                f"{nodes.TYPE_LABEL}={nodes.TYPE}",
                "give the virtual node another --nodename",
            )
        ]
    found = [
        one for condition in seen.status.conditions if (one := _judge_condition(condition, node_name, log))
    ]
    if not any(condition.type == READY for condition in seen.status.conditions):
        found.append(finding.wrong(f"the node {node_name} never said that it is Ready", log))
    if seen.spec.unschedulable:
        found.append(
            finding.warning(
                f"the node {node_name} takes no new pods (cordoned)",
                place.inside(f"kubectl uncordon {node_name}"),
            )
        )
    version = seen.status.node_info.get("kubeletVersion", "")
    return found or [finding.well(f"the node {node_name} is Ready ({version})")]


def _judge_condition(seen: models.NodeCondition, node_name: str, log: str) -> finding.Finding | None:
    if seen.type == READY and seen.status != "True":
        return finding.wrong(
            f"the node {node_name} is not Ready: {seen.reason}: {seen.message}",
            f"see whether the virtual node runs and reaches the API server: {log}",
        )
    if seen.type != READY and seen.status == "True":
        return finding.wrong(f"the node {node_name} has {seen.type}: {seen.reason}: {seen.message}", log)
    return None


def judge_lease(
    seen: models.Lease | None, node_name: str, now: datetime.datetime, *, log: str
) -> finding.Finding:
    if seen is None or not seen.spec.renew_time:
        return finding.wrong(
            f"the node {node_name} has no Lease in kube-node-lease: the virtual node does not run", log
        )
    holder = seen.spec.holder_identity or ""
    age_s = (now - datetime.datetime.fromisoformat(seen.spec.renew_time)).total_seconds()
    if not holder:
        return finding.wrong(
            f"nobody holds the Lease of {node_name}: its last copy ended {age_s:.0f} s ago, so no pod of it "
            "is looked after",
            f"start the virtual node; {log}",
        )
    if age_s > (seen.spec.lease_duration_seconds or LEASE_S):
        return finding.wrong(
            f"the Lease of {node_name} was renewed {age_s:.0f} s ago, by {holder}: it does not run, or does "
            "not reach the API server",
            log,
        )
    return finding.well(f"{holder} renewed the Lease {max(age_s, 0):.0f} s ago")


def judge_taints(seen: models.Node, settings: nodes.NodeSettings, place: typed.Place) -> finding.Finding:
    warning = nodes.taint_warning(settings, seen)
    if warning:
        what, _, remedy = warning.partition("; an administrator does it with: ")
        return finding.warning(what, place.inside(remedy))
    if not settings.taints:
        return finding.well("the node has no taint of its own, as it was told")
    return finding.well(f"the node has its taint {', '.join(one.key for one in settings.taints)}")


def judge_proxy(
    answer: str, problem: str, node_name: str, place: typed.Place, *, log: str
) -> finding.Finding:
    """The API server's way to the kubelet API: the answer of /healthz, or why there is none."""
    if not problem:
        if answer.strip() == "ok":
            return finding.well("the API server reaches the kubelet API")
        return finding.wrong(
            f"the kubelet API of {node_name} answers {answer[:80]!r}",
            "see that nothing else listens at that address and port",
        )
    text = (
        f"the API server does not reach the kubelet API of {node_name}, so kubectl logs and exec fail: "
        f"{problem}"
    )
    if "x509" in problem or "tls:" in problem or "certificate" in problem:
        return finding.wrong(text, _approve_serving(place))
    if "nauthorized" in problem:
        return finding.wrong(
            text, "give the node the CA of the API server's client certificate: --client-ca-file"
        )
    return finding.wrong(
        text,
        "let the API server reach VKUBELET_POD_IP:KUBELET_PORT (firewall, route), and see that the node "
        f"runs: {log}",
    )


def judge_unserved(address: str, problem: str, place: typed.Place) -> finding.Finding:
    return finding.wrong(
        f"the kubelet API {address} has no certificate yet, or is something else: {problem}",
        _approve_serving(place),
    )


def _approve_serving(place: typed.Place) -> str:
    look, approve = place.inside("kubectl get csr"), place.inside("kubectl certificate approve NAME")
    return f"{look}; {approve} (of kubernetes.io/kubelet-serving)"


def judge_served(
    seen: Served, place: typed.Place, *, expected: Sequence[str], now: datetime.datetime
) -> list[finding.Finding]:
    """`expected`: the node's address and name."""
    look, approve = place.inside("kubectl get csr"), place.inside("kubectl certificate approve")
    renew = f"{look}; {approve} the node's next request, or give --tls-cert-file anew"
    if now >= seen.end:
        return [finding.wrong(f"the kubelet API's certificate ended on {seen.end:%Y-%m-%d %H:%M} UTC", renew)]
    found = []
    missing = [name for name in expected if name not in seen.names]
    if missing:
        found.append(
            finding.wrong(
                f"the kubelet API's certificate is not for {' and '.join(missing)}",
                "let the node ask for one (without --tls-cert-file), or give one for its name and address",
            )
        )
    if seen.is_of_cluster is False:
        found.append(
            finding.warning(
                "the kubelet API's certificate is not signed by the cluster's CA: an API server with "
                "--kubelet-certificate-authority refuses it",
                "let the node ask for one (without --tls-cert-file)",
            )
        )
    return found or [finding.well(f"the kubelet API's certificate is good until {seen.end:%Y-%m-%d}")]
