"""A server's side of one SPDY connection at work, over whatever carries its bytes.

Events are handed out one at a time and the pipe is read only when there is none left: who takes them
slowly slows the client down. Nothing is kept here beyond one read and one frame.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import Protocol

from kci.kit.spdy import codec

# What the codec is given at once: it may make an event of every 8 bytes.
_PIECE_BYTES = 16 << 10


class Pipe(Protocol):
    """Carries the bytes."""

    async def read(self) -> bytes:
        """What has come; nothing once the other side is gone."""
        ...

    async def write(self, data: bytes) -> None:
        """Takes the bytes at once and in order, then waits while too many of them are on their way.
        ConnectionError if the other side is gone.
        """
        ...


class ServerConnection:
    """Any number of tasks may write, one may receive."""

    def __init__(self, pipe: Pipe, *, max_streams: int = codec.MAX_STREAMS) -> None:
        self._pipe = pipe
        self._server = codec.Server(max_streams=max_streams)
        self._events: collections.deque[codec.ServerEvent] = collections.deque()
        self._unread = memoryview(b"")

    async def receive(self) -> codec.ServerEvent | None:
        """What the client did next; None once it is gone. SpdyError if it broke the protocol.

        Pings are answered and streams over the limit refused on the way.
        """
        while True:
            while not self._events:
                if not self._unread:
                    self._unread = memoryview(await self._pipe.read())
                    if not self._unread:
                        return None
                piece, self._unread = self._unread[:_PIECE_BYTES], self._unread[_PIECE_BYTES:]
                self._events.extend(self._server.receive(piece))
            match event := self._events.popleft():
                case codec.PingReceived(ping_id):
                    await self._pipe.write(self._server.pong(ping_id))
                case codec.StreamRefused(stream_id):
                    await self.reset(stream_id, codec.ResetCode.REFUSED_STREAM)
                case _:
                    return event

    async def accept(self, stream_id: int) -> None:
        await self._pipe.write(self._server.accept_stream(stream_id))

    async def send(self, stream_id: int, data: bytes) -> None:
        for frame in self._server.send_data(stream_id, data):
            await self._pipe.write(frame)

    async def end(self, stream_id: int) -> None:
        """Half-close: nothing more is sent on this stream."""
        await self._pipe.write(self._server.end_stream(stream_id))

    async def reset(self, stream_id: int, code: codec.ResetCode = codec.ResetCode.CANCEL) -> None:
        await self._pipe.write(self._server.reset_stream(stream_id, code))

    async def finish(self, *, timeout_s: float) -> None:
        """Say that nothing more comes, and wait a little for the client to close.

        To close first while the client still sends would make the kernel throw away what it was sent last.
        """
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._pipe.write(self._server.go_away())
                while await self._pipe.read():
                    pass
