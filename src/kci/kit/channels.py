"""The channel protocol of exec and attach over WebSocket: pure framing, no I/O.

A binary message is one channel byte and the data. `v5.channel.k8s.io` adds the close message,
by which standard input can be half-closed; `v4.channel.k8s.io` cannot do that.
Source: kubernetes apimachinery pkg/util/remotecommand/constants.go and
client-go tools/remotecommand/websocket.go (1.36). Our own programs speak v5 to each other.
"""

from __future__ import annotations

import dataclasses
import enum
import urllib.parse
from collections.abc import Mapping

import msgspec

V5 = "v5.channel.k8s.io"
V4 = "v4.channel.k8s.io"
# Why a stream was not opened, in our own programs' answers: of a refused handshake clients see no body.
_REFUSAL = "Kci-Refusal"
_MAX_REFUSAL = 1024


def refusal_header(text: str) -> dict[str, str]:
    return {_REFUSAL: urllib.parse.quote(text[:_MAX_REFUSAL])}


def refusal_of(headers: Mapping[str, str] | None) -> str:
    """Empty if the other side said nothing of it."""
    text = urllib.parse.unquote((headers or {}).get(_REFUSAL, ""))
    return "".join(one for one in text if one.isprintable())[:_MAX_REFUSAL]


class Channel(enum.IntEnum):
    """What the first byte of a message says."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    STATUS = 3
    RESIZE = 4
    CLOSE = 255


@dataclasses.dataclass(frozen=True)
class Resize:
    """A terminal's size in characters."""

    width: int
    height: int


class _Size(msgspec.Struct):
    Width: int
    Height: int


class _Cause(msgspec.Struct, omit_defaults=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, omit_defaults=True):
    causes: list[_Cause] = msgspec.field(default_factory=list)


class _Status(msgspec.Struct, omit_defaults=True):
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    status: str = ""
    message: str = ""
    reason: str = ""
    details: _Details | None = None
    code: int = 0


def frame(channel: Channel, data: bytes = b"") -> bytes:
    """One message's bytes."""
    return bytes((channel,)) + data


def close_frame(channel: Channel) -> bytes:
    """v5: no more data comes on this channel."""
    return bytes((Channel.CLOSE, channel))


def resize_frame(size: Resize) -> bytes:
    return frame(Channel.RESIZE, msgspec.json.encode(_Size(Width=size.width, Height=size.height)))


def parse(message: bytes) -> tuple[Channel, bytes]:
    """Channel and data of a message; ValueError if it is empty or of an unknown channel."""
    if not message:
        raise ValueError("cannot read an empty stream message: the channel byte is missing")
    return Channel(message[0]), message[1:]


def parse_resize(data: bytes) -> Resize:
    """ValueError if the data is no terminal size."""
    try:
        size = msgspec.json.decode(data, type=_Size)
    except msgspec.DecodeError as error:
        raise ValueError(f"cannot read a terminal size: {error}") from error
    return Resize(width=max(0, min(size.Width, 0xFFFF)), height=max(0, min(size.Height, 0xFFFF)))


def exit_status(code: int) -> bytes:
    """The status message for a process that ended with this exit code (a metav1.Status)."""
    if code == 0:
        return msgspec.json.encode(_Status(status="Success"))
    return msgspec.json.encode(
        _Status(
            status="Failure",
            message=f"command terminated with non-zero exit code: command terminated with exit code {code}",
            reason="NonZeroExitCode",
            details=_Details(causes=[_Cause(reason="ExitCode", message=str(code))]),
        )
    )


def error_status(message: str) -> bytes:
    """The status message for a stream that could not be served."""
    return msgspec.json.encode(_Status(status="Failure", message=message, reason="InternalError", code=500))


def parse_status(data: bytes) -> tuple[int | None, str]:
    """Exit code and message of a status; the code is None if the command could not be run."""
    status = msgspec.json.decode(data, type=_Status)
    if status.status == "Success":
        return 0, ""
    for cause in status.details.causes if status.details else ():
        if cause.reason == "ExitCode":
            return int(cause.message), status.message
    return None, status.message
