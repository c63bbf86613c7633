"""The few messages of rtnetlink that wire a pod, several in one call. Blocking.

pyroute2 does everything else; but it takes most of a millisecond of the processor for each message, and a
pod's start has ten of them. A socket stays in the network namespace that its thread was in when it was made.
Numbers are those of linux/rtnetlink.h, if_link.h, veth.h and neighbour.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

_ACK, _REQUEST, _REPLACE, _EXCLUSIVE, _CREATE = 4, 1, 0x100, 0x200, 0x400
_ERROR = 2
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE, _NEW_NEIGHBOUR = 16, 20, 24, 28
_IPV4 = socket.AF_INET
_UP = 1
_SCOPE_LINK, _SCOPE_UNIVERSE = 253, 0
_MAIN_TABLE, _BOOT_PROTOCOL, _UNICAST, _ON_LINK = 254, 3, 1, 4
_PERMANENT = 0x80
_NESTED = 0x8000
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_S = 10.0

Message = tuple[int, int, bytes]


def veth_pair(
    name: str,
    mac_address: str,
    group: int,
    peer_name: str,
    peer_mac_address: str,
    peer_namespace: int,
    mtu: int,
) -> Message:
    """A pair, one end in this namespace and one in another, both down; the first is in a link group."""
    peer = _link() + _text(3, peer_name) + _mac(1, peer_mac_address) + _u32(4, mtu) + _u32(28, peer_namespace)
    info = _attribute(1, b"veth") + _attribute(2 | _NESTED, _attribute(1, peer))
    body = _link() + _text(3, name) + _mac(1, mac_address) + _u32(4, mtu) + _u32(27, group)
    return _NEW_LINK, _CREATE | _EXCLUSIVE, body + _attribute(18 | _NESTED, info)


def link_up(index: int, *, alias: str | None = None) -> Message:
    body = struct.pack("=BxHiII", 0, 0, index, _UP, _UP)
    return _NEW_LINK, 0, body + (b"" if alias is None else _attribute(20, alias.encode()))


def address(index: int, local: str, prefix_length: int) -> Message:
    packed = socket.inet_aton(local)
    body = struct.pack("=BBBBI", _IPV4, prefix_length, 0, _SCOPE_UNIVERSE, index)
    return _NEW_ADDRESS, _CREATE | _EXCLUSIVE, body + _attribute(2, packed) + _attribute(1, packed)


def neighbour(index: int, where: str, mac_address: str) -> Message:
    """Never asked for, never forgotten."""
    body = struct.pack("=BxHiHBB", _IPV4, 0, index, _PERMANENT, 0, _UNICAST)
    return (
        _NEW_NEIGHBOUR,
        _CREATE | _REPLACE,
        body + _attribute(1, socket.inet_aton(where)) + _mac(2, mac_address),
    )


def route_to(index: int, to: str, source: str) -> Message:
    """One address is behind this link, and is spoken to as `source`."""
    return (
        _NEW_ROUTE,
        _CREATE | _REPLACE,
        (
            _route(32, _SCOPE_LINK, 0)
            + _attribute(1, socket.inet_aton(to))
            + _u32(4, index)
            + _attribute(7, socket.inet_aton(source))
        ),
    )


def default_route(index: int, gateway: str) -> Message:
    """By a gateway that is taken to be on this link."""
    body = _route(0, _SCOPE_UNIVERSE, _ON_LINK) + _attribute(5, socket.inet_aton(gateway)) + _u32(4, index)
    return _NEW_ROUTE, _CREATE | _EXCLUSIVE, body


class Netlink:
    """A socket in the namespace that this thread is in now."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._socket.settimeout(_TIMEOUT_S)
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    def send(self, messages: Iterable[Message]) -> None:
        """Have all of them done, in order; OSError for the first that the kernel refuses. It may have done
        later ones all the same.
        """
        data, awaited = b"", 0
        for kind, flags, body in messages:
            self._number = (self._number + 1) & 0xFFFFFFFF
            awaited += 1
            data += (
                struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST | _ACK, self._number, 0) + body
            )
        _ = self._socket.send(data)
        first = self._number - awaited + 1
        problem = 0
        while awaited:
            for number, code in _acks(self._socket.recv(_RECEIVE_BYTES)):
                # Another number: an answer that an earlier call did not wait for.
                if first <= number <= self._number:
                    awaited -= 1
                    problem = problem or code
        if problem:
            raise OSError(problem, os.strerror(problem))


def _acks(data: bytes) -> Iterable[tuple[int, int]]:
    """Numbers of messages, and what was wrong with them (0: nothing)."""
    at = 0
    while at + 16 <= len(data):
        length, kind, _, number, _ = struct.unpack_from("=IHHII", data, at)
        if length < 16:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        if kind == _ERROR:
            (code,) = struct.unpack_from("=i", data, at + 16)
            yield number, -code
        at += (length + 3) & ~3


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _mac(kind: int, text: str) -> bytes:
    return _attribute(kind, bytes.fromhex(text.replace(":", "")))


def _link() -> bytes:
    return struct.pack("=BxHiII", 0, 0, 0, 0, 0)


def _route(length: int, scope: int, flags: int) -> bytes:
    return struct.pack("=BBBBBBBBI", _IPV4, length, 0, 0, _MAIN_TABLE, _BOOT_PROTOCOL, scope, _UNICAST, flags)
