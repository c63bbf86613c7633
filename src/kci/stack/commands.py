"""A part's command line and how one sees that it is ready, as plain values."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class HttpProbe:
    """A GET that must answer 200. `ca` pins the server, the client certificate shows who asks."""

    url: str
    ca: pathlib.Path | None = None
    certificate: pathlib.Path | None = None
    key: pathlib.Path | None = None
    # Ask through this unix socket instead of the URL's host.
    socket: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class TcpProbe:
    """A port that takes connections."""

    host: str
    port: int


@dataclasses.dataclass(frozen=True)
class SocketProbe:
    """A unix socket that takes connections."""

    path: pathlib.Path


Probe = HttpProbe | TcpProbe | SocketProbe


@dataclasses.dataclass(frozen=True)
class Command:
    """What to run. Secrets stand in `env` or in files, never in `argv`, which everybody can read."""

    argv: tuple[str, ...]
    # None: it is awaited to its end.
    probe: Probe | None
    version: str
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0
    # Addresses that must be free before it starts: (host, port, what else can be done).
    listens: tuple[tuple[str, int, str], ...] = ()
