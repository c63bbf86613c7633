"""A SPDY client as kubectl and API servers are: over an upgraded connection or inside a WebSocket."""

import asyncio
import contextlib
import socket
import struct

import aiohttp

from kci.kit import spdy, tasks


class RefusedError(Exception):
    """The server answered with something else than an upgrade."""

    def __init__(self, status, body):
        super().__init__(f"HTTP {status}: {body}")
        self.status, self.body = status, body


class Stream:
    """One stream; what comes is kept."""

    def __init__(self, peer, stream_id):
        self.id = stream_id
        self.received = bytearray()
        self.accepted, self.ended = asyncio.Event(), asyncio.Event()
        self.reset_code = None
        self.changed = asyncio.Event()
        self._peer = peer

    async def send(self, data):
        for frame in self._peer.codec.send_data(self.id, data):
            await self._peer.write(frame)

    async def end(self):
        await self._peer.write(self._peer.codec.end_stream(self.id))

    async def reset(self):
        await self._peer.write(self._peer.codec.reset_stream(self.id))

    async def read(self, timeout_s=10):
        """All until the end."""
        async with asyncio.timeout(timeout_s):
            await self.ended.wait()
        return bytes(self.received)

    async def read_exactly(self, count, timeout_s=10):
        async with asyncio.timeout(timeout_s):
            while len(self.received) < count and not self.ended.is_set():
                self.changed.clear()
                await self.changed.wait()
        return bytes(self.received[:count])


class Peer:
    """One connection; `closed` is set when the server has closed it."""

    def __init__(self, read, write):
        self.codec = spdy.Client()
        self.write = write
        self.closed = asyncio.Event()
        self.pongs = []
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self._read = read
        self._streams = {}

    async def open(self, wait=True, **headers):
        stream_id, frame = self.codec.open_stream(headers)
        stream = self._streams[stream_id] = Stream(self, stream_id)
        await self.write(frame)
        if wait:
            async with asyncio.timeout(10):
                await stream.accepted.wait()
        return stream

    def drop(self):
        """Vanish at once: without this, the kernel first tries to send what it still has."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def run(self):
        while data := await self._read():
            for event in self.codec.receive(data):
                self._on_event(event)
            await self.is_reading.wait()
        self.closed.set()
        for stream in self._streams.values():
            self._end(stream)

    def _on_event(self, event):
        match event:
            case spdy.StreamAccepted(stream_id):
                self._streams[stream_id].accepted.set()
            case spdy.DataReceived(stream_id, data):
                self._streams[stream_id].received += data
                self._streams[stream_id].changed.set()
            case spdy.StreamEnded(stream_id):
                self._end(self._streams[stream_id])
            case spdy.StreamReset(stream_id, code):
                self._streams[stream_id].reset_code = code
                self._end(self._streams[stream_id])
            case _:
                pass

    @staticmethod
    def _end(stream):
        stream.ended.set()
        stream.accepted.set()
        stream.changed.set()


@contextlib.asynccontextmanager
async def upgraded(url, path, *, context, protocols=(), headers=(), method="POST"):
    """A Peer over an upgraded connection; RefusedError if the server does not upgrade."""
    host, port = url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
        lines += [f"X-Stream-Protocol-Version: {protocol}" for protocol in protocols]
        lines += [f"{name}: {value}" for name, value in headers]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split()[1])
        if status != 101:
            length = next(
                int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line
            )
            raise RefusedError(status, (await reader.readexactly(length)).decode())

        async def read():
            try:
                return await reader.read(65536)
            except OSError:
                return b""

        async def write(data):
            writer.write(data)
            await writer.drain()

        peer = Peer(read, write)
        peer.head, peer.transport = head, writer.transport
        async with tasks.background("spdy client", peer.run()):
            yield peer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def tunnelled(session, path, protocol="SPDY/3.1+portforward.k8s.io"):
    """A Peer inside a WebSocket of an aiohttp session."""
    async with session.ws_connect(path, protocols=(protocol,)) as client:
        assert client.protocol == protocol

        async def read():
            message = await client.receive()
            return message.data if message.type is aiohttp.WSMsgType.BINARY else b""

        async with tasks.background("spdy client", (peer := Peer(read, client.send_bytes)).run()):
            yield peer
