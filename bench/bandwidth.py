"""How much of a limit of its traffic a pod gets: TCP payload in both directions, and without a limit.
`python bench/bandwidth.py` measures this alone; it needs root, and makes network namespaces of its own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import pyroute2

from kci.kcilet import ports
from kci.kcilet.drivers.network import shaping
from kci.kit import netns

SECONDS = 10.0
LIMITS = (10_000_000, 100_000_000, 1_000_000_000)
_LINK, _GATEWAY, _ADDRESS, _PORT = "kvbench", "10.9.0.1", "10.9.0.2", 7000
_PEER = """
import socket
listener = socket.create_server(("10.9.0.2", 7000))
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        try:
            if connection.recv(1) == b"d":
                while True:
                    connection.sendall(bytes(65536))
            total = 0
            while chunk := connection.recv(65536):
                total += len(chunk)
            connection.sendall(str(total).encode())
        except OSError:
            pass
"""


def measure(seconds: float = SECONDS) -> dict[str, object]:
    """Shares of each limit (1 is all of it), and Gbit/s without one."""
    with _namespaces() as (machine, maker):
        shaper = shaping.Shaper(machine)
        rows = []
        for bits in LIMITS:
            shaper.limit(_LINK, ports.TrafficLimits(bits, bits))
            incoming, outgoing = _up(maker(), seconds), _down(maker(), seconds)
            rows.append({"limit": bits, "in": round(incoming / bits, 3), "out": round(outgoing / bits, 3)})
        shaper.limit(_LINK, ports.NO_LIMITS)
        free = {"in": round(_up(maker(), 1.0) / 1e9, 1), "out": round(_down(maker(), 1.0) / 1e9, 1)}
    return {"seconds": seconds, "share_of_limit": rows, "without_gbit": free}


def _up(connection: socket.socket, seconds: float) -> float:
    """Bits per second that the pod has taken; what is on its way still is little beside that."""
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.connect((_ADDRESS, _PORT))
        connection.sendall(b"u")
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            connection.sendall(bytes(16384))
        connection.shutdown(socket.SHUT_WR)
        return int(connection.recv(64)) * 8 / (time.monotonic() - began)


def _down(connection: socket.socket, seconds: float) -> float:
    with connection:
        connection.connect((_ADDRESS, _PORT))
        connection.sendall(b"d")
        began, total = time.monotonic(), 0
        while time.monotonic() < began + seconds:
            total += len(connection.recv(65536))
        return total * 8 / (time.monotonic() - began)


@contextlib.contextmanager
def _namespaces() -> Iterator[tuple[pyroute2.IPRoute, Callable[[], socket.socket]]]:
    """A machine's links with a bridge, and what makes sockets there; the pod's end is served."""
    outer, inner = (f"kci-bench-{uuid.uuid4().hex[:6]}" for _ in range(2))
    with contextlib.ExitStack() as stack:
        for name in (outer, inner):
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        for line in (
            f"-n {outer} link add br0 type bridge",
            f"-n {outer} address add {_GATEWAY}/24 dev br0",
            f"-n {outer} link set br0 up",
            f"-n {outer} link add {_LINK} type veth peer name eth0 netns {inner}",
            f"-n {outer} link set {_LINK} master br0 up",
            f"-n {inner} address add {_ADDRESS}/24 dev eth0",
            f"-n {inner} link set eth0 up",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        argv = ["ip", "netns", "exec", inner, sys.executable, "-c", _PEER]
        peer = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
        stack.callback(peer.kill)
        assert peer.stdout is not None
        _ = peer.stdout.readline()
        space, makes = netns.Namespace(f"/run/netns/{outer}"), netns.SocketMaker()

        def make() -> socket.socket:
            made = makes.make(space, socket.AF_INET)
            made.setblocking(True)
            return made

        machine = pyroute2.NetNS(outer, flags=0)
        stack.callback(machine.close)
        yield machine, make


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
