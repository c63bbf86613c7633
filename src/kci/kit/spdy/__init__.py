"""SPDY/3.1 as Kubernetes' streams use it: exec, attach and port-forward at runtimes and kubelets.

`codec` is the framing without I/O, `headers` its header blocks, `connection` a server's side at work.
Only what such peers speak is here: streams that the client opens, data, half-close, reset, ping and
go-away. SETTINGS, WINDOW_UPDATE and unknown frames are passed over: the peers (moby/spdystream) neither
grant nor honour windows, so waiting for credit after 64 KiB would hang; the connection's own
back-pressure holds a fast sender instead.
Every length is checked before anything of that length is kept (CVE-2026-35469 and its kin).
Source: SPDY protocol draft 3.1; moby/spdystream v0.5.1 for what peers really send.

May import: nothing of ours.
May touch: nothing but what carries its bytes (`Pipe`).
Must not: know what a stream is for.
"""

from __future__ import annotations

from kci.kit.spdy.codec import (
    MAX_CONTROL_BYTES,
    MAX_DATA_BYTES,
    MAX_SETTINGS,
    MAX_STREAMS,
    SEND_BYTES,
    Client,
    DataReceived,
    Event,
    GoAway,
    PingReceived,
    ResetCode,
    Server,
    ServerEvent,
    StreamAccepted,
    StreamEnded,
    StreamOpened,
    StreamRefused,
    StreamReset,
)
from kci.kit.spdy.connection import Pipe, ServerConnection
from kci.kit.spdy.errors import SpdyError
from kci.kit.spdy.headers import HEADER_DICTIONARY

__all__ = [
    "HEADER_DICTIONARY",
    "MAX_CONTROL_BYTES",
    "MAX_DATA_BYTES",
    "MAX_SETTINGS",
    "MAX_STREAMS",
    "SEND_BYTES",
    "Client",
    "DataReceived",
    "Event",
    "GoAway",
    "PingReceived",
    "Pipe",
    "ResetCode",
    "Server",
    "ServerConnection",
    "ServerEvent",
    "SpdyError",
    "StreamAccepted",
    "StreamEnded",
    "StreamOpened",
    "StreamRefused",
    "StreamReset",
]
