"""Streams through the whole line, and back: commands, attachments, ports, copies, over WebSocket and SPDY."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import threading

import client_streams
import pytest
from line import IDLE, pod

from kci.kit import netns

pytestmark = pytest.mark.e2e

SOCKETS = netns.SocketMaker()
# A second at most; the rest is for a machine that is busy.
END_S = 10
BIG_BYTES = 100_000_000
SMALL_FILES = 10_000
# Of each there is a listener of its own: busybox takes few connections at once on one port.
FIRST_PORT, PORTS = 7001, 50


@pytest.fixture(scope="module")
def pods(line):
    """A shell that waits for somebody to attach, one that echoes on many ports, and one that is quiet."""
    echo = f"for p in $(seq {FIRST_PORT} {FIRST_PORT + PORTS - 1}); do nc -ll -p $p -e cat & done; {IDLE}"
    line.apply(
        pod("shell", container={"stdin": True, "tty": True, "command": ["/bin/sh"]}),
        pod("echo", echo),
        client_streams.pod("quiet", talks=False),
    )
    line.wait_ready("pod/shell", "pod/echo", "pod/quiet")
    yield line
    line.kubectl("delete", "pod", "shell", "echo", "quiet", "--now")


@pytest.fixture(params=client_streams.WAYS)
def way(request, monkeypatch):
    """kubectl's environment; a variable is how it is told."""
    for name, value in client_streams.WAYS[request.param].items():
        monkeypatch.setenv(name, value)
    return request.param


@pytest.mark.requirement("R27")
def test_input_ends_where_it_ends_and_the_exit_code_is_exact(pods, way):
    done = pods.run_kubectl("exec", "-i", "shell", "--", "sh", "-c", "wc -c; exit 7", stdin="x" * 12345)
    assert (done.stdout.strip(), done.returncode) == ("12345", 7)


def test_a_command_may_be_as_long_as_a_script(pods, way):
    long = "x" * 60_000
    assert (
        pods.kubectl("exec", "shell", "--", "sh", "-c", 'echo "${#1} $#"', "sh", long, *"abc") == "60000 4\n"
    )


def test_attach_reaches_the_containers_own_shell(pods, way):
    with subprocess.Popen(
        pods.kubectl_argv("attach", "-i", "shell"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as attached:
        watchdog = threading.Timer(30, attached.kill)
        watchdog.start()
        attached.stdin.write(b"echo attached-$((6*7))\n")
        attached.stdin.flush()
        seen = b""
        while b"attached-42" not in seen and (part := attached.stdout.read1()):
            seen += part
        watchdog.cancel()
        attached.kill()
    assert b"attached-42" in seen
    # It goes on without its client.
    assert pods.kubectl("exec", "shell", "--", "echo", "alive") == "alive\n"
    assert pods.get("pod", "shell")["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.requirement("R27")
@pytest.mark.parametrize("kind", client_streams.KINDS)
def test_what_a_client_opened_ends_when_it_is_killed(pods, way, kind):
    """Though nothing is said on it that would tell that nobody listens."""
    with client_streams.KINDS[kind](pods, "quiet", {}) as stream:
        stream.kubectl.kill()
        took_s = client_streams.Clock().times({kind: lambda: not stream.is_held()}, timeout_s=END_S)
    print(f"s until the pod's end: {took_s}")


@pytest.mark.requirement("R27")
def test_fifty_connections_at_once_through_one_port_forward_are_byte_exact(pods, way, runs):
    runs.count = PORTS
    chance = runs.random()
    contents = [chance.randbytes(200_000 + number) for number in range(PORTS)]
    echoes: dict[int, bytes] = {}
    with _port_forward(pods, "echo", range(FIRST_PORT, FIRST_PORT + PORTS)) as local_ports:
        threads = [
            threading.Thread(target=lambda n=n: echoes.update({n: _echo(pods, local_ports[n], contents[n])}))
            for n in range(PORTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [n for n in range(PORTS) if echoes.get(n) != contents[n]] == []


@contextlib.contextmanager
def _port_forward(stack, name, ports):
    """kubectl's local ports, in the order of the pod's."""
    remote = [str(port) for port in ports]
    with subprocess.Popen(
        stack.kubectl_argv(
            "port-forward", "--address=127.0.0.1", f"pod/{name}", *(f":{port}" for port in remote)
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as forwarding:
        try:
            found = {}
            while len(found) < len(remote):
                words = forwarding.stdout.readline().split()
                assert words[:2] == ["Forwarding", "from"], words
                found[words[4]] = int(words[2].rpartition(":")[2])
            reader = threading.Thread(target=forwarding.stdout.read, daemon=True)
            reader.start()
            yield [found[port] for port in remote]
        finally:
            forwarding.kill()


def _echo(stack, port, content):
    """What comes back from a port inside the line's network namespace."""
    inside = netns.Namespace(f"/run/netns/{stack.netns}")
    with SOCKETS.make(inside, socket.AF_INET) as connection:
        connection.settimeout(60)
        connection.connect(("127.0.0.1", port))

        def send():
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        back = b"".join(iter(lambda: connection.recv(65536), b""))
        sender.join()
        return back


@pytest.mark.requirement("R27")
def test_an_upload_that_the_pod_reads_slowly_arrives_whole(pods, way):
    """The client is done, half-closed, long before the pod has read all."""
    port = FIRST_PORT + PORTS
    pods.apply(pod("slow", f"nc -l -p {port} -e sh -c 'sleep 3; sha256sum > /tmp/sum'; {IDLE}"))
    pods.wait_ready("pod/slow")
    content = os.urandom(20_000_000)
    with _port_forward(pods, "slow", [port]) as (local_port,):
        assert _echo(pods, local_port, content) == b""
    arrived = pods.kubectl(
        "exec", "slow", "--", "sh", "-c", "until [ -s /tmp/sum ]; do sleep .1; done; cat /tmp/sum"
    )
    assert arrived.split()[0] == hashlib.sha256(content).hexdigest()
    pods.kubectl("delete", "pod", "slow", "--now")


@pytest.mark.requirement("R27")
def test_a_large_file_is_copied_both_ways_byte_by_byte(pods, way, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(os.urandom(BIG_BYTES))
    expected = hashlib.sha256(there.read_bytes()).hexdigest()
    pods.kubectl("cp", str(there), "shell:/tmp/big", timeout_s=120)
    assert pods.kubectl("exec", "shell", "--", "sha256sum", "/tmp/big").split()[0] == expected
    pods.kubectl("cp", "shell:/tmp/big", str(back), timeout_s=120)
    assert hashlib.sha256(back.read_bytes()).hexdigest() == expected
    pods.kubectl("exec", "shell", "--", "rm", "/tmp/big")


def test_ten_thousand_small_files_are_copied_both_ways(pods, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    for number in range(SMALL_FILES):
        folder = there / f"d{number % 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(os.urandom(number % 50))
    pods.kubectl("cp", str(there), "shell:/tmp/many", timeout_s=120)
    pods.kubectl("cp", "shell:/tmp/many", str(back), timeout_s=120)
    assert _tree(back) == _tree(there)
    pods.kubectl("exec", "shell", "--", "rm", "-r", "/tmp/many")


def _tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.requirement("R27")
def test_a_command_over_spdy_straight_at_the_node(pods):
    """Not through this API server at all: what one before 1.36 sends is made here."""
    content = os.urandom(1_000_000)
    done = client_streams.run_straight_at_node(
        pods, client_streams.address_of_node(pods), "shell", "cat;exit 5", stdin=content
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == content
    assert json.loads(done.stderr)["details"]["causes"] == [{"reason": "ExitCode", "message": "5"}]
