"""The kcilet of this machine, over its unix socket (link/types.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import client_exceptions

from kci.contract import ids
from kci.kit import channels, sockets
from kci.link import types as link
from kci.service.engines import port

_CALL_TIMEOUT_S = 10.0
_SYNC_TIMEOUT_S = 60.0
# The kcilet proves every 15 s that the line of reports is alive.
_SILENCE_S = 45.0
_MAX_ERROR_BYTES = 64 * 1024
_MAX_LINE_BYTES = 256 * 1024
# Of a log, for one reader; aiohttp keeps twice as much.
_BUFFER_BYTES = 64 * 1024
_MAX_MESSAGE_BYTES = 1024 * 1024
# A kcilet that is held up by a process that does not read sees no goodbye: soon it sees that we are gone.
_CLOSE_S = 0.3
# The host is not used on a unix socket, but HTTP wants one.
_BASE = "http://kcilet"


class LocalEngine:
    """Used as `async with LocalEngine(socket) as engine:`."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None
        self._synced = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=self._socket, limit=0),
            timeout=aiohttp.ClientTimeout(total=_CALL_TIMEOUT_S, connect=5.0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[link.GroupReport]]:
        self._synced = False
        try:
            # A report line is one JSON object with a text in it.
            async with self._stream("v1/reports", {}, buffer_bytes=_MAX_LINE_BYTES) as content:
                yield _reports(content)
        finally:
            self._synced = False

    async def sync(
        self,
        groups: Sequence[link.WantedGroup],
        *,
        security_groups: link.SecurityGroups | None = None,
        store_id: str = "",
    ) -> None:
        whole = link.Sync(groups=tuple(groups), security_groups=security_groups, store_id=store_id)
        await self._put("v1/groups", whole, _SYNC_TIMEOUT_S)
        self._synced = True

    async def set_security_groups(self, security_groups: link.SecurityGroups) -> None:
        self._require_sync()
        await self._put("v1/security-groups", security_groups, _CALL_TIMEOUT_S)

    async def ensure(self, group: link.WantedGroup) -> None:
        self._require_sync()
        await self._put(f"v1/groups/{group.group_id}", group, _CALL_TIMEOUT_S)

    async def remove(self, group_id: ids.GroupId) -> None:
        self._require_sync()
        with _wrapped():
            async with self._active().delete(f"{_BASE}/v1/groups/{group_id}") as answer:
                await _check(answer)

    async def read_usage(self) -> link.Usages:
        self._require_sync()
        with _wrapped():
            async with self._active().get(f"{_BASE}/v1/stats") as answer:
                await _check(answer)
                return msgspec.json.decode(await answer.read(), type=link.Usages)

    @contextlib.asynccontextmanager
    async def open_log(
        self, group_id: ids.GroupId, container: str, options: link.LogOptions
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self._require_sync()
        path = f"v1/groups/{group_id}/containers/{container}/log"
        async with self._stream(path, to_query(options)) as content:
            yield _chunks(content)

    @contextlib.asynccontextmanager
    async def open_exec(
        self, group_id: ids.GroupId, container: str, options: link.ExecOptions
    ) -> AsyncIterator[port.Stream]:
        path = f"v1/groups/{group_id}/containers/{container}/exec"
        async with self._socket_stream(path, to_query(options)) as stream:
            yield stream

    @contextlib.asynccontextmanager
    async def open_attach(
        self, group_id: ids.GroupId, container: str, options: link.AttachOptions
    ) -> AsyncIterator[port.Stream]:
        path = f"v1/groups/{group_id}/containers/{container}/attach"
        async with self._socket_stream(path, to_query(options)) as stream:
            yield stream

    @contextlib.asynccontextmanager
    async def open_port(self, group_id: ids.GroupId, number: int) -> AsyncIterator[port.Stream]:
        async with self._socket_stream(f"v1/groups/{group_id}/ports/{number}", {}) as stream:
            yield stream

    # ---- inside

    @contextlib.asynccontextmanager
    async def _socket_stream(self, path: str, query: dict[str, Any]) -> AsyncIterator[port.Stream]:
        self._require_sync()
        with _wrapped():
            try:
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    socket = await self._active().ws_connect(
                        f"{_BASE}/{path}",
                        params=query,
                        protocols=(channels.V5,),
                        max_msg_size=_MAX_MESSAGE_BYTES,
                        timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                    )
            except aiohttp.WSServerHandshakeError as error:
                because = channels.refusal_of(error.headers) or f"the kcilet answered {error.status}"
                raise _error_of(error.status, because) from error
        try:
            yield _Stream(socket)
        finally:
            with sockets.cut_if_unanswered(socket):
                await socket.close()

    async def _put(self, path: str, body: msgspec.Struct, timeout_s: float) -> None:
        with _wrapped():
            async with self._active().put(
                f"{_BASE}/{path}",
                data=msgspec.json.encode(body),
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s, connect=5.0),
            ) as answer:
                await _check(answer)

    @contextlib.asynccontextmanager
    async def _stream(
        self, path: str, query: dict[str, Any], *, buffer_bytes: int = _BUFFER_BYTES
    ) -> AsyncIterator[aiohttp.StreamReader]:
        # deadline: until the answer begins, below; then silence is normal, or the caller's to judge.
        limits = aiohttp.ClientTimeout(total=None, connect=5.0)
        async with contextlib.AsyncExitStack() as stack:
            with _wrapped():
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    answer = await stack.enter_async_context(
                        self._active().get(
                            f"{_BASE}/{path}", params=query, timeout=limits, read_bufsize=buffer_bytes
                        )
                    )
                    await _check(answer)
            yield answer.content

    def _require_sync(self) -> None:
        if not self._synced:
            raise port.UnreachableError("cannot reach the kcilet: it is not connected yet")

    def _active(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use the engine as a context manager"
        return self._session


class _Stream:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        with _wrapped():
            await self._socket.send_bytes(message)

    async def receive(self) -> bytes | None:
        with _wrapped():
            message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is aiohttp.WSMsgType.ERROR or self._socket.close_code != aiohttp.WSCloseCode.OK:
            raise port.UnreachableError("cannot go on with the stream: the kcilet's end of it broke")
        return None


def to_query(options: link.LogOptions | link.ExecOptions | link.AttachOptions) -> dict[str, str | list[str]]:
    """Options under their JSON names. Every set one is written out, so that no default is left to be
    guessed by the other side.
    """
    query: dict[str, str | list[str]] = {}
    for field in msgspec.structs.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, tuple):
            query[field.encode_name] = list(value)
        elif isinstance(value, bool):
            query[field.encode_name] = "true" if value else "false"
        elif value is not None:
            query[field.encode_name] = str(value)
    return query


async def _reports(content: aiohttp.StreamReader) -> AsyncIterator[link.GroupReport]:
    while True:
        with _wrapped():
            async with asyncio.timeout(_SILENCE_S):
                line = await content.readline()
        if not line:
            raise port.UnreachableError("cannot go on reading reports: the kcilet closed the line")
        if line.strip():
            with _wrapped():
                report = msgspec.json.decode(line, type=link.GroupReport)
            yield report


async def _chunks(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    while True:
        with _wrapped():
            # Not all that there is: it would be kept twice while its reader is slow.
            chunk = await content.read(_BUFFER_BYTES)
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def _wrapped() -> Iterator[None]:
    """Library errors become the port's at this door."""
    try:
        yield
    except port.EngineError:
        raise
    except client_exceptions.UnixClientConnectorError as error:
        # Its own text is a dump of aiohttp's connection key.
        cause = os.strerror(error.errno) if error.errno else "it does not answer"
        raise port.UnreachableError(f"cannot reach the kcilet at {error.path}: {cause}") from error
    except TimeoutError as error:
        raise port.UnreachableError("cannot reach the kcilet: no answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise port.UnreachableError(f"cannot reach the kcilet: {error!r}") from error


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct):
    error: _Problem


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status < 300:
        return
    body = await answer.content.read(_MAX_ERROR_BYTES)
    try:
        text = msgspec.json.decode(body, type=_ErrorBody).error.message
    except msgspec.DecodeError:
        text = f"the kcilet answered {answer.status}"
    raise _error_of(answer.status, text)


def _error_of(status: int, text: str) -> port.EngineError:
    if status == 404:
        return port.NotFoundError(text)
    if status == 409:
        return port.OtherStoreError(text)
    if status == 400:
        return port.InvalidError(text)
    return port.UnreachableError(text)
