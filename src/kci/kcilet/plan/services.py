"""What the pods of one node reach behind the Services of their cluster: kube-proxy's decisions as values.

From Services and EndpointSlices to a table of service addresses and their endpoints, one Service at a time,
so that a change costs no more than what changed; and from two tables to what makes one of the other. Nothing
here knows how a table is brought to the pods. Ported from Kubernetes v1.36.3 pkg/proxy: serviceport.go,
endpointslicecache.go, topology.go, and conntrack/cleanup.go (which flows may go on).

Differs: IPv4 alone. External and load-balancer addresses count only where the operator allows them, and one
with source ranges is left to the load balancer itself. An endpoint that no pod has (loopback, link-local,
multicast, an address of the machine) is no endpoint, unless the operator says that it may be reached: whoever
writes EndpointSlices may not reach with them what he cannot reach without.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from kci.kcilet import ports
from kci.kube import models

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
SERVICE_NAME = "kubernetes.io/service-name"
# What the API server fills in.
DEFAULT_AFFINITY_S = 10800
_PROTOCOLS = ("tcp", "udp", "sctp")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What the machine's operator lets Services lead to."""

    # The machine's own addresses.
    own: frozenset[str] = frozenset()
    # Ports of these, and of other special addresses, that pods may reach.
    reachable: frozenset[ports.Reachable] = frozenset()
    # Whether external and load-balancer addresses lead to the Service as well.
    external: bool = False


@dataclasses.dataclass(frozen=True)
class Outlook:
    """From where Services are seen: the pods' node, and its zone, empty if it is in none."""

    node_name: str
    zone: str = ""
    bounds: Bounds = Bounds()


@dataclasses.dataclass(frozen=True)
class Rows:
    """One Service's part of the table."""

    cluster: ports.ServiceTable = dataclasses.field(default_factory=dict)
    external: ports.ServiceTable = dataclasses.field(default_factory=dict)
    # Endpoints that are none, in words.
    ignored: frozenset[str] = frozenset()


NOTHING = Rows()
_NO_NAMES: frozenset[str] = frozenset()


class _Candidate(NamedTuple):
    """An endpoint and what its slice says of it."""

    endpoint: ports.Endpoint
    ready: bool
    serving: bool
    terminating: bool
    node_name: str
    zone_hints: frozenset[str]
    node_hints: frozenset[str]

    @property
    def is_leaving(self) -> bool:
        return self.serving and self.terminating


def rows_of(
    service: models.Service | None, slices: Collection[models.EndpointSlice], outlook: Outlook
) -> Rows:
    """`slices` are those of this Service."""
    if service is None or _is_others(service):
        return NOTHING
    address = _cluster_ip(service)
    if not address:
        return NOTHING
    others = _external_addresses(service) if outlook.bounds.external else ()
    cluster: dict[ports.ServiceAddress, ports.Backend] = {}
    external: dict[ports.ServiceAddress, ports.Backend] = {}
    ignored: set[str] = set()
    for one in service.spec.ports:
        protocol = one.protocol.lower()
        if protocol not in _PROTOCOLS:
            continue
        found = _candidates(one, slices, outlook.bounds, ignored)
        is_local = service.spec.internal_traffic_policy == "Local"
        cluster[ports.ServiceAddress(address, protocol, one.port)] = _backend(
            service, protocol, found, _local(found, outlook) if is_local else _anywhere(found, outlook)
        )
        for other in others:
            # Traffic from within the cluster goes anywhere, whatever externalTrafficPolicy says.
            external[ports.ServiceAddress(other, protocol, one.port)] = _backend(
                service, protocol, found, _anywhere(found, outlook)
            )
    key = f"{service.metadata.namespace}/{service.metadata.name}"
    return Rows(cluster, external, frozenset(f"{key}: {text}" for text in ignored))


def merge(rows: Mapping[ServiceName, Rows]) -> dict[ports.ServiceAddress, ports.Backend]:
    """All rows as one table. No Service's external address takes another's ClusterIP, and of two that claim
    one external address the first by name has it.
    """
    table: dict[ports.ServiceAddress, ports.Backend] = {}
    for name in sorted((name for name, one in rows.items() if one.external), reverse=True):
        table |= rows[name].external
    for one in rows.values():
        table |= one.cluster
    return table


def diff(old: ports.ServiceTable, new: ports.ServiceTable) -> ports.ServiceChange:
    put = {key: backend for key, backend in new.items() if old.get(key) != backend}
    return ports.ServiceChange(put, frozenset(key for key in old if key not in new))


def apply(change: ports.ServiceChange, old: ports.ServiceTable) -> dict[ports.ServiceAddress, ports.Backend]:
    """The table after a change."""
    kept = {} if change.is_whole else {key: old[key] for key in old if key not in change.gone}
    return kept | dict(change.put)


# ---- Services -------------------------------------------------------------------------------------

ServiceName: TypeAlias = tuple[str, str]


def service_of(slice_: models.EndpointSlice) -> ServiceName | None:
    """The namespace and name of the Service whose endpoints these are."""
    name = slice_.metadata.labels.get(SERVICE_NAME, "")
    return (slice_.metadata.namespace, name) if name else None


def has_cluster_ip(service: models.Service) -> bool:
    """Whether it is neither headless nor a mere name."""
    return service.spec.cluster_ip not in {"", "None"} and service.spec.type != "ExternalName"


def linked(pod: models.Pod, services: Mapping[ServiceName, models.Service]) -> list[models.Service]:
    """Those that a pod finds in its environment: its namespace's, unless it wants none, and the API server's.
    Ported from pkg/kubelet/kubelet_pods.go (getServiceEnvVarMap).
    """
    wants_all = pod.spec.enable_service_links is not False
    names = {("default", "kubernetes")} & services.keys()
    taken = {name for _, name in names}
    if wants_all:
        names |= {name for name in services if name[0] == pod.metadata.namespace and name[1] not in taken}
    return [services[name] for name in sorted(names) if has_cluster_ip(services[name])]


def _is_others(service: models.Service) -> bool:
    return not has_cluster_ip(service) or PROXY_NAME in service.metadata.labels


def _cluster_ip(service: models.Service) -> str:
    """The IPv4 one; empty if there is none."""
    spec = service.spec
    addresses: Iterable[str] = (spec.cluster_ip,)
    if spec.ip_families:
        pairs = zip(spec.ip_families, spec.cluster_ips, strict=False)
        addresses = (address for family, address in pairs if family == "IPv4")
    return next((address for address in addresses if _is_ipv4(address)), "")


def _external_addresses(service: models.Service) -> tuple[str, ...]:
    found = [*service.spec.external_ips]
    if not service.spec.load_balancer_source_ranges:
        ingress = service.status.load_balancer.ingress or ()
        found += [one.ip for one in ingress if one.ip_mode in {"", "VIP"}]
    return tuple(address for address in dict.fromkeys(found) if _is_ipv4(address))


def _affinity_s(service: models.Service) -> int:
    if service.spec.session_affinity != "ClientIP":
        return 0
    config = service.spec.session_affinity_config
    seconds = (
        config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
    )
    return DEFAULT_AFFINITY_S if seconds is None else seconds


def _backend(
    service: models.Service,
    protocol: str,
    found: Collection[_Candidate],
    chosen: Iterable[_Candidate],
) -> ports.Backend:
    # What a flow without a connection was sent to stays right for as long as it serves.
    serving = None if protocol == "tcp" else tuple(sorted(one.endpoint for one in found if one.serving))
    endpoints = tuple(sorted(one.endpoint for one in chosen))
    return ports.Backend(endpoints, _affinity_s(service), serving)


# ---- endpoints ------------------------------------------------------------------------------------


def _candidates(
    port: models.ServicePort, slices: Iterable[models.EndpointSlice], bounds: Bounds, ignored: set[str]
) -> list[_Candidate]:
    """The endpoints of one port, each once. Adds to `ignored`."""
    protocol = port.protocol.lower()
    found: dict[ports.Endpoint, _Candidate] = {}
    for part in slices:
        if part.address_type != "IPv4":
            continue
        for number in _numbers(part, port):
            for one in part.endpoints or ():
                if not one.addresses or not _is_ipv4(one.addresses[0]):
                    continue
                endpoint = ports.Endpoint(one.addresses[0], number)
                why = _forbidden(endpoint, protocol, bounds)
                if why:
                    ignored.add(f"{endpoint.address}:{number}/{protocol} is {why}")
                    continue
                candidate = _candidate(endpoint, one)
                # Of two that have one address, a running pod and a former one, the running one counts.
                if endpoint not in found or not candidate.terminating:
                    found[endpoint] = candidate
    return list(found.values())


def _numbers(part: models.EndpointSlice, port: models.ServicePort) -> list[int]:
    """The ports of a slice that are this port of the Service: those of its name and protocol."""
    return [
        one.port
        for one in part.ports or ()
        if one.name == port.name and (one.protocol or "TCP") == port.protocol and one.port
    ]


def _candidate(endpoint: ports.Endpoint, one: models.Endpoint) -> _Candidate:
    said, hints = one.conditions, one.hints
    return _Candidate(
        endpoint,
        ready=said.ready is not False,
        serving=said.serving is not False,
        terminating=said.terminating is True,
        node_name=one.node_name or "",
        zone_hints=_names(hints.for_zones) if hints is not None else _NO_NAMES,
        node_hints=_names(hints.for_nodes) if hints is not None else _NO_NAMES,
    )


def _names(hinted: Iterable[models.HintedName] | None) -> frozenset[str]:
    return frozenset(one.name for one in hinted or ())


def _forbidden(endpoint: ports.Endpoint, protocol: str, bounds: Bounds) -> str:
    """What keeps an address from being an endpoint; empty if nothing does."""
    why = _special(endpoint.address)
    if not why and endpoint.address in bounds.own:
        why = "an address of the machine"
    if why and ports.Reachable(endpoint.address, endpoint.port, protocol) in bounds.reachable:
        return ""
    return why


@functools.lru_cache(maxsize=65536)
def _special(text: str) -> str:
    """What makes an address one that no pod has; empty for all others."""
    first, second = map(int, text.split(".")[:2])
    if first == 127:
        return "a loopback address"
    if (first, second) == (169, 254):
        return "a link-local address"
    if 224 <= first < 240:
        return "a multicast address"
    # 0.0.0.0/8 stands for the machine itself, 240.0.0.0/4 holds the broadcast address.
    return "no address of a pod" if first == 0 or first >= 240 else ""


def _is_ipv4(text: str) -> bool:
    """In its usual form, unlike 010.0.0.1: nothing else may reach the kernel's rules."""
    return _IPV4.fullmatch(text) is not None


# ---- topology.go ----------------------------------------------------------------------------------


def _anywhere(found: Collection[_Candidate], outlook: Outlook) -> list[_Candidate]:
    """Those that are ready, as near as the hints say; else those that still serve while they end."""
    is_near = _nearness(found, outlook)
    ready = [one for one in found if one.ready and is_near(one)]
    return ready or [one for one in found if one.is_leaving]


def _local(found: Iterable[_Candidate], outlook: Outlook) -> list[_Candidate]:
    """As `_anywhere`, of those on the node."""
    local = [one for one in found if one.node_name and one.node_name == outlook.node_name]
    return [one for one in local if one.ready] or [one for one in local if one.is_leaving]


def _nearness(found: Iterable[_Candidate], outlook: Outlook) -> Callable[[_Candidate], bool]:
    """Hints count if all endpoints that are ready have them and one is meant for here: nodes, then zones."""
    ready = [one for one in found if one.ready]
    node, zone = outlook.node_name, outlook.zone
    if all(one.node_hints for one in ready) and any(node in one.node_hints for one in ready):
        return lambda one: node in one.node_hints
    if all(one.zone_hints for one in ready) and any(zone in one.zone_hints for one in ready):
        return lambda one: zone in one.zone_hints
    return lambda _: True
