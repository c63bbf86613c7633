"""A TCP connection to a port inside a pod, carried as v5.channel.k8s.io messages.

The socket is made inside the pod's network namespace, where it then stays, and is used from here like any
other. As containerd does it: 127.0.0.1 first, then ::1 (internal/cri/server/sandbox_portforward_linux.go,
2.1); so a port of a pod that listens on its address alone is not reached. Nothing is kept beyond one read
of each side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import structlog

from kci.kcilet import ports
from kci.kcilet.drivers.streams import namespaces
from kci.kit import channels, netns, tasks

log = structlog.get_logger(__name__)

_CONNECT_S = 10.0
_READ_BYTES = 128 << 10
_LOOPBACKS = {socket.AF_INET: ("4", "127.0.0.1"), socket.AF_INET6: ("6", "::1")}


class Connections:
    """From inside the namespaces of pods."""

    def __init__(self, namespaces: namespaces.Namespaces) -> None:
        self._namespaces = namespaces
        self._maker = netns.SocketMaker()

    async def run(self, sandbox_id: ports.SandboxId, port: int, peer: ports.StreamPeer) -> None:
        """Returns when both directions have ended, or when the peer is gone."""
        try:
            try:
                connection = await self._connect(sandbox_id, port)
            except (ports.DriverError, OSError) as error:
                await peer.send(channels.frame(channels.Channel.STATUS, channels.error_status(str(error))))
                return
            with connection:
                # Says that there is a connection: what goes wrong from here on broke it.
                await peer.send(channels.frame(channels.Channel.STDOUT))
                await _Relay(connection, peer).run()
        except ConnectionError as error:
            log.debug("the peer of a port is gone", error=repr(error))

    async def _connect(self, sandbox_id: ports.SandboxId, port: int) -> socket.socket:
        """The kubelet's words if nobody listens: people know them."""
        problems = []
        left = await tasks.in_thread(self._sockets, sandbox_id)
        try:
            while left:
                version, address = _LOOPBACKS[left[0].family]
                try:
                    async with asyncio.timeout(_CONNECT_S):
                        await asyncio.get_running_loop().sock_connect(left[0], (address, port))
                except OSError as error:
                    shown = f"[{address}]" if ":" in address else address
                    problems.append(
                        f"IPv{version}: dial tcp{version} {shown}:{port}: connect: {_words(error)}"
                    )
                    left.pop(0).close()
                else:
                    return left.pop(0)
        finally:
            for unused in left:
                unused.close()
        raise ports.DriverError(
            f"failed to connect to localhost:{port} inside namespace of sandbox {sandbox_id}, "
            + " ".join(problems)
        )

    def _sockets(self, sandbox_id: ports.SandboxId) -> list[socket.socket]:
        """One for each family, in the order of trying. Blocking."""
        namespace = self._namespaces.open(sandbox_id)
        made = [self._maker.make(namespace, socket.AF_INET)]
        # A kernel may do without.
        with contextlib.suppress(OSError):
            made.append(self._maker.make(namespace, socket.AF_INET6))
        return made


class _Relay:
    def __init__(self, connection: socket.socket, peer: ports.StreamPeer) -> None:
        self._connection = connection
        self._peer = peer
        self._peer_is_gone = asyncio.Event()

    async def run(self) -> None:
        try:
            await tasks.first_of(self._both_ways(), self._peer_is_gone.wait(), name="port")
        except OSError as error:
            text = f"error forwarding: {_words(error)}"
            await self._peer.send(channels.frame(channels.Channel.STATUS, channels.error_status(text)))

    async def _both_ways(self) -> None:
        async with tasks.Tasks() as group:
            group.start("port-to-peer", self._to_peer())
            group.start("peer-to-port", self._from_peer())

    async def _to_peer(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._connection, _READ_BYTES):
            await self._peer.send(channels.frame(channels.Channel.STDOUT, data))
        await self._peer.send(channels.close_frame(channels.Channel.STDOUT))

    async def _from_peer(self) -> None:
        loop = asyncio.get_running_loop()
        while (message := await self._peer.receive()) is not None:
            try:
                channel, data = channels.parse(message)
            except ValueError as error:
                log.warning("passing over a message of a port's peer", error=str(error))
                continue
            if channel is channels.Channel.STDIN:
                await loop.sock_sendall(self._connection, data)
            elif channel is channels.Channel.CLOSE and data == bytes((channels.Channel.STDIN,)):
                self._connection.shutdown(socket.SHUT_WR)
                return
        self._peer_is_gone.set()


def _words(error: OSError) -> str:
    """As Go says it."""
    if isinstance(error, TimeoutError):
        return "connection timed out"
    return os.strerror(error.errno).lower() if error.errno else str(error)
