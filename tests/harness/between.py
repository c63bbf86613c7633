"""Puts proxies between the running programs of a stack, which know nothing of it.

- TCP: a redirect in the `output` chain of the stack's network namespace, which leaves alone what carries the
  proxy's own mark. Connections that stood before are reset by it and come back through the proxy.
- Unix sockets: the program's socket is renamed and the proxy's takes its place; connections that stood
  before go on without it.

Who a connection's client is, is read from /proc: the proxy is told names of parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Self

import line as lines
import netns_loop
import proxy

from kci.kit import tasks
from kci.stack import certificates, programs, record, settings

MARK = 0x6B6369
API_PORT = settings.Settings().api_port
SERVICE_PORT = settings.Settings().kci_port
NODE_PORT = settings.Settings().kubelet_port
TABLE = "kci_faults"
# The module of each of our programs, which its command line names.
MODULES = {
    "kci.provider.main": "virtual-kubelet",
    "kci.service.main": "kci-service",
    "kci.kcilet.main": "kcilet",
}
_BEHIND = ".behind"


class Between:
    """Used as `with Between(line) as between, between.api_server() as proxy: …`. Nothing of it stays."""

    def __init__(self, line: lines.Line) -> None:
        self._line = line
        self._loop = netns_loop.NetnsLoop(line.netns)

    def __enter__(self) -> Self:
        self._loop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.__exit__()

    @contextlib.contextmanager
    def api_server(self, *clients: str, reads_http: bool = False) -> Iterator[proxy.Proxy]:
        """Before the API server. TLS passes through, unless HTTP is to be read: then the proxy shows the API
        server's certificate, and the node's to the API server, so it is for the node's programs alone.
        """
        host, port = self._gateway(), API_PORT
        tls = None
        if reads_http:
            clients = clients or ("virtual-kubelet", "kcilet")
            tls = self._tls(host)
        door = proxy.Door("kube-apiserver", proxy.Tcp(host, port, MARK), reads_http, tls, frozenset(clients))
        with self._tcp(door) as through:
            yield through

    @contextlib.contextmanager
    def service(self, *clients: str) -> Iterator[proxy.Proxy]:
        """Before the signed API."""
        host, port = self._gateway(), SERVICE_PORT
        door = proxy.Door(
            "kci-service", proxy.Tcp(host, port, MARK), reads_http=True, clients=frozenset(clients)
        )
        with self._tcp(door) as through:
            yield through

    @contextlib.contextmanager
    def node(self) -> Iterator[proxy.Proxy]:
        """Before the kubelet API."""
        host, port = self._gateway(), NODE_PORT
        with self._tcp(proxy.Door("virtual-kubelet", proxy.Tcp(host, port, MARK))) as through:
            yield through

    @contextlib.contextmanager
    def kcilet(self) -> Iterator[proxy.Proxy]:
        """On the link from the service."""
        with self._unix("kcilet", self._line.where.kcilet_socket, reads_http=True) as through:
            yield through

    @contextlib.contextmanager
    def containerd(self) -> Iterator[proxy.Proxy]:
        """Between the kcilet and its runtime."""
        with self._unix("containerd", self._line.where.containerd_socket, reads_http=False) as through:
            yield through

    @contextlib.contextmanager
    def cni(self) -> Iterator[proxy.Proxy]:
        """Between the CNI plugin and the kcilet: a connection for each call."""
        with self._unix("cni", self._line.where.cni_socket, reads_http=False) as through:
            yield through

    @contextlib.contextmanager
    def unreachable(self, port: int) -> Iterator[None]:
        """Nobody reaches a TCP part: new and standing connections are refused by RST."""
        rule = f"ip daddr {self._gateway()} tcp dport {port} reject with tcp reset"
        self._nft(
            f"table ip {TABLE}_{port} {{ chain output {{ type filter hook output priority 0; {rule}; }}\n"
            f"chain input {{ type filter hook input priority 0; {rule}; }}\n}}"
        )
        try:
            yield
        finally:
            self._nft(f"delete table ip {TABLE}_{port}")

    def _gateway(self) -> str:
        state = record.read_state(self._line.where)
        assert state is not None
        return state.gateway

    def _tls(self, host: str) -> proxy.Tls:
        where = self._line.where
        near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        near.load_cert_chain(
            certificates.certificate_path(where.pki, "apiserver"),
            certificates.key_path(where.pki, "apiserver"),
        )
        far = ssl.create_default_context(cafile=str(certificates.certificate_path(where.pki, "ca")))
        far.load_cert_chain(
            certificates.certificate_path(where.node_pki, programs.NODE_CLIENT),
            certificates.key_path(where.node_pki, programs.NODE_CLIENT),
        )
        return proxy.Tls(near, far, host)

    @contextlib.contextmanager
    def _tcp(self, door: proxy.Door) -> Iterator[proxy.Proxy]:
        assert isinstance(door.upstream, proxy.Tcp)
        listener = self._loop.call(_listen())
        table = f"{TABLE}_{door.upstream.port}"
        rule = (
            f"meta mark != {MARK} ip daddr {door.upstream.host} tcp dport {door.upstream.port} "
            f"redirect to :{listener.getsockname()[1]}"
        )
        chain = f"chain output {{ type nat hook output priority -100; {rule}; }}"
        with self._serving(door, listener) as through:
            self._nft(f"table ip {table} {{ {chain}\n}}")
            try:
                self._forget_connections()
                yield through
            finally:
                self._nft(f"delete table ip {table}")
                self._forget_connections()

    @contextlib.contextmanager
    def _unix(self, link: str, path: pathlib.Path, *, reads_http: bool) -> Iterator[proxy.Proxy]:
        behind = path.with_name(path.name + _BEHIND)
        door = proxy.Door(link, proxy.Unix(behind), reads_http)
        listener = socket.socket(socket.AF_UNIX)
        # Bound aside and moved over, so that there is no moment without a socket.
        aside = path.with_name(path.name + ".aside")
        listener.bind(str(aside))
        aside.chmod(0o600)
        listener.listen(128)
        mine = aside.stat().st_ino
        os.link(path, behind)
        aside.replace(path)
        try:
            with self._serving(door, listener) as through:
                yield through
        finally:
            if path.exists() and path.stat().st_ino == mine:
                behind.replace(path)
            else:
                # The program was started again meanwhile and has made a socket of its own.
                behind.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _serving(self, door: proxy.Door, listener: socket.socket) -> Iterator[proxy.Proxy]:
        through = proxy.Proxy(door, name_client=self._name_client)
        stop = asyncio.Event()

        async def serve() -> None:
            await tasks.first_of(through.serve(listener), _wait(stop), name=door.link)

        running = asyncio.run_coroutine_threadsafe(serve(), self._loop.loop)
        try:
            yield through
        finally:
            self._loop.call_soon(stop.set)
            running.result(30)
            listener.close()

    def _nft(self, text: str) -> None:
        done = subprocess.run(
            self._line.inside("nft", "-f", "-"),
            input=f"{text}\n",
            text=True,
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, f"nft: {done.stderr}"

    def _forget_connections(self) -> None:
        """Have the kernel ask the rules again for connections that it knows."""
        code = "from pyroute2 import NFCTSocket\nwith NFCTSocket() as ct: ct.flush()"
        subprocess.run(
            self._line.inside(sys.executable, "-c", code), check=True, timeout=20, capture_output=True
        )

    def _name_client(self, taken: socket.socket) -> str:
        """Which part of the stack is at the other end; empty if it is somebody else."""
        if taken.family == socket.AF_UNIX:
            credentials = taken.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return self._name(struct.unpack("3i", credentials)[0])
        inode = _inode_of(*taken.getpeername())
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and (name := self._name(int(entry.name))) and _holds(entry, inode):
                return name
        return ""

    def _name(self, pid: int) -> str:
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return ""
        if not any(str(self._line.state_dir) in word for word in words):
            return ""
        # One program holds the whole control plane, and is told which part to be.
        program = words[1] if words[0].endswith("controlplane") else pathlib.Path(words[0]).name
        return next((name for module, name in MODULES.items() if module in words), program)


async def _listen() -> socket.socket:
    return socket.create_server(("0.0.0.0", 0))


async def _wait(stop: asyncio.Event) -> None:
    _ = await stop.wait()


def _inode_of(host: str, port: int) -> str:
    """Of the socket that is bound to this address, in the namespace of this thread."""
    packed = socket.inet_aton(host)[::-1].hex().upper()
    wanted = f"{packed}:{port:04X}"
    for text in pathlib.Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]:
        fields = text.split()
        if fields[1] == wanted:
            return fields[9]
    return ""


def _holds(process: pathlib.Path, inode: str) -> bool:
    try:
        return any(
            str(descriptor.readlink()) == f"socket:[{inode}]" for descriptor in (process / "fd").iterdir()
        )
    except OSError:
        return False
