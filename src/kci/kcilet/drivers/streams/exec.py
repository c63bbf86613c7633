"""A command's or a container's streams between a v5.channel.k8s.io peer and the runtime's streaming server.

The runtime is spoken to in SPDY/3.1 although it offers WebSocket too: only SPDY can half-close
standard input there (`kubectl exec -i < file`, `kubectl cp`). Ported from client-go
tools/remotecommand/v2.go to v4.go (0.36). Nothing is kept beyond one read of each side: a slow peer
stops the reading, and that stops the process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import urllib.parse
from collections.abc import Awaitable, Callable

import structlog

from kci.kcilet import ports
from kci.kit import channels, spdy, tasks
from kci.link import types as link

log = structlog.get_logger(__name__)

_PROTOCOL = "v4.channel.k8s.io"
_CONNECT_S = 10.0
_CLOSE_S = 2.0
_READ_BYTES = 64 << 10
_MAX_STATUS_BYTES = 64 << 10
_MAX_REFUSAL_BYTES = 1024


class _StreamError(Exception):
    """The runtime's streams could not be had, or broke."""


async def run(
    find_url: Callable[[], Awaitable[str]],
    options: link.ExecOptions | link.AttachOptions,
    peer: ports.StreamPeer,
    *,
    on_left: Callable[[], Awaitable[None]],
) -> None:
    """Returns when the process has ended and the peer was told its status, or when the peer is gone. Before
    the streams of a process that has not ended are closed, `on_left` is called: the end of its input is
    not to look like one that its client meant.
    """
    try:
        try:
            reader, writer = await _reach(find_url)
        except (ports.DriverError, _StreamError) as error:
            await peer.send(channels.frame(channels.Channel.STATUS, channels.error_status(str(error))))
            return
        await _Streams(reader, writer, options, peer, on_left).run()
    except ConnectionError as error:
        log.info("a stream's peer is gone", error=repr(error))


class _Streams:
    """One process's connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        options: link.ExecOptions | link.AttachOptions,
        peer: ports.StreamPeer,
        on_left: Callable[[], Awaitable[None]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._options = options
        self._peer = peer
        self._on_left = on_left
        self._client = spdy.Client()
        self._streams: dict[str, int] = {}
        self._outputs: dict[int, channels.Channel] = {}
        # Streams on which the runtime sends nothing more.
        self._ended: set[int] = set()
        self._status = bytearray()
        self._has_run = False

    async def run(self) -> None:
        try:
            self._open_streams()
            await tasks.first_of(self._from_runtime(), self._from_peer(), name="streams")
            if self._has_run:
                await self._peer.send(channels.frame(channels.Channel.STATUS, self._read_status()))
        except (spdy.SpdyError, _StreamError) as error:
            message = channels.error_status(f"cannot go on with the streams: {error}")
            await self._peer.send(channels.frame(channels.Channel.STATUS, message))
        finally:
            try:
                if not self._status:
                    await self._on_left()
            finally:
                await self._close()

    def _open_streams(self) -> None:
        """In the order in which the kubelet's client opens them."""
        options = self._options
        wanted = {
            "error": True,
            "stdin": options.stdin,
            "stdout": options.stdout,
            "stderr": options.stderr and not options.tty,
            "resize": options.tty,
        }
        for name in (name for name, is_wanted in wanted.items() if is_wanted):
            stream_id, opening = self._client.open_stream({"streamType": name})
            self._streams[name] = stream_id
            self._writer.write(opening)
        for name, channel in (("stdout", channels.Channel.STDOUT), ("stderr", channels.Channel.STDERR)):
            if name in self._streams:
                self._outputs[self._streams[name]] = channel

    async def _from_runtime(self) -> None:
        """Until the runtime has ended its streams: the status comes last."""
        awaited = {self._streams["error"], *self._outputs}
        while not awaited <= self._ended:
            data = await self._read()
            if not data:
                break
            for event in self._client.receive(data):
                await self._on_event(event)
        self._has_run = True

    async def _read(self) -> bytes:
        """Nothing if the runtime is gone: that is not the peer's going."""
        try:
            return await self._reader.read(_READ_BYTES)
        except OSError as error:
            log.info("lost the runtime's streams", error=repr(error))
            return b""

    async def _on_event(self, event: spdy.Event) -> None:
        match event:
            case spdy.DataReceived(stream_id, data):
                if stream_id in self._outputs:
                    await self._peer.send(channels.frame(self._outputs[stream_id], data))
                elif stream_id == self._streams["error"]:
                    if len(self._status) + len(data) > _MAX_STATUS_BYTES:
                        raise _StreamError("the runtime's status is too long")
                    self._status += data
            case spdy.StreamEnded(stream_id) | spdy.StreamReset(stream_id):
                self._ended.add(stream_id)
                # A process that has closed its standard input is told that nothing more comes.
                if stream_id == self._streams.get("stdin"):
                    self._end("stdin")
            case spdy.PingReceived(ping_id):
                self._writer.write(self._client.pong(ping_id))
            case spdy.StreamAccepted() | spdy.GoAway():
                pass

    async def _from_peer(self) -> None:
        """Until the peer is gone; what it has no right or reason to send is passed over."""
        while (message := await self._peer.receive()) is not None:
            try:
                channel, data = channels.parse(message)
                if channel == channels.Channel.STDIN:
                    await self._send("stdin", data)
                elif channel == channels.Channel.RESIZE:
                    size = channels.parse_resize(data)
                    await self._send("resize", channels.resize_frame(size)[1:] + b"\n")
                elif channel == channels.Channel.CLOSE and data == bytes((channels.Channel.STDIN,)):
                    self._end("stdin")
            except ValueError as error:
                log.warning("passing over a message of a stream's peer", error=str(error))

    async def _send(self, name: str, data: bytes) -> None:
        stream_id = self._streams.get(name)
        if stream_id is None:
            return
        try:
            for piece in self._client.send_data(stream_id, data):
                self._writer.write(piece)
                # Here a process that does not read stops its peer.
                await self._writer.drain()
        except OSError as error:
            # Reading ends as well, and then the status is told.
            del self._streams[name]
            log.info("lost the runtime's streams", error=repr(error))

    def _end(self, name: str) -> None:
        """Half-close; nothing is sent on the stream afterwards."""
        stream_id = self._streams.pop(name, None)
        if stream_id is not None:
            self._writer.write(self._client.end_stream(stream_id))

    def _read_status(self) -> bytes:
        status = bytes(self._status)
        if not status:
            return channels.error_status("the runtime closed the streams without a status")
        try:
            channels.parse_status(status)
        except ValueError:
            # Old runtimes write plain text.
            return channels.error_status(status.decode(errors="replace"))
        return status

    async def _close(self) -> None:
        """A process that still runs sees the end of its input and no reader of its output."""
        self._end("stdin")
        for stream_id in self._streams.values():
            self._writer.write(self._client.reset_stream(stream_id))
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


async def _reach(
    find_url: Callable[[], Awaitable[str]],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(_CONNECT_S):
            return await _connect(await find_url())
    except TimeoutError as error:
        raise _StreamError(
            f"cannot have the streams within {_CONNECT_S:g} s: the runtime does not answer"
        ) from error
    except OSError as error:
        raise _StreamError(f"cannot have the streams: {error}") from error


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The upgraded connection. Never follows a redirect, and goes nowhere but to this machine."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "http" or port is None or not _is_loopback(host):
        raise _StreamError(f"cannot use the runtime's streaming address {parts.netloc!r}: it is not loopback")
    # deadline: the caller's, for all of this function.
    reader, writer = await asyncio.open_connection(host, port, limit=_READ_BYTES)
    try:
        writer.write(
            f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 0\r\n"
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            f"X-Stream-Protocol-Version: {_PROTOCOL}\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        if not lines[0].startswith("http/1.1 101 ") or "upgrade: spdy/3.1" not in lines:
            refusal = (await reader.read(_MAX_REFUSAL_BYTES)).decode(errors="replace")
            raise _StreamError(f"cannot have the streams: the runtime answers {lines[0]!r}: {refusal}")
        if f"x-stream-protocol-version: {_PROTOCOL}" not in lines:
            raise _StreamError(f"cannot have the streams: the runtime does not speak {_PROTOCOL}")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.transport.abort()
        raise _StreamError("cannot have the streams: the runtime gives no HTTP answer") from error
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
