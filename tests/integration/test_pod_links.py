"""The links of pods, in network namespaces of these tests' own."""

import contextlib
import json
import pathlib
import subprocess
import sys
import uuid

import pytest
from packets import pings

from kci.kit import linkgroups

pytestmark = pytest.mark.integration
BRIDGE = "kcitest0"
GROUP = linkgroups.number_of(BRIDGE)
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
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


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
        # As a stack has it.
        run("ip", "-n", name, "link", "set", BRIDGE, "address", "02:4b:0a:09:00:01")
        run("ip", "-n", name, "address", "add", "10.9.0.1/16", "dev", BRIDGE)
        run("ip", "-n", name, "link", "set", BRIDGE, "up")
        run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
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


def routes(netns):
    return {route["dst"]: route for route in shown(netns, "-4", "route")}


def test_a_pod_gets_its_interface_and_the_machine_its_other_end(machine, pod):
    wire(machine, f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'))")
    outer, inner = links(machine)["kvpod"], links(pod)["eth0"]
    assert "master" not in outer
    assert (outer["ifalias"], outer["mtu"]) == ("kci uid box", 1400)
    assert (outer["address"], outer["group"]) == ("02:4b:0a:09:00:01", str(GROUP))
    assert (inner["address"], inner["mtu"]) == ("02:00:00:00:01:02", 1400)
    assert {"UP", "LOWER_UP"} <= set(outer["flags"]) & set(inner["flags"])
    assert "UP" in links(pod)["lo"]["flags"]
    addresses = shown(pod, "-4", "address", "show", "eth0")[0]["addr_info"]
    assert [(one["local"], one["prefixlen"]) for one in addresses] == [("10.9.1.2", 32)]
    assert [(one["dst"], one["gateway"], one["flags"]) for one in shown(pod, "route")] == [
        ("default", "10.9.0.1", ["onlink"])
    ]
    assert routes(machine)["10.9.1.2"]["dev"] == "kvpod"
    assert routes(machine)["10.9.1.2"]["prefsrc"] == "10.9.0.1"


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
    assert pings(pod, "10.9.0.1")


def test_what_the_kernel_refuses_is_told_and_the_next_pod_is_wired(machine, pod):
    code = f"""
import msgspec
wrong = msgspec.structs.replace(interface, mtu=20)
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
        f"Invalid argument (kvpod, /run/netns/{pod})",
        "No such file or directory (kvpod, /run/netns/kci-test-none)",
    ]
    assert "kvpod" in links(machine)


SECOND = 'msgspec.structs.replace(interface, address="10.9.1.3", mac_address="02:00:00:00:01:03")'


def test_pods_reach_each_other_and_the_machine_without_asking_by_arp(machine, pod):
    with namespace() as other:
        wire(
            machine,
            f"import msgspec; wires.add('kvpod', 'kci uid box', interface, request('{pod}')); "
            f"wires.add('kvtwo', 'kci two box', {SECOND}, request('{other}'))",
        )
        assert pings(pod, "10.9.1.3")
        assert pings(other, "10.9.1.2")
        assert pings(pod, "10.9.0.1")
        assert pings(machine, "10.9.1.2")
        for netns in (pod, other, machine):
            assert {one["state"][0] for one in shown(netns, "-4", "neigh")} == {"PERMANENT"}


def test_a_pods_frames_may_be_as_long_as_its_subnet_says(machine, pod):
    wire(
        machine,
        "import msgspec; wires.add('kvpod', 'kci uid box', "
        f"msgspec.structs.replace(interface, mtu=1300), request('{pod}'))",
    )
    assert links(machine)["kvpod"]["mtu"] == links(pod)["eth0"]["mtu"] == 1300


def addresses_of(netns, name):
    return {one["local"] for one in shown(netns, "-4", "address", "show", name)[0]["addr_info"]}


def test_a_gateway_of_another_subnet_is_the_machines_for_as_long_as_it_is_needed(machine, pod):
    other = 'msgspec.structs.replace(interface, gateway="172.16.0.1", address="172.16.0.9")'
    wire(machine, f"import msgspec; wires.add('kvpod', 'kci uid box', {other}, request('{pod}'))")
    assert pings(pod, "172.16.0.1")
    assert addresses_of(machine, BRIDGE) == {"10.9.0.1", "172.16.0.1"}
    wire(machine, "wires.keep_gateways(frozenset({'172.16.0.1'}))")
    assert addresses_of(machine, BRIDGE) == {"10.9.0.1", "172.16.0.1"}
    # What was there before us stays, needed or not.
    wire(machine, "wires.keep_gateways(frozenset())")
    assert addresses_of(machine, BRIDGE) == {"10.9.0.1"}


def test_an_address_of_the_machines_own_becomes_no_gateway_and_no_pods(machine, pod):
    """Such as a subnet whose range is that of the machine's own network."""
    run("ip", "-n", machine, "link", "add", "lan0", "up", "type", "veth", "peer", "name", "lan1")
    run("ip", "-n", machine, "address", "add", "192.168.1.1/24", "dev", "lan0")
    code = f"""
import msgspec
for gateway, address in (("192.168.1.1", "192.168.1.9"), ("10.9.0.1", "192.168.1.1")):
    try:
        which = msgspec.structs.replace(interface, gateway=gateway, address=address)
        wires.add('kvpod', 'kci uid box', which, request('{pod}'))
    except wiring.WiringError as error:
        print(error)
wires.keep_gateways(frozenset({{'172.16.0.1', '192.168.1.1'}}))
wires.add('kvpod', 'kci uid box', interface, request('{pod}'))
"""
    told = wire(machine, code).stdout.splitlines()
    assert [text.partition(":")[0] for text in told] == [
        "the gateway address 192.168.1.1 is the machine's own on lan0",
        "the pod's address 192.168.1.1 is one of the machine's own",
    ]
    assert addresses_of(machine, "lan0") == {"192.168.1.1"}
    assert addresses_of(machine, BRIDGE) == {"10.9.0.1", "172.16.0.1"}
    assert pings(pod, "10.9.0.1")


def wire_to_the_bridge(machine, pod, name, number):
    """As earlier versions did it."""
    peer = f"peer name eth0 mtu 1400 address 02:00:00:00:01:0{number} netns {pod}"
    for line in (
        f"-n {machine} link add {name} mtu 1400 master {BRIDGE} up type veth {peer}",
        f"-n {machine} link set {name} alias",
        f"-n {pod} link set lo up",
        f"-n {pod} address add 10.9.1.{number}/16 dev eth0",
        f"-n {pod} link set eth0 up",
        f"-n {pod} route add default via 10.9.0.1",
    ):
        words = ["kci uid box"] if line.endswith("alias") else []
        run("ip", *line.split(), *words)


@pytest.mark.requirement("R07")
def test_pods_that_were_wired_to_the_bridge_are_taken_off_it_and_go_on(machine, pod):
    with namespace() as former, namespace() as new:
        wire_to_the_bridge(machine, pod, "kvpod", 2)
        wire_to_the_bridge(machine, former, "kvtwo", 3)
        assert pings(pod, "10.9.0.1")
        adopt = f"wires.adopt({{'kvpod': interface, 'kvtwo': {SECOND}, 'kvnone': interface}})"
        third = 'msgspec.structs.replace(interface, address="10.9.1.4", mac_address="02:00:00:00:01:04")'
        wire(
            machine,
            f"import msgspec; {adopt}; {adopt}; wires.add('kvnew', 'kci new box', {third}, request('{new}'))",
        )
        for name in ("kvpod", "kvtwo"):
            assert "master" not in links(machine)[name]
            assert links(machine)[name]["ifalias"] == "kci uid box"
        assert pings(pod, "10.9.0.1")
        assert pings(pod, "10.9.1.3")
        assert pings(former, "10.9.1.4")
        assert pings(new, "10.9.1.2")


def test_a_link_whose_route_is_lost_gets_it_back(machine, pod):
    wire(machine, f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'))")
    run("ip", "-n", machine, "route", "delete", "10.9.1.2/32")
    wire(machine, "wires.adopt({'kvpod': interface})")
    assert pings(machine, "10.9.1.2")


def test_nothing_of_ipv6_is_spoken_on_either_end(machine, pod):
    wire(machine, f"wires.add('kvpod', 'kci uid box', interface, request('{pod}'))")
    assert not shown(machine, "-6", "address", "show", "kvpod")
    assert not shown(pod, "-6", "address", "show", "eth0")
