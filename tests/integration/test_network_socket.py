"""The driver's answers to the CNI plugin, with links and rules in network namespaces of these tests' own."""

import json
import subprocess
import sys

import packets
import pytest
from test_pod_links import BRIDGE, links, machine, namespace, pod, run  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.integration, pytest.mark.requirement("R54")]
CODE = """
import asyncio, json, pathlib, sys, tempfile
from kci.kcilet import ports
from kci.kcilet.drivers.network import server
from kci.kit import logs, tasks
from kci.link import types as link

def guarded(number, gateway="10.9.0.1"):
    interface = link.Interface(
        address=f"10.9.1.{{number}}", prefix_length=16, gateway=gateway,
        mac_address=f"02:00:00:00:01:0{{number}}",
    )
    return ports.GuardedPod(f"uid-{{number}}", interface)

async def ask(socket, command, number, netns):
    question = {{
        "command": command, "container_id": f"box-{{number}}", "netns": f"/run/netns/{{netns}}",
        "ifname": "eth0", "args": f"K8S_POD_UID=uid-{{number}}",
    }}
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(json.dumps(question).encode() + b"\\n")
    answer = json.loads(await reader.readline())
    writer.close()
    return answer

async def main():
    with tempfile.TemporaryDirectory() as folder:
        socket = pathlib.Path(folder, "cni.sock")
        async with server.open_network(socket, "{bridge}") as network:
            {code}

logs.configure("error")
asyncio.run(main())
"""


def drive(netns, code, first=""):
    indented = code.strip().replace("\n", "\n            ")
    text = first + CODE.format(bridge=BRIDGE, code=indented)
    done = subprocess.run(
        ["ip", "netns", "exec", netns, sys.executable, "-W", "error", "-c", text],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


FLOWS = """
import pyroute2, socket
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple as ends
from kci.kcilet.drivers.network import tracked

def begin(number):
    here, there = f"10.9.1.{number}", "198.51.100.7"
    with pyroute2.NFCTSocket() as it:
        it.entry(
            "add", timeout=600,
            tuple_orig=ends(saddr=here, daddr=there, proto=17, sport=1000, dport=53),
            tuple_reply=ends(saddr=there, daddr=here, proto=17, sport=53, dport=1000),
        )

def count(number):
    with tracked.Table() as table:
        return len(table.with_addresses({socket.inet_aton(f"10.9.1.{number}")}))
"""


def tracks(netns, code):
    """Of tracked connections, in the machine's namespace."""
    done = run("ip", "netns", "exec", netns, sys.executable, "-c", f"{FLOWS}\nprint({code})")
    return done.stdout.strip()


def test_flows_of_pods_that_went_while_the_driver_was_away_are_forgotten(machine):  # noqa: F811
    drive(machine, "await network.guard(ports.Firewall(pods=(guarded(2), guarded(3))))")
    tracks(machine, "begin(2), begin(3)")
    assert tracks(machine, "(count(2), count(3))") == "(1, 1)"
    drive(machine, "await network.guard(ports.Firewall(pods=(guarded(3),), is_whole=False))")
    assert tracks(machine, "(count(2), count(3))") == "(1, 1)"
    drive(machine, "await network.guard(ports.Firewall(pods=(guarded(3),)))")
    assert tracks(machine, "(count(2), count(3))") == "(0, 1)"


def test_flows_are_forgotten_though_another_pod_has_the_address_at_once(machine):  # noqa: F811
    drive(machine, "await network.guard(ports.Firewall(pods=(guarded(2),)))")
    tracks(machine, "begin(2)")
    code = """
import subprocess
await network.guard(ports.Firewall(pods=(guarded(2), guarded(3))))
print(json.dumps(count(2)))
next_one = ports.GuardedPod("uid-next", guarded(2).interface)
await network.guard(ports.Firewall(pods=(next_one, guarded(3))))
print(json.dumps(count(2)))
"""
    assert drive(machine, code, FLOWS) == [1, 0]


def test_a_pod_is_not_wired_while_flows_of_its_address_may_be_there(machine, pod):  # noqa: F811
    code = f"""
import threading
from kci.kcilet.drivers.network import flows
entered, may_go_on = threading.Event(), threading.Event()
forget, fails = flows.forget, [OSError("not now")]

def held_up(addresses):
    # Once before the rules are set, and again when they are.
    if fails:
        raise fails.pop()
    entered.set()
    assert may_go_on.wait(10)
    forget(addresses)

await network.guard(ports.Firewall(pods=(guarded(2),)))
flows.forget = held_up
former, anew = guarded(2), ports.GuardedPod("uid-4", guarded(2).interface)
network.expect("uid-4", anew.interface, ports.NO_LIMITS)
network.expect("uid-3", guarded(3).interface, ports.NO_LIMITS)
async with tasks.Tasks() as group:
    setting = group.spawn("guard", network.guard(ports.Firewall(pods=(anew, guarded(3)))))
    assert await asyncio.to_thread(entered.wait, 10)
    asked = group.spawn("ask", ask(socket, "ADD", 4, {pod!r}))
    # The other one waits for nothing: it comes as far as its namespace, that is not there; and later than
    # the first would, as they are wired one after the other.
    others = [await ask(socket, "ADD", 3, "no-such") for _ in range(5)]
    print(json.dumps("rules" in str(others)))
    print(json.dumps(asked.done() or setting.done()))
    may_go_on.set()
    print(json.dumps("result" in await asked))
    await setting
"""
    assert drive(machine, code) == [False, False, True]


def test_a_pod_is_wired_once_its_rules_are_there_and_not_before(machine, pod):  # noqa: F811
    told = drive(
        machine,
        f"""
network.expect("uid-2", guarded(2).interface, ports.NO_LIMITS)
async with tasks.Tasks() as group:
    asked = group.spawn("ask", ask(socket, "ADD", 2, {pod!r}))
    await network.guard(ports.Firewall(pods=(guarded(3),)))
    print(json.dumps(asked.done()))
    await network.guard(ports.Firewall(pods=(guarded(2), guarded(3))))
    print(json.dumps((await asked)["result"]["ips"]))
""",
    )
    assert told == [
        False,
        [{"version": "4", "interface": 0, "address": "10.9.1.2/32", "gateway": "10.9.0.1"}],
    ]
    assert packets.pings(pod, "10.9.0.1")


def test_a_pod_without_rules_is_refused_and_has_no_link(machine, pod):  # noqa: F811
    (answer,) = drive(
        machine,
        f"""
network.expect("uid-2", guarded(2).interface, ports.NO_LIMITS)
print(json.dumps(await ask(socket, "ADD", 2, {pod!r})))
""",
    )
    assert "there are no rules for its traffic" in answer["error"]
    assert "eth0" not in links(pod)


def test_a_pod_whose_rules_the_kernel_refuses_is_told_why(machine, pod):  # noqa: F811
    (answer,) = drive(
        machine,
        f"""
network.expect("uid-2", guarded(2).interface, ports.NO_LIMITS)
try:
    await network.guard(ports.Firewall(pods=(guarded(2), guarded("x"))))
except ports.DriverError:
    print(json.dumps(await ask(socket, "ADD", 2, {pod!r})))
""",
    )
    assert "there are no rules for its traffic: Error: " in answer["error"]


def test_after_a_restart_nobodys_rules_are_taken_away_until_all_is_known(machine, pod):  # noqa: F811
    wire = f"""
network.expect("uid-2", guarded(2).interface, ports.NO_LIMITS)
await network.guard(ports.Firewall(pods=(guarded(2),)))
await ask(socket, "ADD", 2, {pod!r})
"""
    drive(machine, wire)
    with namespace() as other:
        (answer,) = drive(
            machine,
            f"""
network.expect("uid-3", guarded(3).interface, ports.NO_LIMITS)
await network.guard(ports.Firewall(pods=(guarded(3),), is_whole=False))
print(json.dumps(await ask(socket, "ADD", 3, {other!r})))
""",
        )
        assert "error" in answer
        assert packets.pings(pod, "10.9.0.1")
        (answer,) = drive(
            machine,
            f"""
network.expect("uid-3", guarded(3).interface, ports.NO_LIMITS)
await network.guard(ports.Firewall(pods=(guarded(2), guarded(3))))
print(json.dumps(await ask(socket, "ADD", 3, {other!r})))
""",
        )
        assert "result" in answer
        assert packets.pings(other, "10.9.1.2")


# No protocol of addresses: as a kernel of before 5.18, that keeps none.
OLD_KERNEL = "from kci.kcilet.drivers.network import gateways; gateways._OURS = 0"


@pytest.mark.parametrize("first", ["", OLD_KERNEL], ids=["this kernel", "an older one"])
def test_gateways_of_pods_come_and_go_with_them(machine, pod, first):  # noqa: F811
    # One of the operator's.
    run("ip", "-n", machine, "address", "add", "172.17.0.1/32", "dev", BRIDGE)
    drive(
        machine,
        f"""
far = guarded(2, gateway="172.16.0.1")
network.expect("uid-2", far.interface, ports.NO_LIMITS)
await network.guard(ports.Firewall(pods=(far,)))
await ask(socket, "ADD", 2, {pod!r})
""",
        first,
    )
    assert packets.pings(pod, "172.16.0.1")
    drive(machine, "await network.guard(ports.Firewall())", first)
    left = run("ip", "-n", machine, "address", "show", BRIDGE).stdout
    assert "172.16.0.1" not in left
    assert "172.17.0.1" in left


def test_a_kernel_that_takes_too_long_is_an_error_of_the_driver_whatever_was_asked(machine):  # noqa: F811
    code = """
import threading
is_over = threading.Event()
server._WIRE_S = 0.05
network._thread.submit(is_over.wait, 10)
for asked in (
    network.guard(ports.Firewall()),
    network.limit_traffic("uid-2", ports.NO_LIMITS),
    network.remove_network("uid-2"),
    network.change_services("o", ports.ServiceChange({}, is_whole=True), {}),
    network.forget_services("o"),
    network.own_addresses(),
):
    try:
        await asked
    except ports.DriverError as error:
        print(json.dumps(str(error).endswith("the kernel was not done with it within 0 s")))
is_over.set()
"""
    assert drive(machine, code) == [True] * 6


@pytest.mark.parametrize(
    "what", ["flush ruleset", f"flush table inet {BRIDGE}-guard", f"delete table inet {BRIDGE}-services"]
)
def test_what_somebody_else_takes_away_is_told_at_once_and_what_we_do_ourselves_is_not(machine, what):  # noqa: F811
    told = drive(
        machine,
        f"""
key, at = ports.ServiceAddress("10.96.0.10", "tcp", 80), ports.Endpoint("10.9.1.3", 8080)
backends = [ports.Backend((at,), affinity_s) for affinity_s in (5, 6, 0)]
changes = [ports.ServiceChange({{key: one}}, is_whole=True) for one in backends]
members = {{"uid-2": guarded(2).interface}}
async with tasks.Tasks() as group:
    meddled = group.spawn("meddled", network.until_meddled())
    for change in changes:
        await network.guard(ports.Firewall(pods=(guarded(2),), policies={{"p": ports.Policy()}}))
        await network.change_services("o", change, members)
        await network.guard(ports.Firewall(pods=(guarded(2), guarded(3))))
    # Once all that is known of our own deletions was looked at.
    await asyncio.sleep(0.3)
    print(json.dumps(meddled.done()))
    began = asyncio.get_running_loop().time()
    other = await asyncio.create_subprocess_exec("nft", *{what.split()!r})
    await other.wait()
    async with asyncio.timeout(5):
        await meddled
    print(json.dumps(asyncio.get_running_loop().time() - began))
    await network.guard(ports.Firewall(pods=(guarded(2), guarded(3))))
    await network.change_services("o", ports.ServiceChange({{}}), members)
    again = group.spawn("again", network.until_meddled())
    await asyncio.sleep(0.3)
    print(json.dumps(again.done()))
    again.cancel()
""",
    )
    assert told[0] is False
    assert told[1] < 1.0
    assert told[2] is False
