"""A proxy that does harm by a scenario: between any two programs, over TCP or unix sockets.

It passes bytes on as they are. Where it is told to read HTTP/1.1 it acts on single requests, and a TLS
connection can be ended here and begun anew with given certificates; else a connection is one exchange.
Whatever it does to an exchange is in its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable

import scenarios

from kci.kit import tasks

CONNECT_TIMEOUT_S = 10.0
PIECE_BYTES = 1 << 16
HEAD_LIMIT_BYTES = 1 << 20
FORM_LIMIT_BYTES = 1 << 20
SO_MARK = 36
# Answers without a body, whatever their head says.
BODILESS = {204, 304}


@dataclasses.dataclass(frozen=True)
class Tcp:
    """An address; `mark` is put on the proxy's own packets, so that a redirect can leave them alone."""

    host: str
    port: int
    mark: int = 0


@dataclasses.dataclass(frozen=True)
class Unix:
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Tls:
    """What the proxy shows to the client, and what it shows to the server."""

    near: ssl.SSLContext
    far: ssl.SSLContext
    # Under which name the server's certificate is checked.
    server_name: str


@dataclasses.dataclass(frozen=True)
class Door:
    """Where a proxy stands."""

    link: str
    upstream: Tcp | Unix
    reads_http: bool = False
    tls: Tls | None = None
    # Whose connections are touched; all, if empty. Those of others are passed on as they are.
    clients: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Entry:
    """What was done to one exchange."""

    at_s: float
    exchange: scenarios.Exchange
    fault: scenarios.Fault


class _CutError(Exception):
    """The connection ends here."""


class Proxy:
    """`serve` takes connections until it is cancelled; `play` says what happens to them from then on."""

    def __init__(self, door: Door, *, name_client: Callable[[socket.socket], str] | None = None) -> None:
        self.door = door
        self.log: list[Entry] = []
        self.connections = 0
        self._name_client = name_client or (lambda _: "")
        self._playing = scenarios.Play(scenarios.CALM, 0)
        self._healed = asyncio.Event()

    def play(self, scenario: scenarios.Scenario, *, seed: int = 0) -> None:
        if not self.door.reads_http and any(
            isinstance(rule.fault, scenarios.Answer) for rule in scenario.rules
        ):
            raise ValueError(f"cannot answer on {self.door.link}: no HTTP is read there")
        self._playing = scenarios.Play(scenario, seed)

    def heal(self) -> None:
        """No more harm from now on; connections that stall are closed."""
        self._playing = scenarios.Play(scenarios.CALM, 0)
        self._healed.set()
        self._healed = asyncio.Event()

    async def serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        async with tasks.Tasks() as group:
            while True:
                taken, _ = await loop.sock_accept(listener)
                group.start(self.door.link, self._serve_one(taken))

    async def _serve_one(self, taken: socket.socket) -> None:
        self.connections += 1
        client = self._name_client(taken)
        touched = not self.door.clients or client in self.door.clients
        tls = self.door.tls if touched else None
        try:
            near = await _Stream.of(taken, tls.near if tls else None, is_server=True)
        except (OSError, ssl.SSLError):
            taken.close()
            return
        async with contextlib.AsyncExitStack() as open_streams:
            open_streams.push_async_callback(near.close)
            # A side that went away is what happens on lines; the other side is closed with it.
            with contextlib.suppress(OSError, EOFError, _CutError, TimeoutError):
                if not touched:
                    await _tunnel(near, await self._connect(open_streams, None))
                elif self.door.reads_http:
                    await self._requests(near, client, open_streams)
                else:
                    await self._connection(near, client, open_streams)

    async def _connect(self, open_streams: contextlib.AsyncExitStack, tls: Tls | None) -> _Stream:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connected = await _connect(self.door.upstream)
            far = await _Stream.of(
                connected,
                tls.far if tls else None,
                is_server=False,
                server_name=tls.server_name if tls else "",
            )
        open_streams.push_async_callback(far.close)
        return far

    def _decide(self, exchange: scenarios.Exchange) -> scenarios.Fault | None:
        fault = self._playing.decide(exchange)
        if fault is not None:
            self.log.append(Entry(time.time(), exchange, fault))
        return fault

    async def _stall(self) -> None:
        await self._healed.wait()
        raise _CutError

    async def _connection(self, near: _Stream, client: str, open_streams: contextlib.AsyncExitStack) -> None:
        """A connection whose bytes are not understood: the first bytes that come back are its answer."""
        fault = self._decide(scenarios.Exchange(self.door.link, client))
        await self._before(fault, near)
        far = await self._connect(open_streams, self.door.tls)
        match fault:
            case scenarios.Stall() | scenarios.Cut():
                async with tasks.background("request", _pump(near, far)):
                    _ = await far.reader.read(PIECE_BYTES)
                    await self._after(fault, near)
            case scenarios.Truncate():
                async with tasks.background("request", _pump(near, far)):
                    await _pass_bytes(far, near, _Budget(fault.at_byte))
                    near.end(reset=fault.reset)
            case _:
                await _tunnel(near, far)

    async def _requests(self, near: _Stream, client: str, open_streams: contextlib.AsyncExitStack) -> None:
        """Request after request, on one connection to the server as there is one from the client."""
        far: _Stream | None = None
        while True:
            head = await _read_head(near.reader)
            form = await near.reader.readexactly(head.form_length())
            exchange = scenarios.Exchange(
                self.door.link, client, head.words[0], head.words[1], operation_of(form)
            )
            fault = self._decide(exchange)
            await self._before(fault, near)
            if isinstance(fault, scenarios.Answer) and fault.when is scenarios.When.BEFORE:
                async for _ in _body(near.reader, head.left_length()):
                    pass
                await _answer(near, fault)
                continue
            far = far or await self._connect(open_streams, self.door.tls)
            far.writer.write(head.raw + form)
            async for piece in _body(near.reader, head.left_length()):
                await far.send(piece)
            answer = await self._read_answer_head(far, near)
            await self._after(fault, near)
            if isinstance(fault, scenarios.Answer):
                await _answer(near, fault)
                raise _CutError
            budget = _Budget(fault.at_byte if isinstance(fault, scenarios.Truncate) else None)
            try:
                await budget.send(near, answer.raw)
                if answer.status == 101:
                    await _tunnel(near, far)
                    return
                async for piece in _body(far.reader, answer.answer_length(head.words[0])):
                    await budget.send(near, piece)
            except _CutError:
                near.end(reset=isinstance(fault, scenarios.Truncate) and fault.reset)
                raise
            if answer.ends_connection:
                return

    async def _read_answer_head(self, far: _Stream, near: _Stream) -> _Head:
        while True:
            answer = await _read_head(far.reader)
            if answer.status == 101 or answer.status >= 200:
                return answer
            await near.send(answer.raw)

    async def _before(self, fault: scenarios.Fault | None, near: _Stream) -> None:
        match fault:
            case scenarios.Delay():
                await asyncio.sleep(fault.seconds)
            case scenarios.Stall(when=scenarios.When.BEFORE):
                await self._stall()
            case scenarios.Cut(when=scenarios.When.BEFORE):
                near.end(reset=fault.reset)
                raise _CutError
            case _:
                pass

    async def _after(self, fault: scenarios.Fault | None, near: _Stream) -> None:
        match fault:
            case scenarios.Stall(when=scenarios.When.AFTER):
                await self._stall()
            case scenarios.Cut(when=scenarios.When.AFTER):
                near.end(reset=fault.reset)
                raise _CutError
            case _:
                pass


class _Stream:
    """One end of a connection."""

    def __init__(self, taken: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._socket = taken
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(
        cls, taken: socket.socket, tls: ssl.SSLContext | None, *, is_server: bool, server_name: str = ""
    ) -> _Stream:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=HEAD_LIMIT_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        if is_server:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, taken, ssl=tls)
        else:
            transport, _ = await loop.create_connection(
                lambda: protocol, sock=taken, ssl=tls, server_hostname=server_name if tls else None
            )
        return cls(taken, reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def send(self, piece: bytes) -> None:
        self.writer.write(piece)
        await self.writer.drain()

    def end(self, *, reset: bool) -> None:
        """Close now; with `reset` what was not sent yet is dropped and a TCP peer hears RST."""
        if reset:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self.writer.wait_closed()
        # A peer that reads nothing any more would hold the rest for ever.
        self.writer.transport.abort()


async def _connect(where: Tcp | Unix) -> socket.socket:
    family = socket.AF_UNIX if isinstance(where, Unix) else socket.AF_INET
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        if isinstance(where, Tcp) and where.mark:
            connected.setsockopt(socket.SOL_SOCKET, SO_MARK, where.mark)
        address = str(where.path) if isinstance(where, Unix) else (where.host, where.port)
        await asyncio.get_running_loop().sock_connect(connected, address)
    except BaseException:
        connected.close()
        raise
    return connected


class _Budget:
    """Sends on no more than so many bytes, then raises _CutError."""

    def __init__(self, left: int | None) -> None:
        self._left = left

    async def send(self, target: _Stream, piece: bytes) -> None:
        if self._left is None:
            await target.send(piece)
            return
        await target.send(piece[: self._left])
        self._left -= len(piece)
        if self._left <= 0:
            raise _CutError


async def _pass_bytes(source: _Stream, target: _Stream, budget: _Budget) -> None:
    """Until its end, or the budget's."""
    with contextlib.suppress(_CutError):
        while piece := await source.reader.read(PIECE_BYTES):
            await budget.send(target, piece)


async def _pump(source: _Stream, target: _Stream) -> None:
    """Until the end of the source, which is passed on; one that broke ends both sides."""
    try:
        await _pass_bytes(source, target, _Budget(None))
    except OSError:
        source.writer.transport.abort()
        target.writer.transport.abort()
        return
    if target.writer.is_closing():
        return
    if target.writer.can_write_eof():
        target.writer.write_eof()
    else:
        # TLS here has no half-closed state.
        target.writer.close()


async def _tunnel(near: _Stream, far: _Stream) -> None:
    _ = await tasks.wait_all([_pump(near, far), _pump(far, near)], name="tunnel")


@dataclasses.dataclass(frozen=True)
class _Head:
    """The first lines of a request or an answer."""

    raw: bytes
    words: tuple[str, ...]
    fields: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.words[1])

    @property
    def ends_connection(self) -> bool:
        return self.fields.get("connection", "").lower() == "close" or self.words[0] == "HTTP/1.0"

    def form_length(self) -> int:
        """Bytes of the body that are read before it is decided: those that name the operation."""
        length = int(self.fields.get("content-length", 0))
        is_form = self.fields.get("content-type", "").startswith("application/x-www-form-urlencoded")
        return length if is_form and length <= FORM_LIMIT_BYTES else 0

    def left_length(self) -> int | None:
        """Bytes of the request's body after that; None if it comes in chunks."""
        return None if self._is_chunked else int(self.fields.get("content-length", 0)) - self.form_length()

    def answer_length(self, method: str) -> int | None:
        """The same; -1 if it goes on until the connection ends."""
        if method == "HEAD" or self.status in BODILESS:
            return 0
        return None if self._is_chunked else int(self.fields.get("content-length", -1))

    @property
    def _is_chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "").lower()


def parse_head(raw: bytes) -> _Head:
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    return _Head(raw, tuple(first.split(" ", 2)), fields)


def operation_of(form: bytes) -> str:
    """The Action of a signed call; nothing else of a body is kept, which may hold secrets."""
    found = re.search(rb"(?:^|&)Action=(\w+)", form)
    return found.group(1).decode() if found else ""


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    return parse_head(await reader.readuntil(b"\r\n\r\n"))


async def _body(reader: asyncio.StreamReader, length: int | None) -> AsyncIterator[bytes]:
    """The body as it is on the wire, in pieces as they come."""
    if length is None:
        async for piece in _chunks(reader):
            yield piece
        return
    left = length
    while left != 0 and (piece := await reader.read(PIECE_BYTES if left < 0 else min(left, PIECE_BYTES))):
        left -= len(piece) if left > 0 else 0
        yield piece
    if left > 0:
        raise EOFError


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    size = -1
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        yield line
        size = int(line.split(b";")[0], 16)
        left = size + 2 if size else 0
        while left:
            piece = await reader.read(min(left, PIECE_BYTES))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece
    while True:
        trailer = await reader.readuntil(b"\r\n")
        yield trailer
        if trailer == b"\r\n":
            return


async def _answer(near: _Stream, answer: scenarios.Answer) -> None:
    length = answer.padding_bytes + len(answer.body)
    lines = [
        f"HTTP/1.1 {answer.status} Fault",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {length}",
        *([f"Retry-After: {answer.retry_after}"] if answer.retry_after else []),
        *(["Connection: close"] if answer.when is scenarios.When.AFTER else []),
    ]
    await near.send("\r\n".join([*lines, "", ""]).encode())
    left = answer.padding_bytes
    while left:
        piece = b" " * min(left, PIECE_BYTES)
        left -= len(piece)
        await near.send(piece)
    await near.send(answer.body)
