"""A pod's resolver: dnsPolicy and dnsConfig to servers, searches and options. Pure.

Ported from Kubernetes v1.36.3 pkg/kubelet/network/dns/dns.go. Differs: options keep their order (the
kubelet has none); what was cut or fell back is returned as notes instead of recorded as events; the machine's
resolver comes as values, and without a server it counts as the kubelet's empty --resolv-conf.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Sequence

from kci.kube import models, reasons

MAX_SERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_LINE = 2048
MAX_DOMAIN = 253
_DEFAULT_OPTIONS = ("ndots:5",)


@dataclasses.dataclass(frozen=True)
class Resolver:
    """The content of a resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Note:
    """Something the user should know, worded as the kubelet's event of that reason."""

    reason: reasons.OfRun
    message: str


@dataclasses.dataclass(frozen=True)
class Resolved:
    resolver: Resolver
    notes: tuple[Note, ...] = ()


def of_machine(
    servers: Iterable[str] = (), searches: Iterable[str] = (), options: Iterable[str] = ()
) -> Resolver:
    """A machine's resolver as the kubelet reads a resolv.conf: a search path counts once with and without the
    dot at its end, the root is none, and of an option that is there twice the last one counts.
    """
    by_name = {option.partition(":")[0]: option for option in options}
    return Resolver(
        servers=tuple(servers),
        searches=tuple(domain.removesuffix(".") for domain in searches if domain != "."),
        options=tuple(by_name.values()),
    )


def resolve(
    pod: models.Pod,
    *,
    cluster_dns: Sequence[str] = (),
    cluster_domain: str = "",
    machine: Resolver | None = None,
) -> Resolved:
    """`machine` is what dnsPolicy Default gives (see `of_machine`): without a server in it look-ups end
    in the pod itself, rather than at whatever the machine that runs the pod happens to use.
    """
    base, notes = _base(pod, machine or Resolver(), cluster_dns, cluster_domain)
    if pod.spec.dns_config:
        base = _with(base, pod.spec.dns_config)
    servers, searches = base.servers[:MAX_SERVERS], _fitting(base.searches)
    if servers != base.servers:
        notes.append(_cut("Nameserver", "nameservers", "nameserver", servers))
    if searches != base.searches:
        notes.append(_cut("Search Line", "search paths", "search", searches))
    return Resolved(Resolver(servers, searches, base.options), tuple(notes))


def _base(
    pod: models.Pod, machine: Resolver, cluster_dns: Sequence[str], cluster_domain: str
) -> tuple[Resolver, list[Note]]:
    policy = pod.spec.dns_policy
    if policy == "None":
        return Resolver(), []
    if policy == "Default" or (policy == "ClusterFirst" and pod.spec.host_network):
        return _of_machine(machine), []
    if cluster_dns:
        searches = machine.searches
        if cluster_domain:
            service = f"svc.{cluster_domain}"
            own = (f"{pod.metadata.namespace}.{service}", service, cluster_domain)
            searches = _unique((*own, *searches))
        return Resolver(tuple(map(_as_go_writes_it, cluster_dns)), searches, _DEFAULT_OPTIONS), []
    meta = pod.metadata
    missing = (
        f'pod: "{meta.name}_{meta.namespace}({meta.uid})". kubelet does not have ClusterDNS IP configured '
        'and cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.'
    )
    return _of_machine(machine), [Note("MissingClusterDNS", missing)]


def _as_go_writes_it(text: str) -> str:
    """IPv6 in its shortest form, an IPv4 address within IPv6 as IPv4. What is no address is the caller's."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


def _of_machine(machine: Resolver) -> Resolver:
    return machine if machine.servers else Resolver(("127.0.0.1",), (".",))


def _cut(what: str, omitted: str, line: str, applied: tuple[str, ...]) -> Note:
    return Note(
        "DNSConfigForming",
        f"{what} limits were exceeded, some {omitted} have been omitted, "
        f"the applied {line} line is: {' '.join(applied)}",
    )


def _with(base: Resolver, own: models.PodDNSConfig) -> Resolver:
    options: dict[str, str] = {}
    for option in base.options:
        name, _, value = option.partition(":")
        options[name] = value
    options.update({option.name: option.value or "" for option in own.options})
    return Resolver(
        servers=_unique((*base.servers, *own.nameservers)),
        searches=_unique((*base.searches, *own.searches)),
        options=tuple(f"{name}:{value}" if value else name for name, value in options.items()),
    )


def _fitting(searches: tuple[str, ...]) -> tuple[str, ...]:
    kept = [domain for domain in searches[:MAX_SEARCHES] if len(domain.encode()) <= MAX_DOMAIN]
    while len(" ".join(kept).encode()) > MAX_SEARCH_LINE:
        kept.pop()
    return tuple(kept)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
