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


def drive(netns, code):
    indented = code.strip().replace("\n", "\n            ")
    text = CODE.format(bridge=BRIDGE, code=indented)
    done = subprocess.run(
        ["ip", "netns", "exec", netns, sys.executable, "-W", "error", "-c", text],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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


def test_gateways_of_pods_come_and_go_with_them(machine, pod):  # noqa: F811
    drive(
        machine,
        f"""
far = guarded(2, gateway="172.16.0.1")
network.expect("uid-2", far.interface, ports.NO_LIMITS)
await network.guard(ports.Firewall(pods=(far,)))
await ask(socket, "ADD", 2, {pod!r})
""",
    )
    assert packets.pings(pod, "172.16.0.1")
    drive(machine, "await network.guard(ports.Firewall())")
    assert "172.16.0.1" not in run("ip", "-n", machine, "address", "show", BRIDGE).stdout


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
