"""Logs, commands, attachments and ports of an instance: by the service's streams where it has them, else by
what KCI offers.

KCI's own log call gives the last lines of the current container, at most 2000, and nothing else; following
is asking again and showing what is new. What it cannot give, attachments and ports among it, is refused in
words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

import aiohttp

from kci.client import errors
from kci.contract import groups, ids
from kci.kit import channels
from kci.kube import models
from kci.provider import faults
from kci.vnode import provider

FOLLOW_POLL_S = 1.0
# A process whose client left is to end within a second.
_GOODBYE_S = 0.5


class Api(Protocol):
    """What streams need of the client."""

    async def describe_container_log(self, group_id: ids.GroupId, container: str, tail: int) -> str: ...

    def stream_container_log(
        self, group_id: ids.GroupId, container: str, options: groups.StreamContainerLog | None = None
    ) -> AsyncGenerator[bytes, None]: ...

    async def exec_container_command(
        self,
        group_id: ids.GroupId,
        container: str,
        command: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> str: ...

    async def attach_container(
        self,
        group_id: ids.GroupId,
        container: str,
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> str: ...

    async def forward_port(self, group_id: ids.GroupId, port: int) -> str: ...

    async def open_exec(self, uri: str) -> aiohttp.ClientWebSocketResponse: ...


# ---- logs ----------------------------------------------------------------------------------------


async def open_log_stream(
    api: Api, group_id: ids.GroupId, container: str, options: models.PodLogOptions
) -> AsyncGenerator[bytes, None]:
    """The service's stream."""
    wanted = groups.StreamContainerLog(
        follow=options.follow,
        previous=options.previous,
        timestamps=options.timestamps,
        tail_lines=options.tail_lines,
        since_seconds=options.since_seconds,
        since_time=options.since_time,
        limit_bytes=options.limit_bytes,
    )
    chunks = _translated(api.stream_container_log(group_id, container, wanted))
    # The first chunk is empty and says that the stream is open; what stands against that is raised here.
    _ = await anext(chunks, b"")
    return chunks


async def _translated(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(chunks) as opened:
        with faults.translated():
            async for chunk in opened:
                yield chunk


async def open_log_tail(
    api: Api,
    group_id: ids.GroupId,
    container: str,
    options: models.PodLogOptions,
    *,
    has_ended: Callable[[], bool],
) -> AsyncGenerator[bytes, None]:
    """KCI's own log call, asked again and again to follow, and once more when the container has ended."""
    _check_tail_options(options)
    tail = groups.MAX_TAIL_LINES if options.tail_lines is None else options.tail_lines
    with faults.translated():
        # One line at least: the call must find out whether there is a log.
        content = await api.describe_container_log(
            group_id, container, max(1, min(tail, groups.MAX_TAIL_LINES))
        )
    shown = _lines(content)
    return _followed(api, group_id, container, shown, tail=tail, follow=options.follow, has_ended=has_ended)


def _check_tail_options(options: models.PodLogOptions) -> None:
    asked = {
        "previous": options.previous,
        "timestamps": options.timestamps,
        "since": options.since_seconds is not None or options.since_time is not None,
    }
    for name, given in asked.items():
        if given:
            raise provider.RefusedError(
                "NotSupported", f"cannot show a log with {name!r}: KCI's log call knows the last lines only"
            )


async def _followed(
    api: Api,
    group_id: ids.GroupId,
    container: str,
    lines: Sequence[str],
    *,
    tail: int,
    follow: bool,
    has_ended: Callable[[], bool],
) -> AsyncGenerator[bytes, None]:
    if tail > 0:
        yield _joined(lines)
    while follow:
        # Before the pause and the question, so that its last lines are in the answer.
        is_last = has_ended()
        await asyncio.sleep(FOLLOW_POLL_S)
        try:
            content = await api.describe_container_log(group_id, container, groups.MAX_TAIL_LINES)
        except errors.NotFoundError:
            return
        except errors.KciError as error:
            if isinstance(error, errors.UnreachableError | errors.TryLaterError):
                continue
            raise faults.to_provider_error(error) from error
        newest = _lines(content)
        yield _joined(new_lines(lines, newest))
        lines = newest
        if is_last:
            return


def new_lines(before: Sequence[str], after: Sequence[str]) -> Sequence[str]:
    """What `after` has beyond `before`, both being last lines of one growing text: all behind the longest
    end of `before` that `after` begins with, or that stands in it.
    """
    if not before:
        return after
    for start in range(len(after) - 1, -1, -1):
        if after[start] != before[-1]:
            continue
        length = min(start + 1, len(before))
        if list(after[start + 1 - length : start + 1]) == list(before[len(before) - length :]):
            return after[start + 1 :]
    return after


def _lines(content: str) -> list[str]:
    """Ended by a newline and by nothing else that Python takes for a line's end."""
    return content.removesuffix("\n").split("\n") if content else []


def _joined(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


# ---- exec ----------------------------------------------------------------------------------------


class WebSocketStream:
    """A stream's WebSocket as the virtual node wants it: v5 messages, whatever the other side speaks."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        if message[:1] == bytes((channels.Channel.CLOSE,)) and self._socket.protocol != channels.V5:
            # v4 cannot half-close: the command sees its input end when the client leaves.
            return
        await self._socket.send_bytes(message)

    async def receive(self) -> bytes | None:
        while True:
            message = await self._socket.receive()
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    return bytes(message.data)
                case aiohttp.WSMsgType.TEXT:
                    # A service that speaks no channel protocol sends plain output.
                    return channels.frame(channels.Channel.STDOUT, str(message.data).encode())
                case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                    return None
                case aiohttp.WSMsgType.ERROR:
                    return None
                case _:
                    continue

    async def close(self) -> None:
        # One that is not read at the other end takes no goodbye either: it is cut.
        connection = self._socket._response.connection
        transport = connection.transport if connection is not None else None
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._socket.close()
        except TimeoutError:
            if transport is not None:
                transport.abort()


async def open_exec(
    api: Api, group_id: ids.GroupId, container: str, options: models.PodExecOptions
) -> WebSocketStream:
    with faults.translated():
        uri = await api.exec_container_command(
            group_id,
            container,
            options.command,
            tty=options.tty,
            stdin=options.stdin,
            stdout=options.stdout,
            stderr=options.stderr,
        )
        return WebSocketStream(await api.open_exec(uri))


async def open_attach(
    api: Api, group_id: ids.GroupId, container: str, options: models.PodAttachOptions
) -> WebSocketStream:
    with faults.translated():
        uri = await api.attach_container(
            group_id,
            container,
            tty=options.tty,
            stdin=options.stdin,
            stdout=options.stdout,
            stderr=options.stderr,
        )
        return WebSocketStream(await api.open_exec(uri))


async def open_port(api: Api, group_id: ids.GroupId, port: int) -> WebSocketStream:
    with faults.translated():
        return WebSocketStream(await api.open_exec(await api.forward_port(group_id, port)))
