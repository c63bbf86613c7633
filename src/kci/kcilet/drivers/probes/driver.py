"""The port `Probes`: each kind of check within its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from kci.kcilet import ports
from kci.kcilet.drivers.probes import dialling, health, http
from kci.kit import netns


class RunCommand(Protocol):
    """The runtime driver's. TimeoutError if the command has not ended by then."""

    async def __call__(
        self, container_id: ports.ContainerId, command: tuple[str, ...], *, timeout_s: float
    ) -> ports.CommandResult: ...


class MachineProbes:
    """`open_network` finds the network namespace of a sandbox."""

    def __init__(
        self,
        *,
        run_command: RunCommand,
        open_network: Callable[[ports.SandboxId], Awaitable[netns.Namespace]],
    ) -> None:
        self._run_command = run_command
        self._networks = dialling.Networks(open_network)
        self._getter = http.Getter(self._networks)

    async def check(self, check: ports.Check, *, timeout_s: float) -> ports.CheckResult:
        if isinstance(check, ports.ExecCheck):
            return await self._run(check, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reach(check)
        except TimeoutError:
            return ports.CheckResult(False, _too_late(check, timeout_s))

    def leave(self, sandbox_id: ports.SandboxId) -> None:
        self._networks.leave(sandbox_id)

    async def _run(self, check: ports.ExecCheck, timeout_s: float) -> ports.CheckResult:
        try:
            result = await self._run_command(check.container_id, check.command, timeout_s=timeout_s)
        except TimeoutError:
            text = f'command timed out: "{" ".join(check.command)}" timed out after {timeout_s:g}s'
            return ports.CheckResult(False, text)
        if result.exit_code == 0:
            return ports.CheckResult(True)
        return ports.CheckResult(False, result.output.decode(errors="replace"))

    async def _reach(self, check: ports.HttpCheck | ports.TcpCheck | ports.GrpcCheck) -> ports.CheckResult:
        if isinstance(check, ports.HttpCheck):
            return await self._getter.get(check)
        try:
            connection = await self._networks.dial(check.sandbox_id, check.host, check.port)
        except TimeoutError:
            # The kernel's own, which is an OSError as well: too late all the same.
            raise
        except OSError as error:
            return ports.CheckResult(False, _unreached(check, dialling.words(error, check.host, check.port)))
        if isinstance(check, ports.GrpcCheck):
            place = dialling.place(check.host, check.port)
            return await health.ask(connection, place, check.service)
        connection.close()
        return ports.CheckResult(True)


def _unreached(check: ports.TcpCheck | ports.GrpcCheck, reason: str) -> str:
    if isinstance(check, ports.TcpCheck):
        return reason
    place = dialling.place(check.host, check.port)
    return f'error: failed to connect service at "{place}": {reason}'


def _too_late(check: ports.HttpCheck | ports.TcpCheck | ports.GrpcCheck, timeout_s: float) -> str:
    match check:
        case ports.HttpCheck():
            return f'Get "{http.url_of(check)}": context deadline exceeded (no answer within {timeout_s:g}s)'
        case ports.TcpCheck():
            return f"dial tcp {dialling.place(check.host, check.port)}: i/o timeout"
        case ports.GrpcCheck():
            return f"timeout: health rpc did not complete within {timeout_s:g}s"
