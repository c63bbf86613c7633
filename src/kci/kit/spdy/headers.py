"""SPDY's header blocks: names and values, sized, in one zlib stream per direction.

The compression goes on for a connection's whole life, so every block must be read, in order, even
one of a stream that nobody wants. What a block may unpack to is limited before it is unpacked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from kci.kit.spdy import errors

MAX_HEADERS = 64
MAX_BLOCK_BYTES = 64 << 10

# The dictionary fits into a window of 2 KiB, and repeated headers do too: a compressor of zlib's
# usual size would be 256 KiB for each connection.
_WINDOW_BITS = 11
_MEMORY_LEVEL = 4


class Packer:
    """One direction's header blocks, on their way out."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(
            wbits=_WINDOW_BITS, memLevel=_MEMORY_LEVEL, zdict=HEADER_DICTIONARY
        )

    def pack(self, headers: Mapping[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            block += _sized(name.lower().encode()) + _sized(value.encode())
        return self._compressor.compress(block) + self._compressor.flush(zlib.Z_SYNC_FLUSH)


class Unpacker:
    """One direction's header blocks, as they come in."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(zdict=HEADER_DICTIONARY)

    def unpack(self, block: bytes) -> dict[str, str]:
        """SpdyError if it is damaged, or would unpack to more than is allowed."""
        try:
            raw = self._decompressor.decompress(block, MAX_BLOCK_BYTES)
        except zlib.error as error:
            raise errors.SpdyError("cannot read a SPDY header block: it is damaged") from error
        if self._decompressor.eof:
            # Whatever came afterwards would be kept by zlib, unread and without a limit.
            raise errors.SpdyError("cannot read a SPDY header block: its compression has ended")
        # At the limit there may be more inside the decompressor even if it took all of the input.
        if len(raw) >= MAX_BLOCK_BYTES:
            raise errors.SpdyError("cannot take a SPDY header block: it is over the limit when unpacked")
        try:
            return _parse(raw)
        except struct.error as error:
            raise errors.SpdyError("cannot read a SPDY header block: it is too short") from error


def _parse(raw: bytes) -> dict[str, str]:
    (count,) = struct.unpack_from(">I", raw)
    if count > MAX_HEADERS:
        raise errors.SpdyError(f"cannot take {count} SPDY headers: that is over the limit")
    headers: dict[str, str] = {}
    position = 4
    for _ in range(count):
        name, position = _text(raw, position)
        value, position = _text(raw, position)
        if not name or name != name.lower() or name in headers:
            raise errors.SpdyError("cannot take a SPDY header: its name is empty, in capitals or given twice")
        headers[name] = value
    if position != len(raw):
        raise errors.SpdyError("cannot read a SPDY header block: there is more in it than it says")
    return headers


def _text(raw: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", raw, position)
    start, end = position + 4, position + 4 + length
    if end > len(raw):
        raise errors.SpdyError("cannot read a SPDY header: it is longer than its block")
    return raw[start:end].decode("utf-8", "replace"), end


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
