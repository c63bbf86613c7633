"""From an HTTP request to a stream's connection: which protocol, and who carries its bytes.

SPDY comes in two ways: as an upgrade of the HTTP connection, and inside the binary messages of a
WebSocket (`SPDY/3.1+portforward.k8s.io`), which is how kubectl forwards ports since 1.31.
Source: Kubernetes 1.36, streaming pkg/httpstream (Handshake, spdy/upgrade.go), client-go
tools/portforward/tunneling_connection.go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from aiohttp import WSMsgType, web

from kci.kit import spdy

SPDY = "SPDY/3.1"
TUNNEL_PREFIX = f"{SPDY}+"
# kubectl sends 32 KiB at most; a message is one allocation.
MAX_MESSAGE_BYTES = 1024 * 1024
CLOSE_TIMEOUT_S = 5.0
_READ_BYTES = 64 << 10
_VERSIONS_HEADER = "X-Stream-Protocol-Version"
_ACCEPTED_HEADER = "X-Accepted-Stream-Protocol-Versions"


def is_websocket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def is_spdy(request: web.Request) -> bool:
    connection = request.headers.get("Connection", "").lower()
    return "upgrade" in connection and request.headers.get("Upgrade", "").lower() == SPDY.lower()


def websocket_protocols(request: web.Request) -> list[str]:
    """What the client offers, in its order."""
    return _listed(request, "Sec-WebSocket-Protocol")


def spdy_protocols(request: web.Request) -> list[str]:
    """What the client offers, in its order; none from a client older than the header."""
    return _listed(request, _VERSIONS_HEADER)


def choose(offered: Sequence[str], spoken: Sequence[str]) -> str | None:
    """The first that we speak as well."""
    return next((protocol for protocol in offered if protocol in spoken), None)


def upgrade_required() -> web.Response:
    return web.Response(status=400, text="Upgrade request required")


def nothing_in_common(offered: Sequence[str], spoken: Sequence[str]) -> web.Response:
    return web.Response(
        status=403,
        headers=[(_ACCEPTED_HEADER, protocol) for protocol in spoken],
        text=f"cannot speak any of {list(offered)}; this node speaks {list(spoken)}",
    )


async def open_websocket(request: web.Request, protocols: Sequence[str]) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(
        protocols=protocols, compress=False, timeout=CLOSE_TIMEOUT_S, max_msg_size=MAX_MESSAGE_BYTES
    )
    await socket.prepare(request)
    return socket


@contextlib.asynccontextmanager
async def upgraded(
    request: web.Request, protocol: str
) -> AsyncIterator[tuple[web.StreamResponse, spdy.Pipe]]:
    """The HTTP connection becomes SPDY's for the block, and is closed behind it."""
    headers = {"Connection": "Upgrade", "Upgrade": SPDY}
    if protocol:
        headers[_VERSIONS_HEADER] = protocol
    response = web.StreamResponse(status=101, headers=headers)
    await response.prepare(request)
    pipe = _UpgradedPipe(request)
    try:
        yield response, pipe
    finally:
        pipe.close()


class TunnelPipe:
    """spdy.Pipe through a WebSocket. Its messages' borders mean nothing."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type is not WSMsgType.BINARY:
                return b""
            if message.data:
                return bytes(message.data)

    async def write(self, data: bytes) -> None:
        await self._socket.send_bytes(data)


class _UpgradedPipe:
    """spdy.Pipe over the connection that was HTTP's."""

    def __init__(self, request: web.Request) -> None:
        transport, before = request.transport, request.protocol
        if transport is None or transport.is_closing():
            raise ConnectionResetError("cannot upgrade a connection whose client left")
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=_READ_BYTES, loop=loop)
        protocol = _UpgradedProtocol(self._reader, before)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)

    async def read(self) -> bytes:
        try:
            return await self._reader.read(_READ_BYTES)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError("cannot write to a client that left")
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


class _UpgradedProtocol(asyncio.StreamReaderProtocol):
    """Stands where aiohttp's protocol stood, and tells it of the end: it cancels the handler then."""

    def __init__(self, reader: asyncio.StreamReader, before: asyncio.Protocol) -> None:
        super().__init__(reader)
        self._before = before

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._before.connection_lost(exc)


def _listed(request: web.Request, header: str) -> list[str]:
    values = ",".join(request.headers.getall(header, []))
    return [value.strip() for value in values.split(",") if value.strip()]
