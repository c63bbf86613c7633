"""Whether our tables of nftables are whole, over netlink itself: libnftables would first read all that a
table holds, which takes tens of milliseconds for a large one. Blocking, in the thread of the wiring.

A table that somebody flushed keeps its chains and lets everything through, so what counts is how many rules
they have. Message types and attributes are those of linux/netfilter/nf_tables.h; tables are of family inet.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterator, Mapping

_NETLINK_NETFILTER = 12
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
# Family inet, version and resource id.
_FAMILY = b"\x01\x00\x00\x00"
_SUBSYSTEM = 10 << 8
_NEW_RULE, _GET_RULE = _SUBSYSTEM | 6, _SUBSYSTEM | 7
_TABLE, _CHAIN = 1, 2
_ERROR, _DONE = 2, 3
# Tables, chains and rules that somebody deleted, ourselves included.
_DELETED = frozenset({_SUBSYSTEM | 2, _SUBSYSTEM | 5, _SUBSYSTEM | 8})
_SOL_NETLINK, _ADD_MEMBERSHIP, _CHANGES = 270, 1, 7
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10
_ANSWER_BYTES = 1 << 16
_ANSWER_S = 5.0


class Tables:
    """On a socket of its own. Methods raise OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.settimeout(_ANSWER_S)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def have_rules(self, table: str, counts: Mapping[str, int]) -> bool:
        """Whether each of these chains is there and has so many rules."""
        return all(self.count_rules(table, chain) == count for chain, count in counts.items())

    def count_rules(self, table: str, chain: str) -> int:
        """0 without the chain."""
        while (found := self._try_to_count(table, chain)) is None:
            pass
        return found

    def _try_to_count(self, table: str, chain: str) -> int | None:
        """None if the rules changed meanwhile."""
        self._sequence += 1
        wanted = _FAMILY + _text(_TABLE, table) + _text(_CHAIN, chain)
        head = _HEADER.pack(_HEADER.size + len(wanted), _GET_RULE, _REQUEST | _DUMP, self._sequence, 0)
        _ = self._socket.send(head + wanted)
        count, is_torn = 0, False
        while True:
            for kind, flags, sequence, content in messages(self._socket.recv(_ANSWER_BYTES)):
                if sequence != self._sequence:
                    # Of a question whose answer came too late.
                    continue
                is_torn |= bool(flags & _INTERRUPTED)
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    raise OSError(-code, f"nftables does not list the chain {chain} of {table}")
                if kind == _DONE:
                    return None if is_torn else count
                count += kind == _NEW_RULE


class Deletions:
    """Hears what is deleted of these tables. Read without waiting, in any one thread."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.encode() for name in names)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _CHANGES)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bool:
        """Whether there was anything since; also if some were lost."""
        has_any = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    datagram = self._socket.recv(_ANSWER_BYTES)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    has_any = True
                    continue
                has_any |= any(
                    kind in _DELETED and _table_of(content) in self._names
                    for kind, _, _, content in messages(datagram)
                )
        return has_any


def _table_of(content: bytes) -> bytes:
    """The first attribute of all three kinds."""
    length, kind = _ATTRIBUTE.unpack_from(content, len(_FAMILY))
    start = len(_FAMILY) + _ATTRIBUTE.size
    return content[start : len(_FAMILY) + length].rstrip(b"\0") if kind == _TABLE else b""


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, sequence number and content of each."""
    start = 0
    while start + _HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, start)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, datagram[start + _HEADER.size : start + length]
        start += _aligned(length)


def _text(kind: int, text: str) -> bytes:
    content = text.encode() + b"\0"
    length = _ATTRIBUTE.size + len(content)
    return _ATTRIBUTE.pack(length, kind) + content.ljust(_aligned(len(content)), b"\0")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
