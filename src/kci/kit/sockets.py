"""Finding out that the other end of a long-lived connection is gone.

TCP's own keepalive, not pings of the protocol above: a reader that pauses answers no pings behind the
data that waits for it, and would be taken for dead; its kernel answers keepalive all the same.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

# A stream may stand still as long as a kubelet lets it (streamingConnectionIdleTimeout, 1.36).
STREAM_IDLE_S = 4 * 3600.0

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
