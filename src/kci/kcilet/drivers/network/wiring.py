"""Links, addresses and routes through netlink. Blocking, and for one thread alone.

A pod's veth pair is no bridge's: the machine's end has a route to the pod's one address, and the pod sends
everything to its gateway, an address of the machine's. Who is who is fixed on both ends, so that nothing is
asked by ARP and an answer to it changes nothing. What the machine's end must look like can be said again at
any time (`adopt`): after a restart, and over a link that an earlier version put on a bridge.

The socket to the machine's side stays open; one in a pod's network namespace is made by entering
it for the moment in which the socket is made, because a netlink socket keeps the namespace it
was made in. Only this thread ever enters one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import pathlib
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import pyroute2

from kci.kcilet import ports
from kci.kcilet.drivers.network import cni, gateways, netlink, shaping
from kci.kit import crashpoints, linkgroups
from kci.link import types as link

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_LOOPBACK_INDEX = 1
_GET_MTU = 0x8921
_SYSCTLS = pathlib.Path("/proc/sys/net")
# Of the machine's end. What comes in must be routed back the same way, and says nothing of routes.
_OUTER = {
    "ipv6/conf/{name}/disable_ipv6": "1",
    "ipv4/conf/{name}/rp_filter": "1",
    "ipv4/conf/{name}/accept_redirects": "0",
    "ipv4/conf/{name}/send_redirects": "0",
    "ipv4/conf/{name}/accept_source_route": "0",
}
# A pod that was wired to the bridge takes its subnet for its own link, and asks there for everybody.
_FORMER_BRIDGE = {"ipv4/conf/{name}/proxy_arp": "1", "ipv4/neigh/{name}/proxy_delay": "0"}
_INNER = {"ipv6/conf/{name}/disable_ipv6": "1"}


class WiringError(Exception):
    """The kernel refused; the text says what."""


class Wiring:
    """Made and used in one thread. The link named `holder` exists, is up, and is only there to have the pods'
    gateway addresses.
    """

    def __init__(self, holder: str) -> None:
        self._own_namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._machine = pyroute2.IPRoute()
        self._netlink = netlink.Netlink()
        # Asks for what takes no netlink; in the machine's namespace.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._shaper = shaping.Shaper(self._machine)
        self._gateways = gateways.Gateways(self._machine, holder)
        self._holder = holder
        self._group = linkgroups.number_of(holder)

    def close(self) -> None:
        self._machine.close()
        self._netlink.close()
        self._socket.close()
        os.close(self._own_namespace)

    def add(
        self,
        name: str,
        alias: str,
        interface: link.Interface,
        request: cni.Request,
        limits: ports.TrafficLimits = ports.NO_LIMITS,
    ) -> None:
        """Connect a network namespace to the machine; what an earlier try left behind is replaced."""
        with _told(f"{name}, {request.netns}"):
            namespace = os.open(request.netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._check_not_own(interface.address)
                self._gateways.ensure(interface.gateway)
                crashpoints.reached("kcilet.add_link.before")
                self._make_pair(name, interface, request.ifname, namespace)
                crashpoints.reached("kcilet.add_link.made")
                self._set_up_outer(name, interface, alias)
                if limits != ports.NO_LIMITS:
                    self._shaper.limit(name, limits)
                self._set_up_inside(namespace, request.ifname, interface)
                crashpoints.reached("kcilet.add_link.after")
            finally:
                os.close(namespace)

    def limit(self, name: str, limits: ports.TrafficLimits) -> None:
        """Have these limits at a link, if there is one."""
        with _told(name):
            self._shaper.limit(name, limits)

    def own_addresses(self) -> frozenset[str]:
        """The machine's, of IPv4."""
        with _told("the machine's addresses"):
            found = self._machine.get_addr(family=socket.AF_INET)
            return frozenset(str(one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")) for one in found)

    def _check_not_own(self, address: str) -> None:
        """WiringError if the machine has the pod's address: what is sent to it would never reach the pod."""
        # Binding asks one question; only if it may be so are all addresses listed.
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
            if address in self.own_addresses():
                raise WiringError(f"the pod's address {address} is one of the machine's own")

    def remove(self, name: str, *, alias_ends_with: str = "") -> None:
        """Remove the machine's end, and with it the pod's and the route; safe without it.

        With `alias_ends_with` only if the link is that sandbox's: a pod's next sandbox has the same name.
        """
        try:
            found = self._machine.link("get", ifname=name)[0]
            if not (found.get_attr("IFLA_IFALIAS") or "").endswith(alias_ends_with):
                return
            self._machine.link("del", index=found["index"])
        except pyroute2.NetlinkError as error:
            if error.code != errno.ENODEV:
                raise WiringError(f"{_text(error)} ({name})") from error
        with _told(name):
            self._shaper.remove(name)

    def adopt(self, interfaces: Mapping[str, link.Interface]) -> None:
        """Have the machine's ends of these links, by name, as they should be, whoever made them; a link that
        is not there is passed over.
        """
        with _told("links of an earlier run"):
            links = {found.get_attr("IFLA_IFNAME"): found for found in self._machine.get_links()}
            routed = self._list_routed()
            for name, interface in interfaces.items():
                found = links.get(name)
                if found is None:
                    continue
                # Where it is taken meanwhile, the others are not kept from what they need.
                with contextlib.suppress(gateways.TakenError):
                    self._gateways.ensure(interface.gateway)
                is_ours = found.get_attr("IFLA_GROUP") == self._group
                if not is_ours or (interface.address, found["index"]) not in routed:
                    self._adopt_one(name, found, interface)

    def keep_gateways(self, wanted: frozenset[str]) -> None:
        """These gateways are needed; others of ours go."""
        with _told(self._holder):
            self._gateways.keep(wanted)

    def _adopt_one(self, name: str, found: Any, interface: link.Interface) -> None:
        index = found["index"]
        crashpoints.reached("kcilet.adopt_link.before")
        if found.get_attr("IFLA_MASTER"):
            _write(_FORMER_BRIDGE, name)
            self._machine.link("set", index=index, master=0)
        mac_address = gateway_mac_address(interface.gateway)
        self._machine.link("set", index=index, group=self._group, address=mac_address)
        self._set_up_outer(name, interface, found.get_attr("IFLA_IFALIAS") or "")
        crashpoints.reached("kcilet.adopt_link.after")

    def _list_routed(self) -> set[tuple[str, int]]:
        """Single addresses and the links that they are routed to."""
        return {
            (route.get_attr("RTA_DST"), route.get_attr("RTA_OIF"))
            for route in self._machine.get_routes(family=socket.AF_INET)
            if route["dst_len"] == 32
        }

    def _make_pair(self, name: str, interface: link.Interface, inner_name: str, namespace: int) -> None:
        pair = netlink.veth_pair(
            name,
            gateway_mac_address(interface.gateway),
            # From the first moment: rules that hold for all links of ours know them by it.
            self._group,
            inner_name,
            interface.mac_address,
            namespace,
            interface.mtu or self._get_mtu(),
        )
        try:
            self._netlink.send([pair])
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            self.remove(name)
            self._netlink.send([pair])

    def _get_mtu(self) -> int:
        """The holder's: it may be made anew under its name."""
        asked = struct.pack("16s16x", self._holder.encode())
        (mtu,) = struct.unpack_from("=i", fcntl.ioctl(self._socket, _GET_MTU, asked), 16)
        return int(mtu)

    def _set_up_outer(self, name: str, interface: link.Interface, alias: str) -> None:
        _write(_OUTER, name)
        index = socket.if_nametoindex(name)
        self._netlink.send(
            [
                netlink.link_up(index, alias=alias),
                netlink.neighbour(index, interface.address, interface.mac_address),
                # The machine speaks to the pod as its gateway, not as whatever address it has first.
                netlink.route_to(index, interface.address, interface.gateway),
            ]
        )

    def _set_up_inside(self, namespace: int, name: str, interface: link.Interface) -> None:
        gateway = interface.gateway
        pod, index = self._open_inside(namespace, name)
        with contextlib.closing(pod):
            pod.send(
                [
                    netlink.link_up(_LOOPBACK_INDEX),
                    netlink.address(index, interface.address, cni.PREFIX_LENGTH),
                    netlink.link_up(index),
                    netlink.neighbour(index, gateway, gateway_mac_address(gateway)),
                    netlink.default_route(index, gateway),
                ]
            )

    def _open_inside(self, namespace: int, name: str) -> tuple[netlink.Netlink, int]:
        """A socket there, and the link's number there."""
        _enter(namespace)
        try:
            _write(_INNER, name)
            return netlink.Netlink(), socket.if_nametoindex(name)
        finally:
            _enter(self._own_namespace)


def gateway_mac_address(gateway: str) -> str:
    """What a pod finds its gateway under: the same for all links of a gateway, over any restart. A stack's
    bridge has it as well, so a pod that was wired there knows it already.
    """
    return ":".join(f"{byte:02x}" for byte in b"\x02\x4b" + ipaddress.IPv4Address(gateway).packed)


def _write(sysctls: Mapping[str, str], name: str) -> None:
    for path, value in sysctls.items():
        # A kernel without IPv6 has nothing to switch off.
        with contextlib.suppress(FileNotFoundError):
            (_SYSCTLS / path.format(name=name)).write_text(value)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pyroute2.NetlinkError, gateways.TakenError) as error:
        raise WiringError(f"{_text(error)} ({what})") from error


def _text(error: Exception) -> str:
    if isinstance(error, pyroute2.NetlinkError):
        return os.strerror(error.code)
    return (isinstance(error, OSError) and error.strerror) or str(error)
