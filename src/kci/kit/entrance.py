"""Who may be connected to a server at once: a bound for each address and one for all.

A connection takes a file of the process, whether its other end says something or not. Without a bound, who
opens enough of them keeps everybody else out, and the server from opening files of its own.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import resource
from collections.abc import Callable
from typing import Self, cast

import structlog

log = structlog.get_logger(__name__)

_SAID_EVERY_S = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Connections of one address, and of all."""

    of_peer: int = 2048
    in_all: int = 8192

    @classmethod
    def within(cls, files: int) -> Self:
        """Those of a process that may have so many files: half of them are left for what it opens itself."""
        in_all = min(cls.in_all, files // 2)
        return cls(of_peer=in_all // 4, in_all=in_all)


def raise_file_limit() -> int:
    """To all that this process may have, as Go's programs do; returns it. What is usual (1024) is meant for
    programs that call select(2).
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Entrance:
    """A protocol factory for asyncio's `create_server`: who comes in is given to a protocol that `inside`
    makes; who would be one too many is cut off before anything is read, and the log says so.
    """

    def __init__(self, inside: Callable[[], asyncio.Protocol], bounds: Bounds) -> None:
        self._inside = inside
        self._bounds = bounds
        self._of_peer: collections.Counter[str] = collections.Counter()
        self._in_all = 0
        self._refused = 0
        self._said_at_s = float("-inf")

    def __call__(self) -> asyncio.Protocol:
        return _Guest(self)

    def enter(self, peer: str) -> asyncio.Protocol | None:
        """What serves the one who comes; None if there is no room for them."""
        if self._in_all >= self._bounds.in_all or self._of_peer[peer] >= self._bounds.of_peer:
            self._note_refused(peer)
            return None
        self._of_peer[peer] += 1
        self._in_all += 1
        return self._inside()

    def leave(self, peer: str) -> None:
        self._in_all -= 1
        self._of_peer[peer] -= 1
        # Addresses come and go; a counter keeps each that it ever saw.
        if not self._of_peer[peer]:
            del self._of_peer[peer]

    def _note_refused(self, peer: str) -> None:
        """Not once for each: they come as fast as somebody likes."""
        self._refused += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._said_at_s >= _SAID_EVERY_S:
            log.warning(
                "connections refused",
                count=self._refused,
                peer=peer,
                of_peer=self._of_peer[peer],
                in_all=self._in_all,
            )
            self._refused, self._said_at_s = 0, now_s


class _Guest(asyncio.Protocol):
    """Stands before the protocol that serves a connection, to learn of its end."""

    _served: asyncio.Protocol | None = None

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # None of who has left already.
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        self._served = self._entrance.enter(self._peer)
        if self._served is None:
            # uvloop's transports are no asyncio.Transport by type.
            cast("asyncio.Transport", transport).abort()
        else:
            self._served.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._served is not None:
            self._entrance.leave(self._peer)
            self._served.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._served is not None:
            self._served.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._served is None else self._served.eof_received()

    def pause_writing(self) -> None:
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        if self._served is not None:
            self._served.resume_writing()
