"""The port `Streams`: one object for the workers, two subjects inside."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from kci.kcilet import ports
from kci.kcilet.drivers.streams import exec as execs
from kci.kcilet.drivers.streams import logs
from kci.kit import clock as clocks
from kci.link import types as link


class MachineStreams:
    """`exec_url` starts a command at the runtime and says where its streams are; `is_written` says
    whether a container still writes a log file. Both are the runtime driver's.
    """

    def __init__(
        self,
        *,
        exec_url: Callable[[ports.ContainerId, link.ExecOptions], Awaitable[str]],
        is_written: Callable[[pathlib.Path], Awaitable[bool]],
        clock: clocks.Clock,
    ) -> None:
        self._exec_url = exec_url
        self._is_written = is_written
        self._clock = clock

    async def exec(
        self, container_id: ports.ContainerId, options: link.ExecOptions, peer: ports.ExecPeer
    ) -> None:
        await execs.run(lambda: self._exec_url(container_id, options), options, peer)

    def log(
        self,
        log_directory: str,
        container_name: str,
        options: link.LogOptions,
        *,
        attempt: int | None = None,
    ) -> AsyncGenerator[bytes, None]:
        return logs.read(
            pathlib.Path(log_directory),
            container_name,
            attempt,
            options,
            is_written=self._is_written,
            now=self._clock.now(),
        )
