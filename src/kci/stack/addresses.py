"""Which address ranges a stack takes: pure choice over the machine's routes."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from kci.stack import errors

Network = ipaddress.IPv4Network


@dataclasses.dataclass(frozen=True)
class Route:
    """A route of the machine. `interface` is empty for unreachable and the like."""

    destination: Network
    interface: str = ""
    # Of that interface; the links of a stack's pods have one of their own.
    link_group: int = 0
    # Where packets are handed on; empty where the destination itself is on that link.
    next_hops: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Ranges:
    pods: Network
    # None where the cluster is not ours.
    services: Network | None

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        return next(self.pods.hosts())


def choose_ranges(
    *,
    pods: str,
    services: str,
    own_control_plane: bool,
    routes: Sequence[Route],
    bridge: str,
    link_group: int,
    kept: Ranges | None,
) -> Ranges:
    """The ranges asked for, else those kept from the first start, else free ones.

    Raises StackError if one of them overlaps a route that is not this stack's own, or differs from
    what was kept: pods and services have addresses of those already.
    """
    taken = [route.destination for route in routes if not _is_own(route, bridge, link_group, kept)]
    pod_range = _settle("pod", pods, kept.pods if kept else None, taken, _pod_candidates())
    if not own_control_plane:
        return Ranges(pods=pod_range, services=None)
    service_range = _settle(
        "service", services, kept.services if kept else None, [*taken, pod_range], _service_candidates()
    )
    return Ranges(pods=pod_range, services=service_range)


def plan_reserved(
    ranges: Ranges, routes: Iterable[Route], *, bridge: str, link_group: int, hosts: Iterable[str]
) -> tuple[Network, ...]:
    """What no subnet of a user may have: Services, the networks of the machine's links, the next hops
    of its default routes, and `hosts`, whom it asks. A gateway made of one of them would cut the machine off.

    Without what is this stack's: its pods' own range, its bridge, and its pods' links. What lies behind a
    router is left out as well: a subnet may be a part of it.
    """
    found = [] if ranges.services is None else [ranges.services]
    for route in routes:
        if route.destination.prefixlen == 0:
            hosts = [*hosts, *route.next_hops]
        elif route.interface not in {"", bridge} and route.link_group != link_group and not route.next_hops:
            found.append(route.destination)
    found += [Network(host) for host in hosts]
    kept = (one for one in found if not one.is_loopback and not one.overlaps(ranges.pods))
    return tuple(ipaddress.collapse_addresses(kept))


def _is_own(route: Route, bridge: str, link_group: int, kept: Ranges | None) -> bool:
    # The default route leads everywhere and takes no range for itself.
    if route.destination.prefixlen == 0 or route.interface == bridge:
        return True
    # Pods that outlived their stack's programs.
    if route.link_group == link_group:
        return True
    return kept is not None and not route.interface and route.destination in {kept.pods, kept.services}


def _settle(
    kind: str, asked: str, kept: Network | None, taken: Iterable[Network], candidates: Iterator[Network]
) -> Network:
    taken = list(taken)
    if asked and kept and Network(asked) != kept:
        raise errors.StackError(
            f"cannot change the {kind} range of this stack from {kept} to {asked}: "
            f"`kci down --purge` first, or leave --{kind}-cidr out"
        )
    wanted = Network(asked) if asked else kept
    if wanted is None:
        wanted = next((one for one in candidates if not _overlaps(one, taken)), None)
        if wanted is None:
            raise errors.StackError(
                f"cannot find a free {kind} range on this machine: name one with --{kind}-cidr"
            )
        return wanted
    clash = _overlaps(wanted, taken)
    if clash:
        remedy = f"choose another with --{kind}-cidr"
        if kept:
            remedy = f"remove that route, or `kci down --purge` and {remedy}"
        raise errors.StackError(
            f"cannot use the {kind} range {wanted}: the machine has {clash} already; {remedy}"
        )
    return wanted


def _overlaps(network: Network, taken: Iterable[Network]) -> Network | None:
    return next((other for other in taken if network.overlaps(other)), None)


def _pod_candidates() -> Iterator[Network]:
    for second in range(88, 128):
        yield Network(f"10.{second}.0.0/16")
    for second in range(16, 32):
        yield Network(f"172.{second}.0.0/16")
    yield from Network("100.64.0.0/10").subnets(new_prefix=16)


def _service_candidates() -> Iterator[Network]:
    for second in range(152, 192):
        yield Network(f"10.{second}.0.0/16")
    yield from Network("172.16.0.0/12").subnets(new_prefix=16)
    yield from Network("100.64.0.0/10").subnets(new_prefix=16)
