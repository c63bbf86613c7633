"""Dialling from inside the networks of pods, so that a check reaches its pod whatever rules this machine has.
A check's source address is then one of the pod's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable

from kci.kcilet import ports
from kci.kit import netns

# What is this program's own trouble says nothing of a container.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Networks:
    """Keeps the namespace of each sandbox open, until it is left."""

    def __init__(self, open_network: Callable[[ports.SandboxId], Awaitable[netns.Namespace]]) -> None:
        self._open_network = open_network
        self._kept: dict[ports.SandboxId, netns.Namespace] = {}
        self._maker = netns.SocketMaker()

    def leave(self, sandbox_id: ports.SandboxId) -> None:
        _ = self._kept.pop(sandbox_id, None)

    async def factory(self, sandbox_id: ports.SandboxId) -> Callable[[socket.AddressFamily], socket.socket]:
        """What makes sockets of that sandbox; DriverError if it has no network."""
        namespace = self._kept.get(sandbox_id)
        if namespace is None:
            namespace = self._kept[sandbox_id] = await self._open_network(sandbox_id)
        return lambda family: self._make(namespace, family)

    def _make(self, namespace: netns.Namespace, family: socket.AddressFamily) -> socket.socket:
        try:
            return self._maker.make(namespace, family)
        except OSError as error:
            if error.errno in _OURS:
                raise ports.DriverError(f"cannot make a socket: {error.strerror}") from error
            raise

    async def dial(self, sandbox_id: ports.SandboxId, host: str, port: int) -> socket.socket:
        """A connection; OSError if there is none, of which `words` tells."""
        make = await self.factory(sandbox_id)
        loop = asyncio.get_running_loop()
        problem: OSError | None = None
        for family, address in await _resolve(host, port):
            with contextlib.ExitStack() as stack:
                try:
                    connection = make(family)
                    _ = stack.callback(connection.close)
                    # deadline: the whole check's, in driver.py.
                    await loop.sock_connect(connection, address)
                except OSError as error:
                    problem = error
                else:
                    _ = stack.pop_all()
                    return connection
        raise problem or OSError(0, "no such host")


def words(error: OSError, host: str, port: int) -> str:
    """As Go says it: people know these words."""
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"dial tcp {place(host, port)}: connect: {reason}"


def place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Names are this machine's to resolve, as with a kubelet."""
    with contextlib.suppress(ValueError):
        version = ipaddress.ip_address(host).version
        return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
    # deadline: the whole check's, in driver.py.
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]
