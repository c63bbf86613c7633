"""SPDY/3.1 framing, client's and server's side: pure bytes in, events out, no I/O.

A stream, as one side sees it (the other direction is a second machine of the same kind):

    opened ─► DataReceived … ─► StreamEnded (the peer sends no more) ─► ended by us as well: forgotten
                           └──► StreamReset (by the peer), or reset by us: forgotten at once

What comes late for a forgotten stream is dropped; what comes for one that never was is an error.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from kci.kit.spdy import headers as blocks
from kci.kit.spdy.errors import SpdyError

VERSION = 3
MAX_DATA_BYTES = 1 << 20
MAX_CONTROL_BYTES = 64 << 10
MAX_SETTINGS = 64
# Streams that a client may have open at once on one connection: 128 forwarded TCP connections.
MAX_STREAMS = 256
# Data is sent in pieces of this size, so that two streams can take turns.
SEND_BYTES = 32 << 10

_FIN = 0x01
_ID_MASK = 0x7FFFFFFF


class _Type(enum.IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8


class ResetCode(enum.IntEnum):
    """Why a stream is given up; the ones that we send."""

    PROTOCOL_ERROR = 1
    REFUSED_STREAM = 3
    CANCEL = 5
    INTERNAL_ERROR = 6


@dataclasses.dataclass(frozen=True)
class StreamOpened:
    """To be answered with `Server.accept_stream` or `reset_stream`."""

    stream_id: int
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class StreamRefused:
    """The client has too many open already. To be answered with `reset_stream`; nothing of it is kept."""

    stream_id: int


@dataclasses.dataclass(frozen=True)
class StreamAccepted:
    """The peer answered our SYN_STREAM."""

    stream_id: int
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class DataReceived:
    stream_id: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class StreamEnded:
    """The peer sends nothing more on this stream; ours may go on."""

    stream_id: int


@dataclasses.dataclass(frozen=True)
class StreamReset:
    stream_id: int
    code: int


@dataclasses.dataclass(frozen=True)
class PingReceived:
    """To be answered with `pong`."""

    ping_id: int


@dataclasses.dataclass(frozen=True)
class GoAway:
    """The peer opens and accepts no more streams."""

    code: int


_Common = DataReceived | StreamEnded | StreamReset | PingReceived | GoAway
# What a client gets, and what a server.
Event = StreamAccepted | _Common
ServerEvent = StreamOpened | StreamRefused | _Common

# What only one side gets.
T = TypeVar("T")


class _Side(Generic[T]):
    """What both sides of a connection do alike.

    The methods that send return bytes, `receive` returns events. The header compression is one context
    per direction for the connection's whole life, so what is returned must be sent, in order.
    """

    # Whose pings are the peer's: a client's ids are odd, a server's even.
    _peer_ping_parity: int

    def __init__(self) -> None:
        self._packer = blocks.Packer()
        self._unpacker = blocks.Unpacker()
        self._buffer = bytearray()
        # The newest stream that there was; all are opened by the client, with odd ids.
        self._last_stream_id = 0
        # Streams on which the peer may still send, and those on which we may.
        self._receiving: set[int] = set()
        self._sending: set[int] = set()

    @staticmethod
    def send_data(stream_id: int, data: bytes) -> Iterator[bytes]:
        """Data frames, each small enough to write before the next."""
        for start in range(0, len(data), SEND_BYTES):
            piece = data[start : start + SEND_BYTES]
            yield struct.pack(">II", stream_id, len(piece)) + piece

    def end_stream(self, stream_id: int) -> bytes:
        """Half-close: we send nothing more on this stream."""
        self._sending.discard(stream_id)
        return struct.pack(">II", stream_id, _FIN << 24)

    def reset_stream(self, stream_id: int, code: ResetCode = ResetCode.CANCEL) -> bytes:
        self._forget(stream_id)
        return _control(_Type.RST_STREAM, struct.pack(">II", stream_id, code))

    @staticmethod
    def pong(ping_id: int) -> bytes:
        return _control(_Type.PING, struct.pack(">I", ping_id))

    def go_away(self) -> bytes:
        """We open and accept no more streams; the peer learns which was the last that we saw of its own."""
        return _control(_Type.GOAWAY, struct.pack(">II", self._last_of_peer(), 0))

    def receive(self, data: bytes | memoryview) -> list[T | _Common]:
        """Events of the frames that are whole now; SpdyError if the peer broke the protocol.

        Give it small pieces: there may be an event for every 8 bytes.
        """
        self._buffer += data
        events: list[T | _Common] = []
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            is_control = bool(first >> 31)
            if length > (MAX_CONTROL_BYTES if is_control else MAX_DATA_BYTES):
                raise SpdyError(f"cannot take a SPDY frame of {length} bytes: it is over the limit")
            if len(self._buffer) < 8 + length:
                break
            with memoryview(self._buffer) as view:
                payload = bytes(view[8 : 8 + length])
            del self._buffer[: 8 + length]
            if is_control:
                events += self._on_control(first, flags, payload)
            else:
                events += self._on_data(first, flags, payload)
        return events

    # ---- what differs

    def _last_of_peer(self) -> int:
        raise NotImplementedError

    def _on_opening(self, stream_id: int, headers: Mapping[str, str]) -> T:
        raise NotImplementedError

    def _on_reply(self, stream_id: int, headers: Mapping[str, str]) -> T:
        raise NotImplementedError

    # ---- frames

    def _on_data(self, stream_id: int, flags: int, payload: bytes) -> Iterator[_Common]:
        self._check_existed(stream_id)
        # Late data of a stream that was given up is no error; it is dropped.
        if stream_id not in self._receiving:
            return
        if payload:
            yield DataReceived(stream_id, payload)
        yield from self._on_flags(stream_id, flags)

    def _on_flags(self, stream_id: int, flags: int) -> Iterator[_Common]:
        if flags & _FIN and stream_id in self._receiving:
            self._receiving.discard(stream_id)
            yield StreamEnded(stream_id)

    def _on_control(self, first: int, flags: int, payload: bytes) -> Iterator[T | _Common]:
        if (first >> 16) & 0x7FFF != VERSION:
            raise SpdyError("cannot talk to this peer: it speaks another version of SPDY")
        try:
            match first & 0xFFFF:
                case _Type.SYN_STREAM:
                    stream_id, _, _ = struct.unpack_from(">IIH", payload)
                    yield self._on_opening(stream_id & _ID_MASK, self._unpacker.unpack(payload[10:]))
                    yield from self._on_flags(stream_id & _ID_MASK, flags)
                case _Type.SYN_REPLY | _Type.HEADERS as kind:
                    (stream_id,) = struct.unpack_from(">I", payload)
                    self._check_existed(stream_id & _ID_MASK)
                    # Also what nobody wants is unpacked: the compression goes on behind it.
                    headers = self._unpacker.unpack(payload[4:])
                    if stream_id & _ID_MASK in self._receiving:
                        if kind == _Type.SYN_REPLY:
                            yield self._on_reply(stream_id & _ID_MASK, headers)
                        yield from self._on_flags(stream_id & _ID_MASK, flags)
                case _Type.RST_STREAM:
                    stream_id, code = struct.unpack(">II", payload)
                    yield from self._on_reset(stream_id & _ID_MASK, code)
                case _Type.SETTINGS:
                    _check_settings(payload)
                case _Type.PING:
                    (ping_id,) = struct.unpack(">I", payload)
                    # The others would answer pings of ours, and we send none.
                    if ping_id % 2 == self._peer_ping_parity:
                        yield PingReceived(ping_id)
                case _Type.GOAWAY:
                    _, code = struct.unpack(">II", payload)
                    yield GoAway(code)
                case _:
                    # Window updates among them: see the package's docstring.
                    return
        except struct.error as error:
            raise SpdyError("cannot read a SPDY control frame: it has the wrong length") from error

    def _on_reset(self, stream_id: int, code: int) -> Iterator[_Common]:
        if stream_id in self._receiving or stream_id in self._sending:
            self._forget(stream_id)
            yield StreamReset(stream_id, code)

    def _check_existed(self, stream_id: int) -> None:
        if stream_id % 2 == 0 or stream_id > self._last_stream_id:
            raise SpdyError(f"cannot take a SPDY frame of stream {stream_id}: nobody opened it")

    def _start(self, stream_id: int) -> None:
        self._last_stream_id = stream_id
        self._receiving.add(stream_id)
        self._sending.add(stream_id)

    def _forget(self, stream_id: int) -> None:
        self._receiving.discard(stream_id)
        self._sending.discard(stream_id)


class Client(_Side[StreamAccepted]):
    """The side that opens streams."""

    _peer_ping_parity = 0

    def open_stream(self, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """A new stream's id and its SYN_STREAM."""
        stream_id = self._last_stream_id + 2 if self._last_stream_id else 1
        self._start(stream_id)
        payload = struct.pack(">IIH", stream_id, 0, 0) + self._packer.pack(headers)
        return stream_id, _control(_Type.SYN_STREAM, payload)

    def _last_of_peer(self) -> int:
        return 0

    def _on_opening(self, stream_id: int, _headers: Mapping[str, str]) -> StreamAccepted:
        raise SpdyError(f"cannot take stream {stream_id}: servers open none here")

    def _on_reply(self, stream_id: int, headers: Mapping[str, str]) -> StreamAccepted:
        return StreamAccepted(stream_id, headers)


class Server(_Side[StreamOpened | StreamRefused]):
    """The side that accepts streams."""

    _peer_ping_parity = 1

    def __init__(self, *, max_streams: int = MAX_STREAMS) -> None:
        super().__init__()
        self._max_streams = max_streams

    @property
    def open_streams(self) -> int:
        return len(self._receiving | self._sending)

    def accept_stream(self, stream_id: int) -> bytes:
        """The SYN_REPLY; clients wait for it before they send data."""
        return _control(_Type.SYN_REPLY, struct.pack(">I", stream_id) + self._packer.pack({}))

    def _last_of_peer(self) -> int:
        return self._last_stream_id

    def _on_opening(self, stream_id: int, headers: Mapping[str, str]) -> StreamOpened | StreamRefused:
        if stream_id % 2 == 0 or stream_id <= self._last_stream_id:
            raise SpdyError(f"cannot open SPDY stream {stream_id}: a client's ids are odd, and only rise")
        if self.open_streams >= self._max_streams:
            self._last_stream_id = stream_id
            return StreamRefused(stream_id)
        self._start(stream_id)
        return StreamOpened(stream_id, headers)

    def _on_reply(self, stream_id: int, _headers: Mapping[str, str]) -> StreamOpened | StreamRefused:
        raise SpdyError(f"cannot take an answer on stream {stream_id}: we opened none")


def _control(kind: _Type, payload: bytes) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, len(payload)) + payload


def _check_settings(payload: bytes) -> None:
    """Nothing in them is ours to heed, but what they say of their own size must be true."""
    (count,) = struct.unpack_from(">I", payload)
    if count > MAX_SETTINGS or len(payload) != 4 + 8 * count:
        raise SpdyError(f"cannot take {count} SPDY settings in {len(payload)} bytes")
