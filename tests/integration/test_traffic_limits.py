"""Limits of a pod's traffic on real links, in network namespaces of these tests' own."""

import contextlib
import subprocess
import sys

import pytest
from test_pod_links import links, machine, namespace, pod, wire  # noqa: F401  (fixtures)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.guide("annotation ingress-bandwidth", "annotation egress-bandwidth"),
]
BITS = 20_000_000
# Sends to the one who says `d`; reads what one who says `u` sends, and tells how much it was.
SERVER = """
import socket
with socket.create_server(("10.9.1.2", 7000)) as listener:
    print("listens", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            if connection.recv(1) == b"d":
                try:
                    while True:
                        connection.sendall(bytes(65536))
                except OSError:
                    continue
            total = 0
            while chunk := connection.recv(65536):
                total += len(chunk)
            connection.sendall(str(total).encode())
"""
# Both ways; prints the bits per second that the pod took, and that it sent.
MEASURE = """
import socket, time
def up(seconds):
    with socket.create_connection(("10.9.1.2", 7000)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.sendall(b"u")
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            connection.sendall(bytes(16384))
        connection.shutdown(socket.SHUT_WR)
        return int(connection.recv(64)) * 8 / (time.monotonic() - began)
def down(seconds):
    with socket.create_connection(("10.9.1.2", 7000)) as connection:
        connection.sendall(b"d")
        began, total = time.monotonic(), 0
        while time.monotonic() < began + seconds:
            total += len(connection.recv(65536))
        return total * 8 / (time.monotonic() - began)
print(up({seconds}), down({seconds}))
"""


@pytest.fixture
def limited(machine, pod):  # noqa: F811
    """The machine's namespace; in the pod's there is a server, at the end of a link with limits."""
    limits = f"ports.TrafficLimits({BITS}, {BITS})"
    wire(
        machine,
        f"from kci.kcilet import ports; "
        f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'), {limits})",
    )
    server = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{pod}", sys.executable, "-c", SERVER], stdout=subprocess.PIPE
    )
    with contextlib.ExitStack() as ended:
        ended.callback(server.stdout.close)
        ended.callback(server.wait)
        ended.callback(server.kill)
        assert server.stdout.readline() == b"listens\n"
        yield machine


def measured(netns, seconds=1.0):
    """The shares of the limit that came in and went out."""
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-c", MEASURE.format(seconds=seconds)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [float(bits) / BITS for bits in done.stdout.split()]


def test_no_more_passes_from_the_first_byte_either_way(limited):
    assert {"kvpod", "kipod"} <= links(limited).keys()
    for share in measured(limited):
        # How near it comes is measured by bench/bandwidth.py.
        assert 0.3 < share < 1.05


def test_limits_change_and_end_while_traffic_may_pass(limited):
    change = "from kci.kcilet import ports; wires.limit('kvpod', ports.TrafficLimits({}, {}))"
    wire(limited, change.format(BITS // 4, 4 * BITS))
    incoming, outgoing = measured(limited)
    assert incoming < 0.3
    assert 1.1 < outgoing < 4.2
    wire(limited, change.format(0, 0))
    assert all(share > 10 for share in measured(limited, seconds=0.3))
    assert "kipod" not in links(limited)


def test_nothing_is_left_of_a_limited_link(limited):
    wire(limited, "wires.remove('kvpod', alias_ends_with='former')")
    assert {"kvpod", "kipod"} <= links(limited).keys()
    wire(limited, "wires.remove('kvpod')")
    assert not {"kvpod", "kipod"} & links(limited).keys()


def test_a_limit_for_a_link_that_is_gone_is_no_error(machine):  # noqa: F811
    wire(machine, "from kci.kcilet import ports; wires.limit('kvpod', ports.TrafficLimits(1000, 1000))")
    assert "kipod" not in links(machine)
