"""The stack's bridge, its gateway address and the routes that keep unused addresses from leaving.

Works on the network namespace that the process is in. `ensure` may be repeated, `remove` is safe
without `ensure`. Blocking.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import pathlib
import socket
from collections.abc import Iterator, Sequence

import pyroute2
from pyroute2.netlink import exceptions

from kci.kit import nft
from kci.stack import addresses, errors

IP_FORWARD = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
# Behind every route that somebody sets on purpose, and before the default route, which is wider.
UNREACHABLE_PRIORITY = 4_278_198_272

UNREACHABLE = "unreachable"


def list_routes() -> list[addresses.Route]:
    """All IPv4 routes of the namespace, of every table."""
    with _netlink() as netlink:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
        return [
            addresses.Route(
                ipaddress.IPv4Network((route.get_attr("RTA_DST") or "0.0.0.0", route["dst_len"])),
                names.get(route.get_attr("RTA_OIF"), ""),
            )
            for route in netlink.get_routes(family=socket.AF_INET)
        ]


def read_ip_forward() -> str:
    return IP_FORWARD.read_text().strip()


def write_ip_forward(value: str) -> None:
    IP_FORWARD.write_text(value)


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
        # Set, or the bridge takes the lowest of its ports' and changes it when a pod comes or goes.
        netlink.link("set", index=index, address=_mac_address(ranges.gateway), state="up")
        with _tolerated(errno.EEXIST):
            netlink.addr("add", index=index, address=str(ranges.gateway), prefixlen=ranges.pods.prefixlen)


def remove(bridge: str, ranges: addresses.Ranges) -> None:
    """Bridge first, unreachable routes last."""
    with _netlink() as netlink:
        for index in netlink.link_lookup(ifname=bridge):
            with _tolerated(errno.ENODEV):
                netlink.link("del", index=index)
        for network in _networks(ranges):
            with _tolerated(errno.ESRCH):
                netlink.route("del", dst=str(network), type=UNREACHABLE, priority=UNREACHABLE_PRIORITY)


def remove_rules(bridge: str) -> None:
    """The tables of nftables that the kcilet made, such as `<bridge>-services`."""
    try:
        rules = nft.Nft()
    except nft.NftError:
        # Then nobody made any.
        return
    try:
        for one in rules.read("list tables inet"):
            name = one["table"]["name"] if "table" in one else ""
            if name.startswith(f"{bridge}-"):
                _ = rules.run(f"delete table inet {name}")
    except nft.NftError as error:
        raise errors.StackError(f"cannot remove the rules of {bridge}: {error}") from error
    finally:
        rules.close()


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
