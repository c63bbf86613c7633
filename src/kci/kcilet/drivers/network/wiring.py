"""Links, addresses and routes through netlink. Blocking, and for one thread alone.

The socket to the machine's side stays open; one in a pod's network namespace is made by entering
it for the moment in which the socket is made, because a netlink socket keeps the namespace it
was made in. Only this thread ever enters one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import socket

import pyroute2

from kci.kcilet import ports
from kci.kcilet.drivers.network import cni, shaping
from kci.link import types as link

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_LOOPBACK_INDEX = 1


class WiringError(Exception):
    """The kernel refused; the text says what."""


class Wiring:
    """Made and used in one thread. `bridge` exists, is up, and has the pods' gateway address."""

    def __init__(self, bridge: str) -> None:
        self._own_namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._machine = pyroute2.IPRoute()
        self._shaper = shaping.Shaper(self._machine)
        self._bridge = bridge

    def close(self) -> None:
        self._machine.close()
        os.close(self._own_namespace)

    def add(
        self,
        name: str,
        alias: str,
        interface: link.Interface,
        request: cni.Request,
        limits: ports.TrafficLimits = ports.NO_LIMITS,
    ) -> None:
        """Connect a network namespace to the bridge; what an earlier try left behind is replaced."""
        try:
            namespace = os.open(request.netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                inner_index = self._make_pair(name, alias, interface, request.ifname, namespace)
                if limits != ports.NO_LIMITS:
                    self._shaper.limit(name, limits)
                self._set_up_inside(namespace, request.ifname, inner_index, interface)
            finally:
                os.close(namespace)
        except (OSError, pyroute2.NetlinkError) as error:
            raise WiringError(f"{_text(error)} ({name}, {request.netns})") from error

    def limit(self, name: str, limits: ports.TrafficLimits) -> None:
        """Have these limits at a link, if there is one."""
        try:
            self._shaper.limit(name, limits)
        except (OSError, pyroute2.NetlinkError) as error:
            raise WiringError(f"{_text(error)} ({name})") from error

    def own_addresses(self) -> frozenset[str]:
        """The machine's, of IPv4."""
        try:
            found = self._machine.get_addr(family=socket.AF_INET)
            return frozenset(str(one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")) for one in found)
        except (OSError, pyroute2.NetlinkError) as error:
            raise WiringError(_text(error)) from error

    def remove(self, name: str, *, alias_ends_with: str = "") -> None:
        """Remove the machine's end, and with it the pod's; safe without it.

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
        try:
            self._shaper.remove(name)
        except pyroute2.NetlinkError as error:
            raise WiringError(f"{_text(error)} ({name})") from error

    def _make_pair(
        self, name: str, alias: str, interface: link.Interface, inner_name: str, namespace: int
    ) -> int:
        """The index of the pod's end, in its namespace."""
        bridge = self._machine.link("get", ifname=self._bridge)[0]
        pair = {
            "kind": "veth",
            "ifname": name,
            "mtu": bridge.get_attr("IFLA_MTU"),
            "master": bridge["index"],
            "state": "up",
            "peer": {
                "ifname": inner_name,
                "address": interface.mac_address,
                "mtu": bridge.get_attr("IFLA_MTU"),
                "net_ns_fd": namespace,
            },
        }
        try:
            self._machine.link("add", **pair)
        except pyroute2.NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            self.remove(name)
            self._machine.link("add", **pair)
        outer = self._machine.link("get", ifname=name)[0]
        self._machine.link("set", index=outer["index"], ifalias=alias)
        inner_index: int = outer.get_attr("IFLA_LINK")
        return inner_index

    def _set_up_inside(self, namespace: int, name: str, index: int, interface: link.Interface) -> None:
        with self._open_inside(namespace, name) as pod:
            pod.link("set", index=_LOOPBACK_INDEX, state="up")
            # The address is there before the link is up, so that it is announced (see _open_inside).
            pod.addr("add", index=index, address=interface.address, prefixlen=interface.prefix_length)
            pod.link("set", index=index, state="up")
            pod.route("add", gateway=interface.gateway, oif=index)

    def _open_inside(self, namespace: int, name: str) -> pyroute2.IPRoute:
        _enter(namespace)
        try:
            # A gratuitous ARP when the link comes up: an address may have been another pod's a
            # moment ago, and neighbours remember that one's MAC address.
            pathlib.Path(f"/proc/sys/net/ipv4/conf/{name}/arp_notify").write_text("1")
            return pyroute2.IPRoute()
        finally:
            _enter(self._own_namespace)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _text(error: Exception) -> str:
    if isinstance(error, pyroute2.NetlinkError):
        return os.strerror(error.code)
    return (isinstance(error, OSError) and error.strerror) or str(error)
