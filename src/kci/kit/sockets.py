"""Finding out that the other end of a long-lived connection is gone.

TCP's own keepalive, not pings of the protocol above: a reader that pauses answers no pings behind the
data that waits for it, and would be taken for dead; its kernel answers keepalive all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import weakref
from collections.abc import Iterator
from typing import Any

# A stream may stand still as long as a kubelet lets it (streamingConnectionIdleTimeout, 1.36).
STREAM_IDLE_S = 4 * 3600.0

# RFC 6455: what is noted of a connection that ended without a goodbye.
_ABNORMAL_CLOSURE = 1006
_LOOPS_TO_CLOSE = 20
_IDLE_S = 30
_OPTIONS = (
    (socket.TCP_KEEPIDLE, _IDLE_S),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)


def keep_alive(connection: Any) -> None:
    """Have the kernel end the connection within a minute after its other end vanished.

    Takes what asyncio's `get_extra_info("socket")` gives: a socket, or None when it is closed already.
    """
    if connection is None or connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _OPTIONS:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def reset_when_closed(connection: Any) -> None:
    """Have the kernel drop what was not taken when the connection is closed or its process ends. Else the
    end would wait behind that data, and a peer that is held up would never learn of it.
    """
    if connection is not None and connection.family in {socket.AF_INET, socket.AF_INET6}:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def cut_if_unanswered(stream: Any) -> Iterator[None]:
    """Around the closing of an aiohttp client's WebSocket: drop its connection if the goodbye was not
    answered in time. It would else be kept until the other end has taken all that was sent.
    """
    connection = stream._response.connection  # aiohttp shows it nowhere else
    transport = None if connection is None else connection.transport
    yield
    if transport is not None and stream.close_code == _ABNORMAL_CLOSURE:
        transport.abort()


async def wait_hung_up(connection: Any) -> None:
    """Return when the other end has closed a connection of ours (what `get_extra_info("socket")` gives).

    Reading would tell as well, but one who is held up by back-pressure does not read. The end is told
    past data that waits.
    """
    if connection is None or connection.fileno() < 0:
        return
    hung_up = asyncio.Event()
    loop = asyncio.get_running_loop()
    with select.epoll() as watch:
        watch.register(connection.fileno(), select.EPOLLRDHUP)
        loop.add_reader(watch.fileno(), hung_up.set)
        try:
            _ = await hung_up.wait()
        finally:
            loop.remove_reader(watch.fileno())


class Opened:
    """The sockets of an aiohttp connector (given to it as `socket_factory`): none outlives its client.

    A request that is cancelled before its answer leaves a connection that waits for the peer's TLS goodbye;
    one that is cancelled while it connects may leave one that nobody knows of any more.
    """

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        opened = socket.socket(*address[:3])
        self._sockets.add(opened)
        return opened

    async def end(self) -> None:
        """To be called after the session was closed: their transports see the end and close them."""
        for opened in self._sockets:
            # Not connected, or closed already.
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for _ in range(_LOOPS_TO_CLOSE):
            if all(opened.fileno() < 0 for opened in self._sockets):
                return
            await asyncio.sleep(0)


@contextlib.contextmanager
def cut_unless_read(answer: Any) -> Iterator[None]:
    """Drop the connection of an aiohttp answer at once if the block ends before the answer does.

    Closing it in order would wait for the peer's TLS goodbye (30 s in asyncio), longer than the client
    or its loop may live.
    """
    try:
        yield
    finally:
        connection = answer.connection
        # A connection that was read to its end is the pool's again, and None here.
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
