"""What passes at pods' links, on real links in network namespaces of these tests' own."""

import contextlib
import json
import re
import subprocess
import sys
import time

import packets
import pytest
from test_pod_links import BRIDGE, links, machine, namespace, run, shown  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.integration, pytest.mark.requirement("R54")]
TABLE = f"{BRIDGE}-guard"
MACHINE = "10.9.0.1"
# Answers lines of Python, with the machine's links and rules at hand; the kcilet in small.
DRIVER = f"""
import msgspec, sys, json
from kci.kcilet.drivers.network import cni, firewall, rules, wiring
from kci.kcilet.plan import firewall as plan
from kci.kit import linkgroups
from kci.link import types as link
frame = rules.Frame(
    table="{TABLE}", link_group=linkgroups.number_of("{BRIDGE}"),
    reachable=frozenset((rules.Endpoint("{MACHINE}", 53, "udp"), rules.Endpoint("{MACHINE}", 6443))),
    connections=50,
)
wires, guard = wiring.Wiring("{BRIDGE}"), firewall.Firewall(frame)

def group(number, tenant="", groups=()):
    return link.WantedGroup(
        group_id=f"g{{number}}", generation=1, cluster=link.Cluster(cluster_id="c", kubeconfig=""),
        namespace="n", pod_name=f"p{{number}}", tenant_id=tenant, security_group_ids=tuple(groups),
        interface=link.Interface(
            address=f"10.9.1.{{number}}", prefix_length=16, gateway="{MACHINE}",
            mac_address=f"02:00:00:00:01:{{number:02x}}",
        ),
    )

def rule(direction, **said):
    return link.SecurityGroupRule(direction=link.Direction(direction), **said)

def protect(*groups, is_whole=True, **security_groups):
    wanted = [plan.Wanted(one, one.group_id) for one in groups]
    secured = [
        link.SecurityGroup(security_group_id=name, rules=tuple(found))
        for name, found in security_groups.items()
    ]
    return guard.ensure(plan.plan(wanted, secured, is_whole=is_whole))

def wire(one, netns):
    request = cni.Request(command="ADD", netns=f"/run/netns/{{netns}}", container_id="box")
    wires.add(cni.to_link_name(one.group_id), "kci x box", one.interface, request)

for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""
SERVER = """
import socket, sys, threading
def tcp(port):
    with socket.create_server(("0.0.0.0", port)) as it:
        kept = []
        while True:
            connection, _ = it.accept()
            kept.append(connection)
def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.bind(("0.0.0.0", port))
        while True:
            said, sender = it.recvfrom(64)
            it.sendto(said.replace(b"?", b"!"), sender)
for port in (53, 80, 443, 6443, 10250):
    threading.Thread(target=tcp, args=(port,)).start()
    threading.Thread(target=udp, args=(port,)).start()
print("listens", flush=True)
"""


class Driver:
    """Says a line of Python to the program in the machine's namespace."""

    def __init__(self, netns):
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", netns, sys.executable, "-W", "error", "-c", DRIVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"{line}: the driver ended"
        return json.loads(answer)

    def end(self):
        self._process.kill()
        with self._process:
            pass


@contextlib.contextmanager
def driving(netns):
    driver = Driver(netns)
    try:
        yield driver
    finally:
        driver.end()


@contextlib.contextmanager
def serving(netns):
    process = subprocess.Popen(
        ["ip", "netns", "exec", netns, sys.executable, "-c", SERVER], stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout.readline() == b"listens\n"
            yield
        finally:
            process.kill()


class World:
    """A machine with two pods of one tenant and one of another, all with servers."""

    def __init__(self, where, driver, pods):
        self.machine, self.driver, self.pods = where, driver, pods

    def tries(self, sender, expression):
        return packets.inside(self.pods[sender], expression)

    def connects(self, sender, address, port=80):
        return self.tries(sender, f"connect({address!r}, {port})") == "connected"


@pytest.fixture
def world(machine):  # noqa: F811
    with contextlib.ExitStack() as stack:
        pods = {number: stack.enter_context(namespace()) for number in (2, 3, 4)}
        driver = stack.enter_context(driving(machine))
        driver("protect(group(2, 'a'), group(3, 'a'), group(4, 'b'))")
        for number, netns in pods.items():
            driver(f"wire(group({number}), {netns!r})")
        for netns in (machine, *pods.values()):
            stack.enter_context(serving(netns))
        yield World(machine, driver, pods)


def test_pods_of_one_tenant_reach_each_other_and_no_others(world):
    assert world.connects(2, "10.9.1.3")
    assert world.connects(3, "10.9.1.2")
    assert world.tries(2, "echo('10.9.1.3')") == "answered"
    for sender, receiver in ((2, 4), (4, 2)):
        assert world.tries(sender, f"connect('10.9.1.{receiver}', 80)") == "TimeoutError"
        assert world.tries(sender, f"echo('10.9.1.{receiver}', 0.5)") == "silent"
        assert world.tries(sender, f"ask('10.9.1.{receiver}', 53)") == "TimeoutError"


def test_of_the_machine_a_pod_reaches_what_it_may_and_nothing_else(world):
    assert world.tries(2, f"echo('{MACHINE}')") == "answered"
    assert world.tries(2, f"ask('{MACHINE}', 53)") == "kci!"
    assert world.connects(2, MACHINE, 6443)
    for port in (53, 80, 10250):
        assert world.tries(2, f"connect('{MACHINE}', {port}, 0.5)") == "TimeoutError"
    assert world.tries(2, f"ask('{MACHINE}', 6443, 0.5)") == "TimeoutError"
    # Another address of the machine's, another group's gateway, and where clouds tell secrets.
    run("ip", "-n", world.machine, "address", "add", "169.254.169.254/32", "dev", "lo")
    run("ip", "-n", world.machine, "address", "add", "192.0.2.1/32", "dev", "lo")
    run("ip", "-n", world.machine, "address", "add", "192.0.2.2/32", "dev", BRIDGE)
    for address in ("169.254.169.254", "192.0.2.1", "192.0.2.2", "10.9.255.255", "255.255.255.255"):
        assert world.tries(2, f"echo({address!r}, 0.3)") != "answered"
        for port in (53, 80, 6443):
            assert world.tries(2, f"connect({address!r}, {port}, 0.3)") != "connected"


def test_the_machine_reaches_its_pods(world):
    for number in world.pods:
        assert packets.inside(world.machine, f"connect('10.9.1.{number}', 80)") == "connected"
        assert packets.pings(world.machine, f"10.9.1.{number}")


FRAMES = {
    "as it should be": ("02:00:00:00:01:02", "0800", "10.9.1.2", "10.9.1.3"),
    "the other's address": ("02:00:00:00:01:02", "0800", "10.9.1.3", "10.9.1.3"),
    "the gateway's address": ("02:00:00:00:01:02", "0800", MACHINE, "10.9.1.3"),
    "an address of elsewhere": ("02:00:00:00:01:02", "0800", "198.51.100.7", "10.9.1.3"),
    "loopback's address": ("02:00:00:00:01:02", "0800", "127.0.0.1", "10.9.1.3"),
    "no address": ("02:00:00:00:01:02", "0800", "0.0.0.0", "10.9.1.3"),
    "the other's MAC address": ("02:00:00:00:01:03", "0800", "10.9.1.2", "10.9.1.3"),
    "the machine's MAC address": ("02:4b:0a:09:00:01", "0800", "10.9.1.2", "10.9.1.3"),
    "a VLAN": ("02:00:00:00:01:02", "8100 0005 0800", "10.9.1.2", "10.9.1.3"),
    "two VLANs": ("02:00:00:00:01:02", "88a8 0001 8100 0005 0800", "10.9.1.2", "10.9.1.3"),
    "to the machine's loopback": ("02:00:00:00:01:02", "0800", "10.9.1.2", "127.0.0.1"),
    "to everybody": ("02:00:00:00:01:02", "0800", "10.9.1.2", "255.255.255.255"),
    "to the subnet": ("02:00:00:00:01:02", "0800", "10.9.1.2", "10.9.255.255"),
    "to a group of receivers": ("02:00:00:00:01:02", "0800", "10.9.1.2", "224.0.0.251"),
    "to the metadata": ("02:00:00:00:01:02", "0800", "10.9.1.2", "169.254.169.254"),
    "to another tenant": ("02:00:00:00:01:02", "0800", "10.9.1.2", "10.9.1.4"),
}
SEND = """
import socket, struct
def frame(source, kinds, sender, receiver, to="02:4b:0a:09:00:01"):
    body = b"kci-probe"
    udp = struct.pack("!HHHH", 4000, 53, 8 + len(body), 0) + body
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                       socket.inet_aton(sender), socket.inet_aton(receiver))
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    mac = lambda text: bytes.fromhex(text.replace(":", ""))
    return mac(to) + mac(source) + bytes.fromhex(kinds) + head + udp
def send(*frames):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as it:
        it.bind(("eth0", 0))
        return [it.send(bytes.fromhex(one) if isinstance(one, str) else frame(*one)) for one in frames]
"""


@contextlib.contextmanager
def watching(netns):
    """A list of payloads of all IPv4 and IPv6 packets with our mark that the namespace receives."""
    code = """
import socket, sys
it = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print("listens", flush=True)
while True:
    data, (link, kind, direction, *_) = it.recvfrom(2048)
    if b"kci-probe" in data and direction != 4:
        print("seen", flush=True)
    if b"kci-done" in data:
        print("done", flush=True)
"""
    process = subprocess.Popen(
        ["ip", "netns", "exec", netns, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "listens\n"
            yield process.stdout
        finally:
            process.kill()


def sent(world, sender, *frames):
    said = f"{packets.PROGRAM}\n{SEND}\nprint(send({', '.join(map(repr, frames))}))"
    run("ip", "netns", "exec", world.pods[sender], sys.executable, "-c", said)


def delivered(world, frame, receiver):
    """Whether a frame of the second pod's comes out at a receiver's end; an honest packet ends the wait."""
    with watching(world.pods[receiver]) as seen:
        sent(world, 2, frame)
        done = f"import socket; socket.socket(2, 2).sendto(b'kci-done', ('10.9.1.{receiver}', 9))"
        run("ip", "netns", "exec", world.machine, sys.executable, "-c", done)
        return seen.readline() == "seen\n"


def past_the_rules(world):
    """How many probes came to an end of the machine's hooks, wherever they were for."""
    told = run(
        "ip", "netns", "exec", world.machine, "nft", "-j", "list", "counter", "inet", "probe", "arrived"
    )
    return json.loads(told.stdout)["nftables"][1]["counter"]["packets"]


def test_a_frame_that_is_not_a_pods_own_goes_nowhere(world):
    probe = (
        "add table inet probe; add counter inet probe arrived; "
        "add chain inet probe past { type filter hook input priority 300; }; "
        "add rule inet probe past iifgroup != 0 udp dport 53 counter name arrived; "
        "add chain inet probe onwards { type filter hook forward priority 300; }; "
        "add rule inet probe onwards udp dport 53 counter name arrived"
    )
    run("ip", "netns", "exec", world.machine, "nft", probe)
    passed = {what for what, frame in FRAMES.items() if delivered(world, frame, 4 if "tenant" in what else 3)}
    assert passed == {"as it should be"}
    assert past_the_rules(world) == 1


def test_ipv6_and_arp_of_a_pod_change_nothing(world):
    run("ip", "netns", "exec", world.pods[2], "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
    run("ip", "-n", world.pods[2], "-6", "address", "add", "fe80::2/64", "dev", "eth0", "nodad")
    before = shown(world.machine, "neigh")
    machine_mac, pod_mac = "024b0a090001", "020000000102"
    advertisement = (
        "333300000001" + pod_mac + "86dd" + "6000000000183aff" + "fe80000000000000000000000000000a"
        + "ff020000000000000000000000000001" + "8600" + "0000" + "40000708" + "00" * 8 + "0101" + pod_mac
    )  # fmt: skip
    arp = "0806" + "0001080006040002" + pod_mac
    third, gateway = "0a090103", "0a090001"
    sent(
        world, 2,
        advertisement,
        # Answers nobody asked for: the other pod's address, and the gateway's, are said to be here.
        machine_mac + pod_mac + arp + third + machine_mac + gateway,
        machine_mac + pod_mac + arp + gateway + machine_mac + gateway,
        "ffffffffffff" + pod_mac + arp.replace("0604000", "0604000") + third + "ffffffffffff" + third,
    )  # fmt: skip
    assert shown(world.machine, "neigh") == before
    assert not shown(world.machine, "-6", "route", "show", "default")
    assert world.connects(3, "10.9.1.2")
    assert packets.pings(world.machine, "10.9.1.3")
    refused = packets.inside(world.pods[2], "echo('10.9.1.3')")
    assert refused == "answered"


def test_a_pod_that_takes_another_address_is_not_heard(world):
    run("ip", "-n", world.pods[2], "address", "add", "10.9.1.9/32", "dev", "eth0")
    said = packets.PROGRAM.replace(
        "it.connect((address, port))", "it.bind(('10.9.1.9', 0)); it.connect((address, port))"
    )
    code = f"{said}\nprint(connect('10.9.1.3', 80, 0.5))"
    done = run("ip", "netns", "exec", world.pods[2], sys.executable, "-c", code)
    assert done.stdout.strip() == "TimeoutError"


def test_a_pod_has_so_many_connections_and_leaves_the_others_theirs(world):
    flood = (
        "[socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.9.1.3', 1000 + number))"
        " for number in range(500)] and int(open('/proc/sys/net/netfilter/nf_conntrack_count').read())"
    )
    _ = world.tries(2, flood)
    counted = packets.inside(world.machine, "int(open('/proc/sys/net/netfilter/nf_conntrack_count').read())")
    assert counted < 100
    assert not world.connects(2, "10.9.1.3")
    assert world.connects(3, "10.9.1.2")


SECURED = "protect(group(2, 'a', ['web']), group(3, 'a', ['db']), group(4, 'b'), "


@pytest.mark.guide("annotation kci-security-group-id")
def test_security_groups_say_what_begins_and_answers_always_pass(world):
    world.driver(
        SECURED
        + "web=[rule('out')], db=[rule('in', protocol=link.Protocol.TCP, first_port=443, last_port=443,"
        " security_group_id='web')])"
    )
    assert world.connects(2, "10.9.1.3", 443)
    assert not world.connects(2, "10.9.1.3", 80)
    assert world.tries(2, "echo('10.9.1.3', 0.3)") == "silent"
    # No rule lets it out, or the machine in.
    assert not world.connects(3, "10.9.1.2", 80)
    assert not world.connects(3, MACHINE, 6443)
    assert packets.inside(world.machine, "connect('10.9.1.3', 443, 0.3)") == "TimeoutError"


def test_a_changed_rule_holds_for_running_pods_within_a_second(world):
    open_all = SECURED + "web=[rule('out')], db=[rule('in'), rule('out')])"
    world.driver(open_all)
    assert world.connects(2, "10.9.1.3")
    began = time.monotonic()
    world.driver(SECURED + "web=[rule('out')], db=[rule('in', is_allowed=False), rule('in'), rule('out')])")
    assert time.monotonic() - began < 1
    assert not world.connects(2, "10.9.1.3")
    world.driver(open_all)
    assert world.connects(2, "10.9.1.3")


def test_a_security_groups_members_come_and_go(world):
    rules = "db=[rule('in', security_group_id='web')], web=[rule('out')])"
    world.driver(SECURED + rules)
    assert world.connects(2, "10.9.1.3")
    world.driver("protect(group(2, 'a'), group(3, 'a', ['db']), group(4, 'b'), " + rules)
    assert not world.connects(2, "10.9.1.3")
    world.driver(SECURED + rules)
    assert world.connects(2, "10.9.1.3")


def test_a_pod_whose_security_group_is_not_known_passes_nothing(world):
    world.driver("protect(group(2, 'a', ['none']), group(3, 'a'), group(4, 'b'))")
    assert not world.connects(2, "10.9.1.3")
    assert not world.connects(3, "10.9.1.2")
    assert world.connects(3, MACHINE, 6443)


def test_rules_stay_without_their_program_and_a_new_one_takes_them_over(world):
    closed = SECURED + "web=[rule('out')], db=[rule('out')])"
    world.driver(closed)
    world.driver.end()
    assert not world.connects(2, "10.9.1.3")
    with driving(world.machine) as anew:
        # It was told of one group only: what the earlier one knew holds.
        assert anew("protect(group(2, 'a'), is_whole=False)") is False
        assert not world.connects(2, "10.9.1.3")
        assert world.connects(3, "10.9.1.2") is False
        assert anew(closed) is True
        assert not world.connects(2, "10.9.1.3")
        assert anew(SECURED + "web=[rule('out')], db=[rule('in')])") is True
        assert world.connects(2, "10.9.1.3")


# 25 says by what the kernel is to choose; of 63 it knows as little as one of before 6.6 of that.
@pytest.mark.parametrize(("chooses", "others"), [(25, 1), (63, 1), (25, 40)])
def test_flows_of_a_pod_that_is_gone_are_nobody_elses(world, chooses, others):
    said = "[socket.socket(2, 2).sendto(b'x', ('10.9.1.{}', 9)) for _ in range(10)]"
    world.tries(2, said.format(3))
    world.tries(3, said.format(2))
    packets.inside(world.machine, said.format(2))
    packets.inside(world.machine, said.format(3))
    # Of other protocols the kernel tells other things.
    assert world.connects(2, "10.9.1.3")
    assert world.tries(2, "echo('10.9.1.3')") == "answered"
    counted = (
        "import socket; from kci.kcilet.drivers.network import tracked; table = tracked.Table(); "
        "print(*(len(table.with_addresses({socket.inet_aton(f'10.9.1.{number}')})) for number in (2, 3)))"
    )
    inside = ("ip", "netns", "exec", world.machine, sys.executable, "-c")
    assert run(*inside, counted).stdout == "32 32\n"
    run(
        *inside,
        f"from kci.kcilet.drivers.network import flows, tracked; tracked._FILTER = {chooses}; "
        f"flows.forget(['10.9.1.2', *(f'10.9.2.{{number}}' for number in range({others}))])",
    )
    assert run(*inside, counted).stdout == "0 10\n"


def test_a_link_that_no_rules_name_passes_nothing(world):
    world.driver("protect(group(3, 'a'), group(4, 'b'))")
    assert not world.connects(2, "10.9.1.3")
    assert not world.connects(2, MACHINE, 6443)
    assert not world.connects(3, "10.9.1.2")


def test_rules_that_somebody_took_away_come_back(world):
    world.driver(SECURED + "web=[rule('out')], db=[rule('out')])")
    # The others leave names without rules.
    chains = [("chain", "inet", TABLE, name) for name in ("passing", "from_pod", "arriving")]
    policies = re.findall(r"out_\w+", nft(world.machine, "list", "chains"))
    chains += [("chain", "inet", TABLE, name) for name in policies]
    for what in (("ruleset",), ("table", "inet", TABLE), *chains):
        assert world.driver("guard.is_whole()") is True
        _ = nft(world.machine, "flush", *what)
        assert world.driver("guard.is_whole()") is False, what
        world.driver(SECURED + "web=[rule('out')], db=[rule('out')])")
        assert not world.connects(2, "10.9.1.3"), what


def nft(netns, *words):
    return run("ip", "netns", "exec", netns, "nft", *words).stdout


def test_links_and_rules_of_others_are_left_alone(world):
    run("ip", "netns", "exec", world.machine, "nft", "add table inet other")
    with namespace() as other:
        run(
            "ip",
            "-n",
            world.machine,
            "link",
            "add",
            "kvother",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            other,
        )
        for netns, name, address in (
            (world.machine, "kvother", "198.51.100.1"),
            (other, "eth0", "198.51.100.2"),
        ):
            run("ip", "-n", netns, "address", "add", f"{address}/24", "dev", name)
            run("ip", "-n", netns, "link", "set", name, "up")
        assert packets.inside(other, "connect('198.51.100.1', 10250)") == "connected"
    world.driver("protect()")
    tables = run("ip", "netns", "exec", world.machine, "nft", "list", "tables").stdout
    assert "table inet other" in tables
