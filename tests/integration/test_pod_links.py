"""The links of pods, in network namespaces of these tests' own."""

import contextlib
import json
import pathlib
import subprocess
import sys
import uuid

import pytest

pytestmark = pytest.mark.integration
BRIDGE = "kcitest0"
IN_NETNS = """
from kci.kcilet.drivers.network import cni, wiring
from kci.link import types as link
interface = link.Interface(
    address="10.9.1.2", prefix_length=16, gateway="10.9.0.1", mac_address="02:00:00:00:01:02"
)
def request(pod):
    return cni.Request(command="ADD", netns=f"/run/netns/{{pod}}", container_id="box")
wires = wiring.Wiring("{bridge}")
{code}
"""


def run(*argv, check=True):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=check)


def shown(netns, *what):
    return json.loads(run("ip", "-n", netns, "-j", *what).stdout)


@contextlib.contextmanager
def namespace():
    name = f"kci-test-{uuid.uuid4().hex[:6]}"
    path = pathlib.Path("/run/netns") / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    run("unshare", f"--net={path}", "true")
    try:
        yield name
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture
def machine():
    with namespace() as name:
        run("ip", "-n", name, "link", "add", BRIDGE, "mtu", "1400", "type", "bridge")
        run("ip", "-n", name, "address", "add", "10.9.0.1/16", "dev", BRIDGE)
        run("ip", "-n", name, "link", "set", BRIDGE, "up")
        yield name


@pytest.fixture
def pod():
    with namespace() as name:
        yield name


def wire(machine, code, check=True):
    text = IN_NETNS.format(bridge=BRIDGE, code=code)
    return run(
        "nsenter", f"--net=/run/netns/{machine}", sys.executable, "-W", "error", "-c", text, check=check
    )


def links(netns):
    return {link["ifname"]: link for link in shown(netns, "link")}


def test_a_pod_gets_its_interface_and_the_machine_its_other_end(machine, pod):
    wire(machine, f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'))")
    outer, inner = links(machine)["kvpod"], links(pod)["eth0"]
    assert (outer["master"], outer["ifalias"], outer["mtu"]) == (BRIDGE, "kci uid box", 1400)
    assert (inner["address"], inner["mtu"]) == ("02:00:00:00:01:02", 1400)
    assert {"UP", "LOWER_UP"} <= set(outer["flags"]) & set(inner["flags"])
    assert "UP" in links(pod)["lo"]["flags"]
    addresses = shown(pod, "-4", "address", "show", "eth0")[0]["addr_info"]
    assert [(one["local"], one["prefixlen"]) for one in addresses] == [("10.9.1.2", 16)]
    routes = shown(pod, "route")
    assert [one["gateway"] for one in routes if one["dst"] == "default"] == ["10.9.0.1"]


def test_what_an_earlier_try_left_is_replaced(machine, pod):
    with namespace() as earlier:
        wire(machine, f"wires.add('kvpod', 'kci uid former', interface, request('{earlier}'))")
        wire(machine, f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'))")
        assert "eth0" not in links(earlier)
    assert links(machine)["kvpod"]["ifalias"] == "kci uid box"
    assert "eth0" in links(pod)


def test_a_link_is_removed_for_its_own_sandbox_only_and_as_often_as_asked(machine, pod):
    wire(machine, f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'))")
    wire(machine, "wires.remove('kvpod', alias_ends_with='former')")
    assert "kvpod" in links(machine)
    wire(machine, "wires.remove('kvpod', alias_ends_with='box'); wires.remove('kvpod')")
    assert "kvpod" not in links(machine)
    assert "eth0" not in links(pod)


def test_the_bridge_may_be_made_anew(machine, pod):
    """Its number is another one then."""
    remake = (
        "import subprocess; "
        f"subprocess.run('ip link delete {BRIDGE}; ip link add dummy0 type dummy; "
        f"ip link add {BRIDGE} type bridge', shell=True, check=True)"
    )
    add = f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'))"
    wire(machine, f"{add}; {remake}; wires.remove('kvpod'); {add}")
    assert links(machine)["kvpod"]["master"] == BRIDGE


def test_what_the_kernel_refuses_is_told_and_the_next_pod_is_wired(machine, pod):
    code = f"""
import ipaddress, msgspec
wrong = msgspec.structs.replace(interface, gateway="172.16.0.1")
for which, netns in ((wrong, '{pod}'), (interface, 'kci-test-none')):
    try:
        wires.add('kvpod', 'kci uid box', which, request(netns))
    except wiring.WiringError as error:
        print(error)
wires.remove('kvpod')
wires.add('kvpod', 'kci uid box', interface, request('{pod}'))
"""
    told = wire(machine, code).stdout.splitlines()
    assert told == [
        f"Network is unreachable (kvpod, /run/netns/{pod})",
        "No such file or directory (kvpod, /run/netns/kci-test-none)",
    ]
    assert "kvpod" in links(machine)
