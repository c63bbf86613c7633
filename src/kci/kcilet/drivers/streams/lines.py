"""The CRI's log format: `<RFC3339Nano> <stdout|stderr> <P|F>[:tags] <content>`. Pure.

Ported from k8s.io/cri-client pkg/logs/logs.go (0.36). P is a part of a line that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from kci.kit import clock

Place = TypeVar("Place")

_STREAMS = (b"stdout", b"stderr")
# A runtime cuts lines at 16 KiB; whatever is longer than this is no line of a runtime.
MAX_LINE_BYTES = 1 << 20


class Decoder:
    """Turns a log file's bytes, in pieces of any size, into what `kubectl logs` shows."""

    def __init__(
        self, *, since_ns: int = 0, timestamps: bool = False, limit_bytes: int | None = None
    ) -> None:
        self._since_ns = since_ns
        self._timestamps = timestamps
        self._remaining = limit_bytes
        self._rest = b""
        self._at_line_start = True

    @property
    def is_done(self) -> bool:
        """The limit is reached."""
        return self._remaining is not None and self._remaining <= 0

    def feed(self, data: bytes) -> bytes:
        *lines, rest = (self._rest + data).split(b"\n")
        # Too long for a line: dropped, so that it cannot fill the memory; its end fails to parse.
        self._rest = rest if len(rest) <= MAX_LINE_BYTES else rest[:1]
        return self._cut(b"".join(self._decode(line) for line in lines))

    def end(self) -> bytes:
        """A last line that was not ended."""
        rest, self._rest = self._rest, b""
        return self._cut(self._decode(rest)) if rest else b""

    def _decode(self, line: bytes) -> bytes:
        parts = _split(line)
        if parts is None:
            return b""
        time, tags, content = parts
        shown = b""
        if self._since_ns or self._timestamps:
            try:
                moment_ns = clock.parse_rfc3339_ns(time.decode("ascii", "replace"))
            except ValueError:
                return b""
            if moment_ns < self._since_ns:
                return b""
            if self._timestamps and self._at_line_start:
                shown = _to_fixed(time) + b" "
        is_whole = not _is_partial(tags)
        self._at_line_start = is_whole
        return shown + content + (b"\n" if is_whole else b"")

    def _cut(self, text: bytes) -> bytes:
        if self._remaining is None:
            return text
        text = text[: max(0, self._remaining)]
        self._remaining -= len(text)
        return text


def lines_back(
    read: Callable[[int, int], bytes], end: int, *, block_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from the last line backwards, reading (`size, position`) no more than is asked for."""
    position, rest = end, b""
    while position > 0:
        size = min(block_bytes, position)
        position -= size
        rest = read(size, position) + rest
        first, *whole = rest.split(b"\n")
        offset = position + len(rest)
        for line in reversed(whole):
            offset -= len(line) + 1
            if line:
                yield offset + 1, line
        rest = first[:MAX_LINE_BYTES]
    if rest:
        yield 0, rest


def count_back(lines: Iterator[tuple[Place, bytes]], wanted: int, end: Place) -> Place:
    """Where the last `wanted` lines begin, given (place, line) from the last one backwards.

    Parts belong to the line that they make up, so a long line counts once.
    """
    start, found = end, 0
    for place, line in lines:
        parts = _split(line)
        if parts is None:
            continue
        # What comes after the last whole line is a line of its own, not ended yet.
        if start == end or not _is_partial(parts[1]):
            if found == wanted:
                return start
            found += 1
        start = place
    return start


def _split(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Time, tags and content; None for what no runtime wrote."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in _STREAMS:
        return None
    return parts[0], parts[2], parts[3]


def _is_partial(tags: bytes) -> bool:
    return tags.split(b":", 1)[0] == b"P"


def _to_fixed(time: bytes) -> bytes:
    """Always nine digits, as the kubelet shows them."""
    match = clock.RFC3339.fullmatch(time.decode("ascii"))
    assert match is not None
    seconds, fraction, zone = match.groups()
    return f"{seconds}.{(fraction or '').ljust(9, '0')}{zone}".encode()
