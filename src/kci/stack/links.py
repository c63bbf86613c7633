"""The stack's bridge, its gateway address and the routes that keep unused addresses from leaving.

The bridge has no ports: it is a link that only holds addresses, and there on kernels without dummy links.

Works on the network namespace that the process is in. `ensure` may be repeated, `remove` is safe
without `ensure`. Blocking.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import pathlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyroute2
from pyroute2.netlink import exceptions

from kci.kit import linkgroups, nft
from kci.stack import addresses, errors

IP_FORWARD = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
# Behind every route that somebody sets on purpose, and before the default route, which is wider.
UNREACHABLE_PRIORITY = 4_278_198_272

UNREACHABLE = "unreachable"
# Kinds of links by which containers and machines are reached.
_OF_GUESTS = frozenset({"bridge", "veth", "macvlan", "ipvlan", "tun"})
# What follows the bridge's name in the tables' names: pods' firewall, and Services.
TABLES = ("guard", "services")


def list_routes() -> list[addresses.Route]:
    """All IPv4 routes of the namespace, of every table."""
    with _netlink() as netlink:
        known = {link["index"]: link for link in netlink.get_links()}
        return [_to_route(found, known) for found in netlink.get_routes(family=socket.AF_INET)]


def _to_route(found: Any, known: Mapping[int, Any]) -> addresses.Route:
    # Of several ways at once the first one's link stands for all.
    ways = found.get_attr("RTA_MULTIPATH") or []
    index = found.get_attr("RTA_OIF") or next((way["oif"] for way in ways), 0)
    link = known.get(index)
    next_hops = [one.get_attr("RTA_GATEWAY") for one in (found, *ways)]
    return addresses.Route(
        ipaddress.IPv4Network((found.get_attr("RTA_DST") or "0.0.0.0", found["dst_len"])),
        link.get_attr("IFLA_IFNAME") if link else "",
        link_group=(link.get_attr("IFLA_GROUP") or 0) if link else 0,
        next_hops=tuple(one for one in next_hops if one),
    )


def read_ip_forward() -> str:
    return IP_FORWARD.read_text().strip()


def write_ip_forward(value: str) -> None:
    IP_FORWARD.write_text(value)


def has_others_virtual_links() -> bool:
    """Whether there is a bridge, a veth or the like, of a stack, containers or machines that are not ours:
    asked once ours are removed. Their packets are passed on as ours were.
    """
    with _netlink() as netlink:
        about = (link.get_attr("IFLA_LINKINFO") for link in netlink.get_links())
        return any(one is not None and one.get_attr("IFLA_INFO_KIND") in _OF_GUESTS for one in about)


def ensure(bridge: str, ranges: addresses.Ranges) -> None:
    """Unreachable routes first, then loopback, bridge and gateway address."""
    with _netlink() as netlink:
        for network in _networks(ranges):
            with _tolerated(errno.EEXIST):
                netlink.route("add", dst=str(network), type=UNREACHABLE, priority=UNREACHABLE_PRIORITY)
        netlink.link("set", index=1, state="up")
        with _tolerated(errno.EEXIST):
            netlink.link("add", ifname=bridge, kind="bridge")
        index = netlink.link_lookup(ifname=bridge)[0]
        # As the kcilet has it at the pods' ends; earlier versions had them on the bridge.
        netlink.link("set", index=index, address=_mac_address(ranges.gateway), state="up")
        with _tolerated(errno.EEXIST):
            netlink.addr("add", index=index, address=str(ranges.gateway), prefixlen=ranges.pods.prefixlen)


def remove(bridge: str, ranges: addresses.Ranges) -> None:
    """Pods' links and what is left of the kcilet's rules, bridge, and unreachable routes last."""
    with _netlink() as netlink:
        group = linkgroups.number_of(bridge)
        left = [link["index"] for link in netlink.get_links() if link.get_attr("IFLA_GROUP") == group]
        for index in left:
            with _tolerated(errno.ENODEV):
                netlink.link("del", index=index)
        _remove_tables(bridge)
        for index in netlink.link_lookup(ifname=bridge):
            with _tolerated(errno.ENODEV):
                netlink.link("del", index=index)
        for network in _networks(ranges):
            with _tolerated(errno.ESRCH):
                netlink.route("del", dst=str(network), type=UNREACHABLE, priority=UNREACHABLE_PRIORITY)


def _remove_tables(bridge: str) -> None:
    """Those of nftables that the kcilet has for its link; they outlive it."""
    try:
        kernel = nft.Nft()
    except nft.NftError:
        # Without the library there was never a table.
        return
    try:
        for name in TABLES:
            # Deleting what is not there would be refused: it is made first.
            table = f"inet {bridge}-{name}"
            _ = kernel.run(f"add table {table}; delete table {table}")
    except nft.NftError as error:
        raise errors.StackError(f"cannot remove the tables of nftables: {error}") from error
    finally:
        kernel.close()


def has_default_route(routes: Sequence[addresses.Route]) -> bool:
    return any(route.destination.prefixlen == 0 and route.interface for route in routes)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def is_port_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As every server does: connections of an earlier one that are still closing are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def _networks(ranges: addresses.Ranges) -> list[ipaddress.IPv4Network]:
    return [ranges.pods, *([ranges.services] if ranges.services else [])]


def _mac_address(gateway: ipaddress.IPv4Address) -> str:
    return ":".join(f"{byte:02x}" for byte in b"\x02\x4b" + gateway.packed)


def _netlink() -> pyroute2.IPRoute:
    return pyroute2.IPRoute()


@contextlib.contextmanager
def _tolerated(*codes: int) -> Iterator[None]:
    try:
        yield
    except exceptions.NetlinkError as error:
        if error.code not in codes:
            raise errors.StackError(f"cannot set up the stack's network: {error}") from error
