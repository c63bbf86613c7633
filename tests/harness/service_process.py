"""The KCI service as a process of its own, to be killed and started again over the same folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import sys
import time

import service_world

from kci.client import client as clients
from kci.client import credentials as sources
from kci.kit import crashpoints, environment

_START_S = 60.0
_SUBNET = "10.9.0.0/16"


class ServiceProcess:
    """`start` and `kill` may be called again and again. The folder holds the database, its log and its keys;
    the kcilet's socket is expected in it.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.database = folder / "kci.db"
        self.log = folder / "service.log"
        self.points = folder / "crash-points"
        self.port = _free_port()
        self.process: asyncio.subprocess.Process | None = None
        for name, content in (
            ("operator.env", "KCI_ACCESS_KEY=AKALICE\nKCI_SECRET_KEY=alice-secret\n"),
            ("key", service_world.KEY.hex()),
        ):
            (folder / name).write_text(content)
            (folder / name).chmod(0o600)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "kci.service.main", "--listen", self.endpoint,
            "--database", str(self.database), "--kcilet-socket", str(self.folder / "kcilet.sock"),
            "--region", service_world.REGION, "--subnet-id", service_world.SUBNET_ID,
            "--subnet-cidr", _SUBNET, "--gateway", "10.9.0.1",
            "--security-group-id", service_world.SECURITY_GROUP_ID,
            "--operator-credentials", str(self.folder / "operator.env"),
            "--encryption-key-file", str(self.folder / "key"),
        ]  # fmt: skip

    async def start(
        self, *, crash_at: str = "", wrapper: tuple[str, ...] = (), may_end: bool = False
    ) -> None:
        """Until it answers. `crash_at` is a line of crash points; `wrapper` comes before the command. It may
        have ended when this returns, if it was to crash or `may_end`.
        """
        self.points.unlink(missing_ok=True)
        if crash_at:
            self.points.write_text(crash_at + "\n")
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *wrapper, *self.command,
                stdout=log, stderr=log,
                env={**environment.read(), crashpoints.ENVIRONMENT: str(self.points)},
            )  # fmt: skip
        ends = time.monotonic() + _START_S
        while self.process.returncode is None and not await self.answers():
            assert time.monotonic() < ends, f"does not answer: {self.log.read_text()}"
            await asyncio.sleep(0.02)
        assert crash_at or may_end or not self.has_ended, f"ended at once: {self.log.read_text()}"

    async def wait_ended(self, within_s: float) -> None:
        """Until it has ended by itself, or that long."""
        assert self.process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.process.wait()

    async def answers(self) -> bool:
        """Whether /healthz does."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    return (await reader.readline()).endswith(b"200 OK\r\n")
                finally:
                    writer.close()
        return False

    @property
    def has_ended(self) -> bool:
        return self.process is None or self.process.returncode is not None

    async def kill(self, number: int = signal.SIGKILL) -> int:
        """End it, if it has not ended by itself; returns its exit code."""
        assert self.process is not None, "start it first"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        async with asyncio.timeout(30):
            return await self.process.wait()

    def client(self) -> clients.KciClient:
        keys = sources.Static(service_world.keys_of(service_world.ALICE))
        return clients.KciClient(self.endpoint, region=service_world.REGION, credentials=keys, timeout_s=10.0)


@contextlib.asynccontextmanager
async def ended(service: ServiceProcess):
    """Nothing of it is left after the block."""
    try:
        yield service
    finally:
        if not service.has_ended:
            await service.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
