"""Whether pods' names are answered: the servers of --cluster-dns. Pure."""

from __future__ import annotations

import dataclasses

from kci.doctor.findings import finding
from kci.stack import typed

NO_ERROR = 0
_FIND = "kubectl -n kube-system get service kube-dns"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a server said to the question for kubernetes.default.svc; `problem` if it said nothing."""

    address: str
    code: int = NO_ERROR
    answers: int = 0
    problem: str = ""


def judge_reply(seen: Reply, place: typed.Place, *, name: str, is_here: bool) -> finding.Finding:
    """`is_here`: what pods reach is reached from here as well."""
    if seen.problem:
        if not is_here:
            return finding.unseen(f"{seen.address} is not reached from here, and perhaps is by instances")
        return finding.wrong(
            f"the cluster DNS {seen.address} does not answer ({seen.problem})",
            f"see that it runs: dig @{seen.address} {name}",
        )
    if seen.code != NO_ERROR or not seen.answers:
        return finding.wrong(
            f"the DNS server {seen.address} does not know {name}: it is no DNS of this cluster, or "
            "--cluster-domain is wrong",
            f"{place.inside(_FIND)}, and correct --cluster-dns and --cluster-domain",
        )
    return finding.well(f"the cluster DNS {seen.address} knows {name}")


def judge_none(place: typed.Place) -> finding.Finding:
    return finding.warning(
        "--cluster-dns is not given: pods with dnsPolicy ClusterFirst do not know the cluster's names",
        f"give it the address of the cluster's DNS: {place.inside(_FIND)}",
    )


def judge_cluster_ip(address: str) -> finding.Finding:
    return finding.warning(
        f"the DNS server {address} is the ClusterIP of kube-dns, which only pods with kube-proxy reach",
        "set KCI_KUBE_PROXY=true, or give --cluster-dns an address of a DNS pod or node",
    )
