"""Exec and attach: one process's streams between a client and the provider.

The provider's side speaks messages of v5.channel.k8s.io (kit/channels.py), and so does a client here,
whatever it speaks outside:
- WebSocket v5 is that. v4 has no close message: the client is sent none, and one from it means nothing.
- SPDY has a stream for each channel, named by its header `streamType`. v4 gets the status as JSON, v1 to
  v3 the text of a failure; v1 and v2 know no resizing.
Source: Kubernetes 1.36, the kubelet's cri/streaming/remotecommand.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import structlog
from aiohttp import WSMsgType, web

from kci.kit import channels, sockets, spdy, tasks
from kci.vnode import provider
from kci.vnode.streaming import upgrades, watch

log = structlog.get_logger(__name__)

# In order of our liking.
WEBSOCKET_PROTOCOLS = (channels.V5, channels.V4)
SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
_WITHOUT_RESIZE = frozenset({"v2.channel.k8s.io", "channel.k8s.io"})
# What the provider's side takes in one message.
_PIECE_BYTES = 256 << 10
_MAX_RESIZE_BYTES = 1024
_MAX_STREAMS = 16


class StreamsMissingError(Exception):
    """A client did not open its streams in time."""


class Wanted(Protocol):
    """models.PodExecOptions and PodAttachOptions."""

    @property
    def stdin(self) -> bool: ...
    @property
    def stdout(self) -> bool: ...
    @property
    def stderr(self) -> bool: ...
    @property
    def tty(self) -> bool: ...


class Client(Protocol):
    """Who asked for the process: messages of v5.channel.k8s.io both ways."""

    async def greet(self, wanted: Wanted) -> None:
        """The process's streams are there."""
        ...

    async def receive(self) -> bytes | None:
        """The next message; None once the client is gone."""
        ...

    async def send(self, message: bytes) -> None:
        """ConnectionError if the client is gone."""
        ...

    async def finish(self) -> None:
        """Nothing more comes; close in order."""
        ...


class NotOpened:
    """provider.ExecStream of a process that could not be reached: all it has is the reason.

    kubectl takes a refused upgrade for an old server, tries SPDY and shows what that answers: only inside
    the stream is the reason seen.
    """

    def __init__(self, reason: str) -> None:
        self._left: list[bytes] = [_failure(reason)]

    async def send(self, message: bytes) -> None:
        """Nobody reads it."""

    async def receive(self) -> bytes | None:
        return self._left.pop() if self._left else None

    async def close(self) -> None:
        """There is nothing open."""


async def carry(
    client: Client, stream: provider.ExecStream, wanted: Wanted, *, connection: Any, idle_s: float
) -> None:
    """Until either side ends, or nothing moves for too long; the caller closes both."""
    await client.greet(wanted)
    relay = _Relay(client, stream)
    await tasks.first_of(
        relay.to_client(),
        relay.to_provider(),
        relay.until_idle(idle_s),
        sockets.wait_hung_up(connection),
        name="process relay",
    )


class _Relay:
    def __init__(self, client: Client, stream: provider.ExecStream) -> None:
        self._client = client
        self._stream = stream
        self._activity = watch.Activity()

    async def to_client(self) -> None:
        ended = False
        while (message := await self._stream.receive()) is not None:
            ended = ended or message[:1] == bytes((channels.Channel.STATUS,))
            await self._client.send(message)
            self._activity.touch()
        if not ended:
            await self._client.send(_failure("the instance's stream ended before the process did"))

    async def to_provider(self) -> None:
        while (message := await self._client.receive()) is not None:
            # That the other end is gone is for `to_client` to tell: ending here would leave the client
            # without a status, which it takes for success.
            with contextlib.suppress(ConnectionError):
                await self._stream.send(message)
            self._activity.touch()

    async def until_idle(self, idle_s: float) -> None:
        await self._activity.idle(idle_s)
        await self._client.send(_failure(f"the stream was closed: nothing moved on it for {idle_s:.0f} s"))


# ---- WebSocket -----------------------------------------------------------------------------------


class WebSocketClient:
    """A client over WebSocket."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._can_close = socket.ws_protocol == channels.V5

    async def greet(self, wanted: Wanted) -> None:
        # An empty message tells the client that the streams are there (apiserver's wsstream does so).
        await self._socket.send_bytes(channels.frame(_first_output(wanted)))

    async def receive(self) -> bytes | None:
        async for message in self._socket:
            # Text is not part of the protocol.
            if message.type is WSMsgType.BINARY and self._may_send(message.data):
                return bytes(message.data)
        return None

    async def send(self, message: bytes) -> None:
        if self._can_close or message[:1] != bytes((channels.Channel.CLOSE,)):
            await self._socket.send_bytes(message)

    async def finish(self) -> None:
        await self._socket.close()

    def _may_send(self, message: bytes) -> bool:
        match message[0] if message else None:
            case channels.Channel.STDIN | channels.Channel.RESIZE:
                return True
            case channels.Channel.CLOSE:
                return self._can_close
            case _:
                return False


def _first_output(wanted: Wanted) -> channels.Channel:
    if wanted.stdout:
        return channels.Channel.STDOUT
    return channels.Channel.STDERR if wanted.stderr else channels.Channel.STATUS


# ---- SPDY ----------------------------------------------------------------------------------------

_CHANNELS: Mapping[str, channels.Channel] = {
    "error": channels.Channel.STATUS,
    "stdin": channels.Channel.STDIN,
    "stdout": channels.Channel.STDOUT,
    "stderr": channels.Channel.STDERR,
    "resize": channels.Channel.RESIZE,
}


def _wanted_channels(wanted: Wanted, protocol: str) -> set[channels.Channel]:
    found = {channels.Channel.STATUS}
    if wanted.stdin:
        found.add(channels.Channel.STDIN)
    if wanted.stdout:
        found.add(channels.Channel.STDOUT)
    if wanted.stderr:
        found.add(channels.Channel.STDERR)
    if wanted.tty and protocol not in _WITHOUT_RESIZE:
        found.add(channels.Channel.RESIZE)
    return found


class SpdyClient:
    """A client over SPDY; made by `accept`."""

    def __init__(self, pipe: spdy.Pipe, protocol: str) -> None:
        self._connection = spdy.ServerConnection(pipe, max_streams=_MAX_STREAMS)
        self._protocol = protocol
        self._channels: dict[int, channels.Channel] = {}
        # Where we may still write.
        self._outputs: dict[channels.Channel, int] = {}
        self._resizes = Resizes()
        self._messages: collections.deque[bytes] = collections.deque()

    @classmethod
    async def accept(cls, pipe: spdy.Pipe, protocol: str, wanted: Wanted, *, timeout_s: float) -> SpdyClient:
        """Wait for the streams that the request announced; StreamsMissingError if they do not come."""
        client = cls(pipe, protocol)
        missing = _wanted_channels(wanted, protocol)
        try:
            async with asyncio.timeout(timeout_s):
                while missing:
                    event = await client._connection.receive()
                    if event is None:
                        raise ConnectionResetError("the client left before it opened its streams")
                    await client._take(event, missing)
        except TimeoutError as error:
            names = ", ".join(channel.name.lower() for channel in sorted(missing))
            raise StreamsMissingError(
                f"cannot start: the client opened no stream for {names} within {timeout_s:.0f} s"
            ) from error
        return client

    async def greet(self, wanted: Wanted) -> None:
        """Its streams were accepted already."""

    async def receive(self) -> bytes | None:
        while not self._messages:
            event = await self._connection.receive()
            if event is None:
                return None
            await self._take(event, set())
        return self._messages.popleft()

    async def send(self, message: bytes) -> None:
        channel, data = channels.parse(message)
        match channel:
            case channels.Channel.STDOUT | channels.Channel.STDERR:
                await self._write(channel, data)
            case channels.Channel.STATUS:
                await self._write(channel, self._status(data))
            case channels.Channel.CLOSE if data:
                await self._end(channels.Channel(data[0]))
            case _:
                # Input and its sizes go the other way.
                return

    async def finish(self) -> None:
        for channel in tuple(self._outputs):
            await self._end(channel)
        await self._connection.finish(timeout_s=upgrades.CLOSE_TIMEOUT_S)

    async def _take(self, event: spdy.ServerEvent, missing: set[channels.Channel]) -> None:
        """What the client did, as messages. It may open the streams that are missing, and no others."""
        match event:
            case spdy.StreamOpened(stream_id, headers):
                channel = _CHANNELS.get(headers.get("streamtype", ""))
                if channel is None or channel not in missing:
                    await self._connection.reset(stream_id, spdy.ResetCode.PROTOCOL_ERROR)
                    return
                missing.discard(channel)
                self._channels[stream_id] = channel
                if channel not in {channels.Channel.STDIN, channels.Channel.RESIZE}:
                    self._outputs[channel] = stream_id
                await self._connection.accept(stream_id)
            case spdy.DataReceived(stream_id, data):
                self._messages.extend(self._on_data(self._channels.get(stream_id), data))
            case spdy.StreamEnded(stream_id):
                if self._channels.get(stream_id) is channels.Channel.STDIN:
                    self._messages.append(channels.close_frame(channels.Channel.STDIN))
            case spdy.StreamReset(stream_id):
                lost = self._channels.get(stream_id)
                if lost is channels.Channel.STDIN:
                    self._messages.append(channels.close_frame(channels.Channel.STDIN))
                elif lost is not None:
                    self._outputs.pop(lost, None)
            case spdy.PingReceived() | spdy.StreamRefused() | spdy.GoAway():
                # The connection answers the first two itself; after the last the client closes.
                return

    def _on_data(self, channel: channels.Channel | None, data: bytes) -> Iterator[bytes]:
        if channel is channels.Channel.STDIN:
            for start in range(0, len(data), _PIECE_BYTES):
                yield channels.frame(channels.Channel.STDIN, data[start : start + _PIECE_BYTES])
        elif channel is channels.Channel.RESIZE:
            yield from map(channels.resize_frame, self._resizes.feed(data))

    async def _write(self, channel: channels.Channel, data: bytes) -> None:
        if data and channel in self._outputs:
            await self._connection.send(self._outputs[channel], data)

    async def _end(self, channel: channels.Channel) -> None:
        stream_id = self._outputs.pop(channel, None)
        if stream_id is not None:
            await self._connection.end(stream_id)

    def _status(self, status: bytes) -> bytes:
        if self._protocol == channels.V4:
            return status
        # v1 to v3 know no exit codes: nothing is success, anything is what went wrong.
        code, text = channels.parse_status(status)
        return b"" if code == 0 else text.encode()


@dataclasses.dataclass
class Resizes:
    """Terminal sizes in a stream of JSON values, with or without lines between them."""

    _left: str = ""

    def feed(self, data: bytes) -> list[channels.Resize]:
        """The sizes that are whole now; SpdyError if it is something else."""
        self._left = (self._left + data.decode("ascii", "replace")).lstrip()
        sizes: list[channels.Resize] = []
        decoder = json.JSONDecoder()
        while self._left:
            try:
                _, end = decoder.raw_decode(self._left)
            except ValueError as error:
                if len(self._left) > _MAX_RESIZE_BYTES:
                    raise spdy.SpdyError("cannot read a terminal's size: it does not end") from error
                break
            try:
                sizes.append(channels.parse_resize(self._left[:end].encode()))
            except ValueError as error:
                raise spdy.SpdyError(str(error)) from error
            self._left = self._left[end:].lstrip()
        return sizes


def _failure(text: str) -> bytes:
    return channels.frame(channels.Channel.STATUS, channels.error_status(text))
