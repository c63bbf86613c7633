"""The port `Streams`: one object for the server, one module for each subject."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from kci.kcilet import ports
from kci.kcilet.drivers.streams import connections, inotify, journal, logs, namespaces, sessions
from kci.kcilet.drivers.streams import exec as execs
from kci.kit import clock as clocks
from kci.kit import netns, tasks
from kci.link import types as link


class MachineStreams:
    """`exec_url` and `attach_url` say where the runtime has the streams of a command and of a container;
    `is_written` says whether a container still writes a log file. All are the runtime driver's. In
    `commands_dir`, which is ours alone, it is noted which commands run.
    """

    def __init__(
        self,
        *,
        exec_url: Callable[[ports.ContainerId, link.ExecOptions], Awaitable[str]],
        attach_url: Callable[[ports.ContainerId, link.AttachOptions], Awaitable[str]],
        is_written: Callable[[pathlib.Path], Awaitable[bool]],
        clock: clocks.Clock,
        commands_dir: pathlib.Path,
    ) -> None:
        self._exec_url = exec_url
        self._attach_url = attach_url
        self._is_written = is_written
        self._clock = clock
        self._sessions = sessions.Sessions(journal.Journal(commands_dir))
        self._namespaces = namespaces.Namespaces()
        self._connections = connections.Connections(self._namespaces)
        self._watcher = inotify.Watcher()

    async def exec(
        self, container_id: ports.ContainerId, options: link.ExecOptions, peer: ports.StreamPeer
    ) -> None:
        async with self._sessions.starting(container_id) as session:
            await execs.run(lambda: self._exec_url(container_id, options), options, peer, on_left=session.end)

    async def end_left_commands(self) -> None:
        """End what a run of ours that was killed has started."""
        await self._sessions.end_left()

    async def attach(
        self, container_id: ports.ContainerId, options: link.AttachOptions, peer: ports.StreamPeer
    ) -> None:
        await execs.run(lambda: self._attach_url(container_id, options), options, peer, on_left=_leave_alone)

    async def forward(self, sandbox_id: ports.SandboxId, port: int, peer: ports.StreamPeer) -> None:
        await self._connections.run(sandbox_id, port, peer)

    async def open_network(self, sandbox_id: ports.SandboxId) -> netns.Namespace:
        """The network namespace of a sandbox; NotFoundError if it has no process."""
        return await tasks.in_thread(self._namespaces.open, sandbox_id)

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
            watcher=self._watcher,
            now=self._clock.now(),
        )


async def _leave_alone() -> None:
    """A container lives on without its clients."""
