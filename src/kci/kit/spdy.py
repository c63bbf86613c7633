"""SPDY/3.1 framing for a client: pure bytes in, events out, no I/O.

Container runtimes carry exec streams in it. Only what such a peer speaks is here: streams that the
client opens, data, half-close, reset, ping and go-away. SETTINGS, WINDOW_UPDATE and unknown frames
are skipped unread: the peers (moby/spdystream) neither grant nor honour windows, so waiting for
credit after 64 KiB would hang; the connection's own back-pressure holds a fast sender instead.
Every length is checked before anything of that length is kept (CVE-2026-35469 and its kin).
Source: SPDY protocol draft 3.1; moby/spdystream v0.5.1 for what peers really send.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import zlib
from collections.abc import Iterator, Mapping

VERSION = 3
MAX_DATA_BYTES = 1 << 20
MAX_CONTROL_BYTES = 64 << 10
MAX_HEADERS = 64
MAX_HEADER_BLOCK_BYTES = 64 << 10
# Data is sent in pieces of this size, so that two streams can take turns.
SEND_BYTES = 32 << 10

_FIN = 0x01


class SpdyError(Exception):
    """The peer broke the protocol or a limit; the connection is to be closed."""


class _Type(enum.IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    PING = 6
    GOAWAY = 7
    HEADERS = 8


class ResetCode(enum.IntEnum):
    """Why a stream is given up; the ones a client needs."""

    PROTOCOL_ERROR = 1
    CANCEL = 5


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
    """To be answered with `Client.pong`."""

    ping_id: int


@dataclasses.dataclass(frozen=True)
class GoAway:
    """The peer opens and accepts no more streams."""

    code: int


Event = StreamAccepted | DataReceived | StreamEnded | StreamReset | PingReceived | GoAway


class Client:
    """One connection's state: the methods that send return bytes, `receive` returns events.

    The header compression is one context per direction for the connection's whole life, so what
    is returned must be sent, in order.
    """

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(level=9, zdict=HEADER_DICTIONARY)
        self._decompressor = zlib.decompressobj(zdict=HEADER_DICTIONARY)
        self._buffer = bytearray()
        self._next_stream_id = 1
        # Streams whose other side may still send.
        self._open: set[int] = set()

    def open_stream(self, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """A new stream's id and its SYN_STREAM."""
        stream_id = self._next_stream_id
        self._next_stream_id += 2
        self._open.add(stream_id)
        block = self._compressor.compress(_header_block(headers))
        block += self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return stream_id, _control(_Type.SYN_STREAM, struct.pack(">IIH", stream_id, 0, 0) + block)

    @staticmethod
    def send_data(stream_id: int, data: bytes) -> Iterator[bytes]:
        """Data frames, each small enough to write before the next."""
        for start in range(0, len(data), SEND_BYTES):
            piece = data[start : start + SEND_BYTES]
            yield struct.pack(">II", stream_id, len(piece)) + piece

    @staticmethod
    def end_stream(stream_id: int) -> bytes:
        """Half-close: we send nothing more on this stream."""
        return struct.pack(">II", stream_id, _FIN << 24)

    def reset_stream(self, stream_id: int, code: ResetCode = ResetCode.CANCEL) -> bytes:
        self._open.discard(stream_id)
        return _control(_Type.RST_STREAM, struct.pack(">II", stream_id, code))

    @staticmethod
    def pong(ping_id: int) -> bytes:
        return _control(_Type.PING, struct.pack(">I", ping_id))

    @staticmethod
    def go_away() -> bytes:
        return _control(_Type.GOAWAY, struct.pack(">II", 0, 0))

    def receive(self, data: bytes) -> list[Event]:
        """Events of the frames that are whole now; SpdyError if the peer broke the protocol."""
        self._buffer += data
        events: list[Event] = []
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            is_control = bool(first >> 31)
            if length > (MAX_CONTROL_BYTES if is_control else MAX_DATA_BYTES):
                raise SpdyError(f"cannot take a SPDY frame of {length} bytes: it is over the limit")
            if len(self._buffer) < 8 + length:
                break
            payload = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if is_control:
                events += self._on_control(first, flags, payload)
            else:
                events += self._on_data(first, flags, payload)
        return events

    def _on_data(self, stream_id: int, flags: int, payload: bytes) -> Iterator[Event]:
        # Late data of a stream that we gave up is no error; it is dropped.
        if stream_id not in self._open:
            return
        if payload:
            yield DataReceived(stream_id, payload)
        yield from self._on_flags(stream_id, flags)

    def _on_flags(self, stream_id: int, flags: int) -> Iterator[Event]:
        if flags & _FIN:
            self._open.discard(stream_id)
            yield StreamEnded(stream_id)

    def _on_control(self, first: int, flags: int, payload: bytes) -> Iterator[Event]:
        if (first >> 16) & 0x7FFF != VERSION:
            raise SpdyError("cannot talk to this peer: it speaks another version of SPDY")
        try:
            match first & 0xFFFF:
                case _Type.SYN_REPLY | _Type.HEADERS as kind:
                    (stream_id,) = struct.unpack_from(">I", payload)
                    headers = self._read_headers(payload[4:])
                    if kind == _Type.SYN_REPLY and stream_id in self._open:
                        yield StreamAccepted(stream_id, headers)
                    if stream_id in self._open:
                        yield from self._on_flags(stream_id, flags)
                case _Type.RST_STREAM:
                    stream_id, code = struct.unpack(">II", payload)
                    if stream_id in self._open:
                        self._open.discard(stream_id)
                        yield StreamReset(stream_id, code)
                case _Type.PING:
                    (ping_id,) = struct.unpack(">I", payload)
                    # Even ids are the server's; odd ones would answer pings of ours.
                    if ping_id % 2 == 0:
                        yield PingReceived(ping_id)
                case _Type.GOAWAY:
                    _, code = struct.unpack(">II", payload)
                    yield GoAway(code)
                case _Type.SYN_STREAM:
                    raise SpdyError("cannot take a stream that the server opens")
                case _:
                    return
        except struct.error as error:
            raise SpdyError("cannot read a SPDY control frame: it is too short") from error

    def _read_headers(self, block: bytes) -> dict[str, str]:
        try:
            raw = self._decompressor.decompress(block, MAX_HEADER_BLOCK_BYTES)
        except zlib.error as error:
            raise SpdyError("cannot read a SPDY header block: it is damaged") from error
        # At the limit there may be more inside the decompressor even if it took all of the input.
        if len(raw) >= MAX_HEADER_BLOCK_BYTES:
            raise SpdyError("cannot take a SPDY header block: it is over the limit when unpacked")
        return _parse_headers(raw)


def _parse_headers(raw: bytes) -> dict[str, str]:
    (count,) = struct.unpack_from(">I", raw)
    if count > MAX_HEADERS:
        raise SpdyError(f"cannot take {count} SPDY headers: that is over the limit")
    texts: list[str] = []
    position = 4
    for _ in range(2 * count):
        (length,) = struct.unpack_from(">I", raw, position)
        position += 4
        if length > len(raw) - position:
            raise SpdyError("cannot read a SPDY header: it is longer than its block")
        texts.append(raw[position : position + length].decode("utf-8", "replace"))
        position += length
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _control(kind: _Type, payload: bytes) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, len(payload)) + payload


def _header_block(headers: Mapping[str, str]) -> bytes:
    block = struct.pack(">I", len(headers))
    for name, value in headers.items():
        for text in (name.lower(), value):
            block += _sized(text.encode())
    return block


def _sized(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


# The dictionary that both sides start their header compression with (SPDY draft 3, 2.6.10.1):
# sized names and values, then common values as they are.
_SIZED_TEXTS = """
options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|
allow|authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|
content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|
if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|
proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|
user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|
keep-alive|origin
"""
_PLAIN_TEXTS = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
HEADER_DICTIONARY = (
    b"".join(_sized(text.encode()) for text in _SIZED_TEXTS.replace("\n", "").split("|")) + _PLAIN_TEXTS
)
