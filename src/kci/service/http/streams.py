"""Logs and commands: the actions, and the WebSocket that a command's token opens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from kci.contract import errors
from kci.contract import groups as api
from kci.kit import channels, sockets, tasks
from kci.service.app import streams
from kci.service.engines import port
from kci.service.http import answers, verification

_LOOK_FOR_CLIENT_S = 5.0
_MAX_MESSAGE_BYTES = 1024 * 1024


class StreamActions:
    """Request in, use case, answer or stream out."""

    def __init__(self, service: streams.StreamService) -> None:
        self._service = service

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
            sockets.keep_alive(http.get_extra_info("socket"))
            await response.prepare(http)
            with answers.started(http):
                await tasks.first_of(_copy(chunks, response), _wait_gone(http), name="log")
        return response

    async def start_command(
        self, caller: verification.Verified, request: api.ExecContainerCommand
    ) -> api.ExecAddress:
        token = await self._service.issue_ticket(caller.identity, request)
        return api.ExecAddress(web_socket_uri=f"{caller.socket_base}/exec?token={token}")

    async def open_command(self, http: web.Request) -> web.StreamResponse:
        """`/exec`: the token is the credential. Browsers are kept out: they would send it from any page."""
        if "Origin" in http.headers:
            raise errors.ApiError(errors.ACCESS_DENIED, "cannot open a stream for a web page")
        socket = web.WebSocketResponse(
            protocols=(channels.V5, channels.V4),
            max_msg_size=_MAX_MESSAGE_BYTES,
            compress=False,
        )
        if not socket.can_prepare(http).ok:
            raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot serve this but as a WebSocket")
        ticket = await self._service.redeem(http.query.get("token", ""))
        async with self._service.open_exec(ticket) as stream:
            sockets.keep_alive(http.get_extra_info("socket"))
            await socket.prepare(http)
            with answers.started(http):
                await tasks.first_of(
                    _client_to_engine(socket, stream),
                    _engine_to_client(stream, socket),
                    self._service.wait_ended(ticket),
                    name="exec",
                )
                await socket.close()
        return socket


async def _copy(chunks: AsyncIterator[bytes], response: web.StreamResponse) -> None:
    async for chunk in chunks:
        async with asyncio.timeout(sockets.STREAM_IDLE_S):
            await response.write(chunk)


async def _wait_gone(http: web.Request) -> None:
    """Returns when the client has left, which else shows only when there is something to write."""
    while http.transport is not None and not http.transport.is_closing():  # noqa: ASYNC110  (aiohttp tells nobody)
        await asyncio.sleep(_LOOK_FOR_CLIENT_S)


async def _client_to_engine(socket: web.WebSocketResponse, stream: port.ExecStream) -> None:
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            await socket.close(code=aiohttp.WSCloseCode.UNSUPPORTED_DATA)
            return
        # Only v5 has the close message; from v4 it would be an unknown channel.
        if message.data[0] != channels.Channel.CLOSE or socket.ws_protocol == channels.V5:
            await stream.send(message.data)


async def _engine_to_client(stream: port.ExecStream, socket: web.WebSocketResponse) -> None:
    try:
        while (message := await stream.receive()) is not None:
            if message[:1] == bytes((channels.Channel.CLOSE,)) and socket.ws_protocol != channels.V5:
                continue
            async with asyncio.timeout(sockets.STREAM_IDLE_S):
                await socket.send_bytes(message)
    except port.EngineError as error:
        status = channels.error_status(f"cannot go on with the command: {error}")
        await socket.send_bytes(channels.frame(channels.Channel.STATUS, status))
