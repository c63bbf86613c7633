"""Logs, commands, attachments and ports: the actions, and the WebSocket that a token opens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import structlog
from aiohttp import web

from kci.contract import errors
from kci.contract import groups as api
from kci.kit import channels, sockets, tasks
from kci.service.app import streams
from kci.service.engines import port
from kci.service.http import answers, verification

log = structlog.get_logger(__name__)

# Where tokens are redeemed; the token alone says for what.
PATH = "/stream"
_CLOSE_S = 2.0
_MAX_MESSAGE_BYTES = 1024 * 1024


class StreamActions:
    """Request in, use case, answer or stream out. `idle_s` is how long a stream may stand still."""

    def __init__(self, service: streams.StreamService, *, idle_s: float = sockets.STREAM_IDLE_S) -> None:
        self._service = service
        self._idle_s = idle_s

    async def read_log(
        self, caller: verification.Verified, request: api.DescribeContainerLog
    ) -> api.ContainerLog:
        return api.ContainerLog(content=await self._service.read_log(caller.identity.tenant_id, request))

    async def stream_log(
        self, http: web.Request, caller: verification.Verified, request: api.StreamContainerLog
    ) -> web.StreamResponse:
        """Errors before the first byte are answers; after it the stream just ends."""
        async with self._service.open_log(caller.identity.tenant_id, request) as chunks:
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            connection = http.get_extra_info("socket")
            sockets.keep_alive(connection)
            await response.prepare(http)
            with answers.started(http):
                await tasks.first_of(_copy(chunks, response), sockets.wait_hung_up(connection), name="log")
        return response

    async def start_command(
        self, caller: verification.Verified, request: api.ExecContainerCommand
    ) -> api.StreamAddress:
        return _address(caller, await self._service.start_command(caller.identity, request))

    async def attach(self, caller: verification.Verified, request: api.AttachContainer) -> api.StreamAddress:
        return _address(caller, await self._service.attach(caller.identity, request))

    async def forward_port(
        self, caller: verification.Verified, request: api.PortForwardContainerGroup
    ) -> api.StreamAddress:
        return _address(caller, await self._service.forward_port(caller.identity, request))

    async def open_stream(self, http: web.Request) -> web.StreamResponse:
        """The token is the credential. Browsers are kept out: they would send it from any page."""
        if "Origin" in http.headers:
            raise errors.ApiError(errors.ACCESS_DENIED, "cannot open a stream for a web page")
        socket = web.WebSocketResponse(
            protocols=(channels.V5, channels.V4),
            max_msg_size=_MAX_MESSAGE_BYTES,
            compress=False,
            timeout=_CLOSE_S,
        )
        if not socket.can_prepare(http).ok:
            raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot serve this but as a WebSocket")
        ticket = await self._service.redeem(http.query.get("token", ""))
        # The engine's side is left first: what is at the other end of it must not wait for our goodbye.
        async with self._service.open_stream(ticket) as stream:
            connection = http.get_extra_info("socket")
            sockets.keep_alive(connection)
            await socket.prepare(http)
            relay = _Relay(socket, stream, idle_s=self._idle_s)
            with answers.started(http):
                await tasks.first_of(
                    relay.client_to_engine(),
                    relay.engine_to_client(),
                    relay.wait_idle(),
                    sockets.wait_hung_up(connection),
                    self._service.wait_ended(ticket),
                    name="stream",
                )
        await socket.close()
        if socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE and http.transport is not None:
            # Closing in order would wait for a client that takes nothing.
            http.transport.abort()
        return socket


def _address(caller: verification.Verified, token: str) -> api.StreamAddress:
    return api.StreamAddress(web_socket_uri=f"{caller.socket_base}{PATH}?token={token}")


async def _copy(chunks: AsyncIterator[bytes], response: web.StreamResponse) -> None:
    async for chunk in chunks:
        async with asyncio.timeout(sockets.STREAM_IDLE_S):
            await response.write(chunk)


class _Relay:
    """One message at a time in each direction: whoever does not take holds up the other side."""

    def __init__(self, socket: web.WebSocketResponse, stream: port.Stream, *, idle_s: float) -> None:
        self._socket = socket
        self._stream = stream
        self._idle_s = idle_s
        self._moved_at_s = asyncio.get_running_loop().time()

    async def client_to_engine(self) -> None:
        """Until the client says goodbye. An engine that takes no more may still have to say why, so its
        end is the other direction's to tell.
        """
        engine_takes = True
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                await self._socket.close(code=aiohttp.WSCloseCode.UNSUPPORTED_DATA)
                return
            # Only v5 has the close message; from v4 it would be an unknown channel.
            is_close = message.data[0] == channels.Channel.CLOSE
            if not engine_takes or (is_close and self._socket.ws_protocol != channels.V5):
                continue
            try:
                await self._stream.send(message.data)
            except port.EngineError as error:
                log.debug("the engine takes no more of a stream", error=str(error))
                engine_takes = False
            self._note_move()

    async def engine_to_client(self) -> None:
        try:
            while (message := await self._stream.receive()) is not None:
                is_close = message[0] == channels.Channel.CLOSE
                if is_close and self._socket.ws_protocol != channels.V5:
                    continue
                await self._socket.send_bytes(message)
                self._note_move()
        except port.EngineError as error:
            status = channels.error_status(f"cannot go on with the stream: {error}")
            await self._socket.send_bytes(channels.frame(channels.Channel.STATUS, status))

    async def wait_idle(self) -> None:
        """Returns when nothing has moved for too long, in either direction."""
        loop = asyncio.get_running_loop()
        while (left_s := self._moved_at_s + self._idle_s - loop.time()) > 0:  # noqa: ASYNC110  (no polling)
            await asyncio.sleep(left_s)
        log.info("stream closed, it stood still", idle_s=self._idle_s)

    def _note_move(self) -> None:
        self._moved_at_s = asyncio.get_running_loop().time()
