"""What the stack does to a machine, in network namespaces of these tests' own."""

import contextlib
import ipaddress
import json
import pathlib
import shutil
import subprocess
import sys
import uuid

import needs
import pytest

from kci.kit import linkgroups
from kci.stack import addresses

pytestmark = pytest.mark.integration
RANGES = addresses.Ranges(ipaddress.IPv4Network("10.88.0.0/16"), ipaddress.IPv4Network("10.152.0.0/16"))
IN_NETNS = """
import json, sys
from kci.stack import addresses, links
ranges = addresses.Ranges(addresses.Network("10.88.0.0/16"), addresses.Network("10.152.0.0/16"))
{code}
"""
KCI = [sys.executable, "-m", "kci.cli.main"]


def run(*argv, check=True):
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=check)


@pytest.fixture
def netns():
    name = f"kci-test-{uuid.uuid4().hex[:6]}"
    path = pathlib.Path("/run/netns") / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    run("unshare", f"--net={path}", "true")
    yield name
    run("ip", "netns", "delete", name)


def inside(netns, code):
    done = run("nsenter", f"--net=/run/netns/{netns}", sys.executable, "-c", IN_NETNS.format(code=code))
    return done.stdout


def routes(netns):
    return json.loads(run("ip", "-n", netns, "-j", "route").stdout)


def test_the_link_can_be_made_twice_and_removed_twice(netns):
    before = routes(netns)
    inside(netns, "links.ensure('kci-test', ranges); links.ensure('kci-test', ranges)")
    made = {(route.get("type", "unicast"), route["dst"]) for route in routes(netns)}
    assert made == {
        ("unicast", "10.88.0.0/16"),
        ("unreachable", "10.88.0.0/16"),
        ("unreachable", "10.152.0.0/16"),
    }
    inside(netns, "links.remove('kci-test', ranges); links.remove('kci-test', ranges)")
    assert routes(netns) == before
    assert "kci-test" not in run("ip", "-n", netns, "link").stdout


def test_links_and_rules_of_pods_go_with_the_link_and_others_stay(netns):
    """As a kcilet that was killed leaves them."""
    inside(netns, "links.ensure('kci-test', ranges)")
    number = str(linkgroups.number_of("kci-test"))
    for name, group in (("kvours", number), ("kvother", "7")):
        run("ip", "-n", netns, "link", "add", name, "group", group, "type", "veth")
    for table in ("kci-test-guard", "kci-test-services", "kci-other-guard"):
        run("ip", "netns", "exec", netns, "nft", f"add table inet {table}")
    inside(netns, "links.remove('kci-test', ranges); links.remove('kci-test', ranges)")
    left = run("ip", "-n", netns, "-o", "link").stdout
    assert "kvours" not in left
    assert "kvother" in left
    tables = run("ip", "netns", "exec", netns, "nft", "list", "tables").stdout
    assert tables.split() == ["table", "inet", "kci-other-guard"]


def test_addresses_in_use_by_nobody_do_not_leave_by_the_default_route(netns):
    inside(netns, "links.ensure('kci-test', ranges)")
    for words in (
        "link add up0 type veth peer name up1",
        "link set up0 up",
        "link set up1 up",
        "address add 192.0.2.1/24 dev up0",
        "route add default via 192.0.2.2",
        "link set kci-test down",
    ):
        run("ip", "-n", netns, *words.split())
    assert "via 192.0.2.2" in run("ip", "-n", netns, "route", "get", "203.0.113.1").stdout
    for address in ("10.152.3.4", "10.88.3.4"):
        lost = run("ip", "-n", netns, "route", "get", address, check=False)
        assert "No route to host" in lost.stderr


def test_routes_of_the_namespace_are_seen_with_their_links(netns):
    inside(netns, "links.ensure('kci-test', ranges)")
    seen = json.loads(
        inside(netns, "print(json.dumps([[str(r.destination), r.interface] for r in links.list_routes()]))")
    )
    assert ["10.88.0.0/16", "kci-test"] in seen
    assert ["10.152.0.0/16", ""] in seen


def test_a_route_tells_its_links_group_and_where_it_hands_on(netns):
    for words in (
        "link add up0 group 9 up type veth peer name up1",
        "address add 192.0.2.1/24 dev up0",
        "route add default nexthop via 192.0.2.2 nexthop via 192.0.2.3",
    ):
        run("ip", "-n", netns, *words.split())
    told = "[str(r.destination), r.interface, r.link_group, list(r.next_hops)]"
    seen = json.loads(inside(netns, f"print(json.dumps([{told} for r in links.list_routes()]))"))
    assert ["0.0.0.0/0", "up0", 9, ["192.0.2.2", "192.0.2.3"]] in seen
    assert ["192.0.2.0/24", "up0", 9, []] in seen
    assert ["192.0.2.1/32", "up0", 9, []] in seen


@contextlib.contextmanager
def listener(netns, port):
    code = f"import socket, time; s = socket.create_server(('0.0.0.0', {port})); print(1, flush=True)"
    code += "; time.sleep(600)"
    argv = ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.kill()


def test_a_start_that_fails_names_the_cause_and_leaves_nothing(netns, tmp_path):
    """The KCI service's port is taken, which is found out while other parts run already."""
    needs.demand("" if shutil.which("containerd") else "containerd is not installed")
    state_dir = tmp_path / "s"
    before = routes(netns)
    with listener(netns, 8180):
        done = run(
            *KCI,
            "up",
            "--detach",
            "--netns",
            netns,
            "--state-dir",
            str(state_dir),
            "--images",
            "local",
            check=False,
        )
    assert done.returncode == 1
    assert "10.88.0.1:8180 is taken" in done.stderr
    assert "--kci-port" in done.stderr
    assert routes(netns) == before
    assert str(state_dir) not in run("ps", "-eo", "args").stdout
    assert (
        json.loads(run(*KCI, "status", "--state-dir", str(state_dir), "-o", "json", check=False).stdout)[
            "state"
        ]
        == "failed"
    )
    assert run(*KCI, "down", "--purge", "--state-dir", str(state_dir)).returncode == 0
    assert not state_dir.exists()
    assert pathlib.Path(f"/run/netns/{netns}").exists()
