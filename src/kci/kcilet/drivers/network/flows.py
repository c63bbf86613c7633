"""Connections that the kernel tracks, forgotten with the pod whose address they had. Blocking; any thread.

An address is given to another pod some day. A flow that was let through to the former one would be let
through to the new one as well, by no rule of its own.
Numbers are those of linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

_NETFILTER = 12
_REQUEST_ACK = 5
_DELETE = (1 << 8) | 2
_ORIGINAL, _REPLY, _FILTER = 1, 2, 25
_ADDRESSES, _SOURCE, _DESTINATION = 1, 1, 2
_NESTED = 0x8000
_TIMEOUT_S = 10.0
# By whom it was begun, with whom, and with whom it really is when somebody else was called.
_WAYS = ((_ORIGINAL, _SOURCE), (_ORIGINAL, _DESTINATION), (_REPLY, _SOURCE))


def forget(addresses: Iterable[str]) -> None:
    """Have no flows with these addresses. OSError; a kernel that cannot choose by address (before 6.6) keeps
    them until they run out.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as it:
        it.bind((0, 0))
        it.settimeout(_TIMEOUT_S)
        for address in addresses:
            for direction, side in _WAYS:
                _ = it.send(_message(direction, side, socket.inet_aton(address)))
                (code,) = struct.unpack_from("=i", it.recv(4096), 16)
                if -code in {errno.EINVAL, errno.EOPNOTSUPP}:
                    return
                if code not in {0, -errno.ENOENT}:
                    raise OSError(-code, os.strerror(-code))


def _message(direction: int, side: int, address: bytes) -> bytes:
    # The kernel's bits for source and destination are 1 and 2, as its attributes are.
    chosen = _attribute(direction, struct.pack("=I", side))
    pair = _attribute(_ADDRESSES | _NESTED, _attribute(side, address))
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + _attribute(direction | _NESTED, pair)
    body += _attribute(_FILTER | _NESTED, chosen)
    return struct.pack("=IHHII", 16 + len(body), _DELETE, _REQUEST_ACK, 1, 0) + body


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)
