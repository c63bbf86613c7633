"""The kernel's table of tracked connections: some of it read, and flows taken out. Blocking; any thread.

The table has as many flows as pods like to begin, so nothing is made of one before it is known to be wanted,
and the kernel is asked for as few as it can choose. One that cannot choose (before 5.8) sends all: whoever
reads looks at each. A socket stays in the network namespace of the thread that opened it.
Numbers are those of linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Container, Iterator, Sequence
from typing import NamedTuple, Self

_NETFILTER = 12
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_ORIGINAL, _REPLY, _ID, _FILTER = 1, 2, 12, 25
_IP, _PROTOCOL = 1, 2
_NUMBER, _TARGET_PORT = 1, 3
_SOURCE, _TARGET = 1, 2
# What the kernel is to compare.
_BY_TARGET, _BY_NUMBER, _BY_TARGET_PORT = 1 << 1, 1 << 3, 1 << 5
_NESTED = 0x8000
_HEAD, _PART, _LENGTH, _CODE = (struct.Struct(text) for text in ("=IH", "=HH", "=H", "=i"))
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_S = 10.0
# Answers to so many fit any socket's buffer.
_DELETED_AT_ONCE = 64
# Each has the kernel walk over the whole table.
_ASKED_ONE_BY_ONE = 8
_CANNOT_CHOOSE = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
# By whom it was begun, with whom, and with whom it really is when somebody else was called.
_WAYS = ((_ORIGINAL, _SOURCE), (_ORIGINAL, _TARGET), (_REPLY, _SOURCE))


class Flow(NamedTuple):
    """Addresses and ports as the kernel has them (see `packed`)."""

    source: bytes
    # Address, protocol and port.
    target: bytes
    # Address and port of who answers.
    answers: bytes
    # By which it is deleted: this one, and none that began after it with the same ends.
    handle: bytes


def packed(address: str, port: int) -> bytes:
    """As in Flow.answers."""
    return socket.inet_aton(address) + struct.pack("!H", port)


def packed_target(address: str, protocol: int, port: int) -> bytes:
    """As in Flow.target."""
    return socket.inet_aton(address) + struct.pack("!BH", protocol, port)


class Table:
    """Used as `with Table() as table`. Raises OSError, and is of no use afterwards."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        self._socket.bind((0, 0))
        self._socket.settimeout(_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def to_targets(self, targets: Collection[bytes]) -> list[Flow]:
        """The flows that were begun with these; the protocols are such with ports."""
        if len(targets) <= _ASKED_ONE_BY_ONE:
            choices = [_chosen_target(one) for one in targets]
        else:
            choices = [_chosen_protocol(number) for number in sorted({one[4] for one in targets})]
        # A kernel that does not choose tells each more than once.
        found: dict[bytes, Flow] = {}
        for choice in choices:
            for data, at in self._dump(choice):
                if data[at + 40 : at + 44] + data[at + 52 : at + 53] + data[at + 68 : at + 70] in targets:
                    flow = _flow_of(data, at)
                    if flow is not None:
                        found[flow.handle] = flow
        return list(found.values())

    def with_addresses(self, addresses: Container[bytes]) -> list[bytes]:
        """Handles of the flows that have one of these at an end."""
        return [
            _handle_of(data, at)
            for data, at in self._dump(b"")
            if any(address in addresses for address in _addresses_of(data, at))
        ]

    def delete(self, handles: Sequence[bytes]) -> None:
        """Those that are there no more are no error."""
        for first in range(0, len(handles), _DELETED_AT_ONCE):
            some = handles[first : first + _DELETED_AT_ONCE]
            _ = self._socket.send(b"".join(self._message(_DELETE, _ACK, handle) for handle in some))
            awaited = len(some)
            while awaited:
                data = self._socket.recv(_RECEIVE_BYTES)
                for _, at in _messages(data):
                    awaited -= 1
                    _raise_unless(_code_of(data, at), errno.ENOENT)

    def delete_with(self, address: bytes) -> bool:
        """All flows that have this address at an end. False if this kernel cannot choose (before 6.6)."""
        for direction, side in _WAYS:
            # The kernel's bits for source and target are 1 and 2, as its attributes are.
            body = _attribute(direction | _NESTED, _attribute(_IP | _NESTED, _attribute(side, address)))
            body += _attribute(_FILTER | _NESTED, _attribute(direction, struct.pack("=I", side)))
            _ = self._socket.send(self._message(_DELETE, _ACK, body))
            code = _code_of(self._socket.recv(_RECEIVE_BYTES), 0)
            if code in _CANNOT_CHOOSE:
                return False
            _raise_unless(code, errno.ENOENT)
        return True

    def _dump(self, choice: bytes) -> Iterator[tuple[bytes, int]]:
        """Where a message about a flow begins; of all IPv4 flows if the kernel refuses the choice."""
        _ = self._socket.send(self._message(_GET, _DUMP, choice))
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            for kind, at in _messages(data):
                if kind == _DONE:
                    return
                if kind != _ERROR:
                    yield data, at
                elif choice and _code_of(data, at) in _CANNOT_CHOOSE:
                    yield from self._dump(b"")
                    return
                else:
                    _raise_unless(_code_of(data, at), 0)

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        head = struct.pack("=IHHII", 20 + len(body), kind, flags | _REQUEST, 1, 0)
        return head + struct.pack("=BBH", socket.AF_INET, 0, 0) + body


# ---- what is in a message -------------------------------------------------------------------------
#
# Behind 20 bytes of heads both ways come first, and each way of a flow of IPv4 has its parts at the same
# places: source at 12, target at 20, protocol at 32, and, where there are ports, they at 40 and 48.

_IPV4 = struct.pack("=HHHH", 20, _IP | _NESTED, 8, _SOURCE)


def _messages(data: bytes) -> Iterator[tuple[int, int]]:
    """Kind of each and where it begins."""
    at, end = 0, len(data) - 16
    while at <= end:
        length, kind = _HEAD.unpack_from(data, at)
        if length < 16:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        yield kind, at
        at += (length + 3) & ~3


def _code_of(data: bytes, at: int) -> int:
    """What was wrong; 0 for nothing."""
    return -int(_CODE.unpack_from(data, at + 16)[0])


def _raise_unless(code: int, expected: int) -> None:
    if code not in {0, expected}:
        raise OSError(code, os.strerror(code))


def _reply_at(data: bytes, at: int) -> int:
    """Where the way back begins."""
    return at + 20 + _padded(_LENGTH.unpack_from(data, at + 20)[0])


def _flow_of(data: bytes, at: int) -> Flow | None:
    """None for what is not built as expected."""
    reply = _reply_at(data, at)
    if data[at + 24 : at + 32] != _IPV4 or data[reply + 4 : reply + 12] != _IPV4:
        return None
    return Flow(
        source=data[at + 32 : at + 36],
        target=data[at + 40 : at + 44] + data[at + 52 : at + 53] + data[at + 68 : at + 70],
        answers=data[reply + 12 : reply + 16] + data[reply + 40 : reply + 42],
        handle=_handle_of(data, at),
    )


def _addresses_of(data: bytes, at: int) -> tuple[bytes, ...]:
    """As _WAYS has them; none for what is not IPv4."""
    reply = _reply_at(data, at)
    if data[at + 24 : at + 32] != _IPV4 or data[reply + 4 : reply + 12] != _IPV4:
        return ()
    return data[at + 32 : at + 36], data[at + 40 : at + 44], data[reply + 12 : reply + 16]


def _handle_of(data: bytes, at: int) -> bytes:
    """Its ends and its number, as attributes."""
    end = at + _HEAD.unpack_from(data, at)[0]
    reply = _reply_at(data, at)
    found, at = data[at + 20 : reply], reply
    while at + 4 <= end:
        length, kind = _PART.unpack_from(data, at)
        if length < 4:
            break
        if kind == _ID:
            return found + data[at : at + 8]
        at += _padded(length)
    return found


# ---- what the kernel is asked for -----------------------------------------------------------------


def _chosen_target(target: bytes) -> bytes:
    ports = _attribute(_NUMBER, target[4:5]) + _attribute(_TARGET_PORT, target[5:7])
    pair = _attribute(_IP | _NESTED, _attribute(_TARGET, target[:4]))
    return _choice(pair + _attribute(_PROTOCOL | _NESTED, ports), _BY_TARGET | _BY_NUMBER | _BY_TARGET_PORT)


def _chosen_protocol(number: int) -> bytes:
    return _choice(_attribute(_PROTOCOL | _NESTED, _attribute(_NUMBER, bytes([number]))), _BY_NUMBER)


def _choice(ends: bytes, by: int) -> bytes:
    compared = _attribute(_ORIGINAL, struct.pack("=I", by))
    return _attribute(_ORIGINAL | _NESTED, ends) + _attribute(_FILTER | _NESTED, compared)


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def _padded(length: int) -> int:
    return (length + 3) & ~3
