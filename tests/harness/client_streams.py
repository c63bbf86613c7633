"""Streams of a user's kubectl through the line, to be cut at either end: exec, logs -f and port-forward.

Whether one of them still lives is seen from outside at both ends: at the client's, and on the machine, where
every container's processes and the kcilet's open files can be looked at while no program of ours answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import line as lines

from kci.kit import environment, netns

PORT = 7001
# How kubectl and API server talk to the node: as today, and as they did before Kubernetes 1.31.
WAYS: Mapping[str, Mapping[str, str]] = {
    "WebSocket": {},
    "SPDY": {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"},
}
TESTS = pathlib.Path(__file__).resolve().parents[1]
# The colon does nothing; it keeps the shell, and its words keep it apart from all other processes.
_SERVES = ": {name} serves a connection; cat; true"
_LOOK_EVERY_S = 0.02
_WATCHDOG_S = 600.0
_SOCKETS = netns.SocketMaker()


def pod(name: str, *, talks: bool = True) -> dict[str, Any]:
    """It echoes on PORT, with a process for each connection, and may tell something now and then."""
    serve = f"nc -ll -p {PORT} -e sh -c '{_SERVES.format(name=name)}' &"
    talk = "while sleep 0.2; do echo tick; done &" if talks else "echo tick;"
    return lines.pod(name, f"{serve} {talk} {lines.IDLE}")


@dataclasses.dataclass(frozen=True)
class Stream:
    """One that was seen to work at both ends. `is_over` looks at the client's, `is_held` at the pod's."""

    kubectl: subprocess.Popen[Any]
    is_over: Callable[[], bool]
    is_held: Callable[[], bool]


@contextlib.contextmanager
def exec_(line: lines.Line, name: str, variables: Mapping[str, str]) -> Iterator[Stream]:
    """A command that waits. It is held while its process lives."""
    argv = ("sleep", f"32{random.randrange(10**6):06}")  # a sleep that nobody else has
    with _kubectl(line, variables, "exec", "-i", name, "--", *argv) as client:
        lines.eventually(lambda: runs(*argv), what="the command runs")
        yield Stream(client, lambda: client.poll() is not None, lambda: runs(*argv))


@contextlib.contextmanager
def logs(line: lines.Line, name: str, variables: Mapping[str, str]) -> Iterator[Stream]:
    """A log that is followed. It is held while the kcilet has the file open."""
    with _kubectl(line, variables, "logs", "-f", "--tail=1", name) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"tick\n"
        assert reads_logs(line)
        yield Stream(client, lambda: client.poll() is not None, lambda: reads_logs(line))


@contextlib.contextmanager
def port_forward(line: lines.Line, name: str, variables: Mapping[str, str]) -> Iterator[Stream]:
    """A connection through a forwarded port. It is held while its process in the container lives."""
    argv = ("sh", "-c", _SERVES.format(name=name))
    arguments = ("port-forward", "--address=127.0.0.1", f"pod/{name}", f":{PORT}")
    with _kubectl(line, variables, *arguments) as client:
        assert client.stdout is not None
        told = client.stdout.readline().decode().split()
        assert told[:2] == ["Forwarding", "from"], told
        inside = netns.Namespace(f"/run/netns/{line.netns}")
        with _SOCKETS.make(inside, socket.AF_INET) as connection:
            connection.settimeout(20)
            connection.connect(("127.0.0.1", int(told[2].rpartition(":")[2])))
            connection.sendall(b"there and back")
            assert connection.recv(100) == b"there and back"
            assert runs(*argv)
            connection.setblocking(False)
            yield Stream(client, lambda: _is_closed(connection), lambda: runs(*argv))


KINDS: Mapping[
    str, Callable[[lines.Line, str, Mapping[str, str]], contextlib.AbstractContextManager[Stream]]
] = {"exec": exec_, "logs": logs, "port-forward": port_forward}


@contextlib.contextmanager
def unread(line: lines.Line, names: Sequence[str], count: int) -> Iterator[None]:
    """Commands with endless output, in all of these pods by turns, of which the clients read no byte more
    than fits into a pipe.
    """
    with contextlib.ExitStack() as opened:
        for number in range(count):
            name = names[number % len(names)]
            opened.enter_context(_kubectl(line, {}, "exec", name, "--", "cat", "/dev/zero"))
        yield


class Clock:
    """Seconds from now until something holds, for several things at once."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def times(self, looks: Mapping[str, Callable[[], bool]], *, timeout_s: float) -> dict[str, float]:
        """When each of them held for the first time; AssertionError if one never does."""
        found: dict[str, float] = {}
        while len(found) < len(looks):
            for what, look in looks.items():
                if what not in found and look():
                    found[what] = round(time.monotonic() - self._began_s, 2)
            waiting = sorted(looks.keys() - found.keys())
            assert time.monotonic() < self._began_s + timeout_s, f"{waiting} not within {timeout_s} s"
            time.sleep(_LOOK_EVERY_S)  # between two looks at an outside program's state
        return found


def runs(*argv: str) -> int:
    """How many processes with exactly these words there are on the machine, in containers or not."""
    wanted = "".join(f"{word}\0" for word in argv).encode()
    count = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            count += path.read_bytes() == wanted
    return count


def reads_logs(line: lines.Line) -> bool:
    """Whether the kcilet has any container's log open; a kcilet that does not run has none."""
    folder = str(line.where.kcilet / "logs" / "pods")
    for pid in _kcilets(line):
        with contextlib.suppress(OSError):
            for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()).startswith(folder):
                        return True
    return False


def _kcilets(line: lines.Line) -> Iterator[str]:
    """Also one that a test has started by hand, which the supervisor does not know."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "kci.kcilet.main" in words and any(str(line.state_dir) in word for word in words):
                yield path.parent.name


def run_straight_at_node(
    line: lines.Line, address: str, name: str, script: str, *, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """A command over SPDY by the API server's identity, but not through it; see e2e/exec_over_spdy.py."""
    query = urllib.parse.urlencode([("command", word) for word in ("sh", "-c", script)])
    pki = line.where.pki
    return subprocess.run(
        line.inside(
            sys.executable,
            str(TESTS / "e2e" / "exec_over_spdy.py"),
            address,
            f"/exec/default/{name}/main?input=1&output=1&{query}",
            str(pki / "ca.crt"),
            str(pki / "apiserver-kubelet-client.crt"),
            str(pki / "apiserver-kubelet-client.key"),
        ),
        input=stdin,
        capture_output=True,
        timeout=90,
        check=False,
        env={**environment.read(), "PYTHONPATH": str(TESTS)},
    )


def address_of_node(line: lines.Line) -> str:
    """Host and port of the kubelet API."""
    status = line.get("node", "virtual-kubelet")["status"]
    host = next(one["address"] for one in status["addresses"] if one["type"] == "InternalIP")
    return f"{host}:{status['daemonEndpoints']['kubeletEndpoint']['Port']}"


@contextlib.contextmanager
def _kubectl(
    line: lines.Line, variables: Mapping[str, str], *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        line.kubectl_argv(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment.read(), **variables},
    ) as client:
        # Nothing waits for a client that says nothing.
        watchdog = threading.Timer(_WATCHDOG_S, client.kill)
        watchdog.start()
        try:
            yield client
        finally:
            watchdog.cancel()
            client.kill()


def _is_closed(connection: socket.socket) -> bool:
    """By an end or by an error; what has come before that is thrown away."""
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
