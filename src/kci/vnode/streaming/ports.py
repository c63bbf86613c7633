"""Forwarded ports: TCP connections to a pod, many of them over one connection of a client.

Over SPDY each has two streams with the same `requestID`: `data`, both ways, and `error`, on which the
client is told why there is no connection. Over WebSocket's channels (`v4.channel.k8s.io`) each port of the
query has two channels, data and error, which begin with the port's number, and none can be half-closed.

SPDY's peers know no windows, so one connection whose pod does not read stands in the way of the others
once its share of the buffers is full; the same is true of a kubelet.
Source: Kubernetes 1.36, the kubelet's cri/streaming/portforward.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiohttp import WSMsgType, web

from kci.kit import channels, sockets, spdy, tasks
from kci.vnode import provider
from kci.vnode.streaming import sessions, upgrades, watch

log = structlog.get_logger(__name__)

PROTOCOL = "portforward.k8s.io"
TUNNEL_PROTOCOL = upgrades.TUNNEL_PREFIX + PROTOCOL
CHANNEL_PROTOCOLS = (channels.V4,)
# What waits for pods that read slowly: of one connection, and of all that a client has.
MAX_WAITING_BYTES = 256 << 10
MAX_WAITING_BYTES_OF_ALL = 4 << 20
# What the provider's side takes in one message.
_PIECE_BYTES = 256 << 10
_MAX_PORTS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forwarding:
    """What a client's port forwarding needs to know and to do."""

    open_port: Callable[[int], Awaitable[provider.ExecStream]]
    # Counts a connection to this port for the block: sessions.TooManyError if it is one too many.
    count: Callable[[int], contextlib.AbstractContextManager[None]]
    # The client's socket.
    connection: Any
    creation_s: float
    idle_s: float


class BadPortsError(Exception):
    """A query names no ports, or no such ports."""


class _Client(Protocol):
    """One forwarded connection's end at the client."""

    async def receive(self) -> bytes | None:
        """What is for the pod; None once nothing more comes."""
        ...

    async def send(self, data: bytes) -> None: ...

    async def end(self) -> None:
        """The pod sends nothing more."""
        ...

    async def fail(self, message: str) -> None:
        """There is no connection, and why."""
        ...


class _Carrier:
    """Connects and carries, any number of connections."""

    def __init__(self, forwarding: Forwarding, activity: watch.Activity) -> None:
        self._forwarding = forwarding
        self._activity = activity

    async def run(self, client: _Client, port: int) -> None:
        """One connection, to its end; ConnectionError if the client is gone."""
        try:
            with self._forwarding.count(port):
                stream = await self._forwarding.open_port(port)
                try:
                    await self._carry(client, stream)
                finally:
                    await stream.close()
        except (provider.ProviderError, sessions.TooManyError) as error:
            log.warning("cannot forward a port", port=port, error=str(error))
            await client.fail(f"cannot forward port {port}: {error}")

    async def _carry(self, client: _Client, stream: provider.ExecStream) -> None:
        sent, heard = asyncio.Event(), asyncio.Event()
        async with tasks.Tasks() as group:
            to_pod = group.spawn("port to pod", self._to_pod(client, stream, sent))
            await tasks.first_of(
                self._to_client(client, stream, heard), self._overdue(sent, heard), name="port to client"
            )
            to_pod.cancel()

    async def _to_pod(self, client: _Client, stream: provider.ExecStream, sent: asyncio.Event) -> None:
        """Sets `sent` once the client's direction has ended. The stream is not closed with it: what a slow
        pod has not read yet would be lost. The provider ends it when all has arrived.
        """
        # That the pod's end is gone is for `_to_client` to find out.
        with contextlib.suppress(ConnectionError):
            while (data := await client.receive()) is not None:
                for start in range(0, len(data), _PIECE_BYTES):
                    piece = data[start : start + _PIECE_BYTES]
                    await stream.send(channels.frame(channels.Channel.STDIN, piece))
                self._activity.touch()
            await stream.send(channels.close_frame(channels.Channel.STDIN))
        sent.set()

    async def _overdue(self, *ends: asyncio.Event) -> None:
        """Returns when both directions have ended and the stream's end does not come."""
        for end in ends:
            _ = await end.wait()
        await asyncio.sleep(self._forwarding.idle_s)

    async def _to_client(self, client: _Client, stream: provider.ExecStream, heard: asyncio.Event) -> None:
        """Until the stream's end; sets `heard` once the pod's direction has ended."""
        is_connected = False
        while (message := await stream.receive()) is not None:
            try:
                channel, data = channels.parse(message)
            except ValueError as error:
                log.warning("passing over a message of a forwarded port", error=str(error))
                continue
            match channel:
                case channels.Channel.STDOUT:
                    # The first may be empty: it says that there is a connection.
                    is_connected = True
                    if data:
                        await client.send(data)
                    self._activity.touch()
                case channels.Channel.CLOSE if data == bytes((channels.Channel.STDOUT,)):
                    await client.end()
                    heard.set()
                case channels.Channel.STATUS:
                    _, text = channels.parse_status(data)
                    # kubectl drops all of its connections at any such word: not for one that broke midway.
                    if text and not is_connected:
                        await client.fail(text)
                    return
                case _:
                    continue


# ---- SPDY ----------------------------------------------------------------------------------------


async def serve_spdy(pipe: spdy.Pipe, forwarding: Forwarding) -> None:
    """Until the client is gone, or nothing moves for too long."""
    activity = watch.Activity()
    connection = spdy.ServerConnection(pipe)
    forwards = _SpdyForwards(connection, _Carrier(forwarding, activity), creation_s=forwarding.creation_s)
    await tasks.first_of(
        forwards.run(),
        activity.idle(forwarding.idle_s),
        sockets.wait_hung_up(forwarding.connection),
        name="port forwarding",
    )
    await connection.finish(timeout_s=upgrades.CLOSE_TIMEOUT_S)


class _Room:
    """What all inboxes of one connection hold together. Only the task that reads the connection waits."""

    def __init__(self) -> None:
        self.used_bytes = 0
        self.freed = asyncio.Event()

    def free(self, size: int) -> None:
        self.used_bytes -= size
        self.freed.set()


class _Inbox:
    """What a client sent on one stream and its pod has not taken yet."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._waiting: collections.deque[bytes] = collections.deque()
        self._bytes = 0
        self._ended = False
        self._closed = False
        self._changed = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Waits for room; data for a connection that has ended is dropped."""
        while not self._closed and not self._has_room(len(data)):
            self._room.freed.clear()
            await self._room.freed.wait()
        if not self._closed:
            self._waiting.append(data)
            self._bytes += len(data)
            self._room.used_bytes += len(data)
            self._changed.set()

    def _has_room(self, size: int) -> bool:
        # One frame always fits where nothing waits: else a large one could never be taken.
        own = not self._bytes or self._bytes + size <= MAX_WAITING_BYTES
        of_all = not self._room.used_bytes or self._room.used_bytes + size <= MAX_WAITING_BYTES_OF_ALL
        return own and of_all

    async def get(self) -> bytes | None:
        while not self._waiting and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if not self._waiting:
            return None
        data = self._waiting.popleft()
        self._bytes -= len(data)
        self._room.free(len(data))
        return data

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    def close(self) -> None:
        """Nobody takes anything any more."""
        self._closed = True
        self._room.free(self._bytes)
        self._waiting.clear()
        self._bytes = 0


class _Pair:
    """A forwarded connection's two streams: the client's end of it, once both are there."""

    def __init__(self, connection: spdy.ServerConnection, room: _Room, port: int) -> None:
        self.port = port
        self.inbox = _Inbox(room)
        self.complete = asyncio.Event()
        self.given_up = asyncio.Event()
        self.streams: dict[str, int] = {}
        self._connection = connection
        # Where we may still write, and where the client may still.
        self._writable: set[int] = set()
        self._readable: set[int] = set()

    async def add(self, kind: str, stream_id: int) -> None:
        self.streams[kind] = stream_id
        self._writable.add(stream_id)
        self._readable.add(stream_id)
        await self._connection.accept(stream_id)
        if len(self.streams) == 2:
            self.complete.set()

    def on_end(self, stream_id: int) -> None:
        self._readable.discard(stream_id)
        if stream_id == self.streams.get("data"):
            self.inbox.end()

    def on_reset(self, stream_id: int) -> None:
        self._readable.discard(stream_id)
        self._writable.discard(stream_id)
        self.given_up.set()

    async def receive(self) -> bytes | None:
        return await self.inbox.get()

    async def send(self, data: bytes) -> None:
        if self.streams["data"] in self._writable:
            await self._connection.send(self.streams["data"], data)

    async def end(self) -> None:
        # Errors neither: kubectl keeps its user's connection for as long as there may be one.
        for stream_id in self.streams.values():
            await self._end(stream_id)

    async def fail(self, message: str) -> None:
        if self.streams.get("error") in self._writable:
            await self._connection.send(self.streams["error"], message.encode())

    async def close(self) -> None:
        self.inbox.close()
        for stream_id in self.streams.values():
            await self._end(stream_id)
            if stream_id in self._readable:
                # Else it stays open for as long as the client likes.
                await self._connection.reset(stream_id)

    async def _end(self, stream_id: int) -> None:
        if stream_id in self._writable:
            self._writable.discard(stream_id)
            await self._connection.end(stream_id)


class _SpdyForwards:
    """All forwarded connections of one SPDY connection."""

    def __init__(self, connection: spdy.ServerConnection, carrier: _Carrier, *, creation_s: float) -> None:
        self._connection = connection
        self._carrier = carrier
        self._creation_s = creation_s
        self._room = _Room()
        # By what the client calls the request, until both streams are there; and by stream.
        self._incomplete: dict[str, _Pair] = {}
        self._of_stream: dict[int, _Pair] = {}

    async def run(self) -> None:
        """Until the client is gone. SpdyError if it broke the protocol."""
        async with tasks.Tasks() as group:
            while (event := await self._connection.receive()) is not None:
                match event:
                    case spdy.StreamOpened(stream_id, headers):
                        await self._on_opened(group, stream_id, headers)
                    case spdy.DataReceived(stream_id, data):
                        pair = self._of_stream.get(stream_id)
                        if pair is not None and stream_id == pair.streams.get("data"):
                            await pair.inbox.put(data)
                    case spdy.StreamEnded(stream_id):
                        if stream_id in self._of_stream:
                            self._of_stream[stream_id].on_end(stream_id)
                    case spdy.StreamReset(stream_id):
                        if stream_id in self._of_stream:
                            self._of_stream[stream_id].on_reset(stream_id)
                    case spdy.PingReceived() | spdy.StreamRefused() | spdy.GoAway():
                        continue
            for pair in self._of_stream.values():
                pair.given_up.set()

    async def _on_opened(self, group: tasks.Tasks, stream_id: int, headers: Mapping[str, str]) -> None:
        kind, port = headers.get("streamtype", ""), _port_of(headers.get("port", ""))
        # Clients older than the header open the two streams right after each other, error first.
        request = headers.get("requestid", "") or str(stream_id - 2 if kind == "data" else stream_id)
        known = self._incomplete.get(request)
        if kind not in {"data", "error"} or port is None or (known is not None and kind in known.streams):
            log.warning("refusing a stream of a port forwarding", kind=kind, port=headers.get("port", ""))
            await self._connection.reset(stream_id, spdy.ResetCode.PROTOCOL_ERROR)
            return
        pair = known or _Pair(self._connection, self._room, port)
        self._of_stream[stream_id] = pair
        await pair.add(kind, stream_id)
        if known is None:
            self._incomplete[request] = pair
            group.start(f"forward port {port}", self._serve(request, pair))
        else:
            del self._incomplete[request]

    async def _serve(self, request: str, pair: _Pair) -> None:
        # A client that is gone is noticed where its connection is read.
        with contextlib.suppress(ConnectionError):
            try:
                await tasks.first_of(
                    self._forward(pair), pair.given_up.wait(), name=f"forwarded port {pair.port}"
                )
            finally:
                if self._incomplete.get(request) is pair:
                    del self._incomplete[request]
                for stream_id in pair.streams.values():
                    self._of_stream.pop(stream_id, None)
                await pair.close()

    async def _forward(self, pair: _Pair) -> None:
        try:
            async with asyncio.timeout(self._creation_s):
                await pair.complete.wait()
        except TimeoutError:
            have = ", ".join(pair.streams)
            await pair.fail(
                f"cannot forward port {pair.port}: of its two streams only {have} was opened "
                f"within {self._creation_s:.0f} s"
            )
            return
        await self._carrier.run(pair, pair.port)


# ---- WebSocket channels --------------------------------------------------------------------------


def parse_ports(values: Sequence[str]) -> list[int]:
    """Of the query's `port` parameters; BadPortsError if it has none or false ones."""
    texts = [text for value in values for text in value.split(",")]
    ports = [port for text in texts if (port := _port_of(text)) is not None]
    if not texts:
        raise BadPortsError('query parameter "port" is required')
    if len(ports) < len(texts) or len(ports) > _MAX_PORTS:
        raise BadPortsError(f"cannot forward the ports {values}: give at most {_MAX_PORTS}, of 1 to 65535")
    return ports


async def serve_channels(socket: web.WebSocketResponse, ports: Sequence[int], forwarding: Forwarding) -> None:
    """Until all connections have ended or the client is gone, or nothing moves for too long."""
    activity = watch.Activity()
    carrier = _Carrier(forwarding, activity)
    room = _Room()
    clients = [_ChannelClient(socket, room, number, port) for number, port in enumerate(ports)]
    for client in clients:
        await client.greet()
    await tasks.first_of(
        tasks.wait_all([carrier.run(client, client.port) for client in clients], name="forwarded ports"),
        _read_channels(socket, clients),
        activity.idle(forwarding.idle_s),
        sockets.wait_hung_up(forwarding.connection),
        name="port forwarding",
    )


class _ChannelClient:
    """A forwarded connection's end at a client over WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, room: _Room, number: int, port: int) -> None:
        self.port = port
        self.inbox = _Inbox(room)
        self._socket = socket
        self._data, self._error = bytes((2 * number,)), bytes((2 * number + 1,))

    async def greet(self) -> None:
        number = struct.pack("<H", self.port)
        await self._socket.send_bytes(self._data + number)
        await self._socket.send_bytes(self._error + number)

    async def receive(self) -> bytes | None:
        return await self.inbox.get()

    async def send(self, data: bytes) -> None:
        await self._socket.send_bytes(self._data + data)

    async def end(self) -> None:
        """No channel can be half-closed, so this is the whole connection's end."""
        self.inbox.end()

    async def fail(self, message: str) -> None:
        await self._socket.send_bytes(self._error + message.encode())


async def _read_channels(socket: web.WebSocketResponse, clients: Sequence[_ChannelClient]) -> None:
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        number, is_error = divmod(message.data[0], 2)
        if number < len(clients) and not is_error:
            await clients[number].inbox.put(bytes(message.data[1:]))


def _port_of(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536 else None
