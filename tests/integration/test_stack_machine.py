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


def test_a_stack_is_entered_where_its_supervisor_is_or_where_its_name_says(netns):
    """Also one that was started inside a namespace whose name it was not told."""
    code = f"""
import os, sys, msgspec
from kci.stack import board, namespaces, processes
alive = processes.observe(int(sys.argv[1]))
dead = msgspec.structs.replace(alive, start_ticks=alive.start_ticks - 1)
state = board.new_state("run", None, alive if sys.argv[2] == "alive" else dead)
if sys.argv[2] == "named":
    state = msgspec.structs.replace(state, netns="{netns}")
namespaces.enter_network_of_stack(state)
print(os.readlink("/proc/self/ns/net"))
"""
    here = run("readlink", "/proc/self/ns/net").stdout
    there = run("nsenter", f"--net=/run/netns/{netns}", "readlink", "/proc/self/ns/net").stdout
    with subprocess.Popen(["nsenter", f"--net=/run/netns/{netns}", "sleep", "600"]) as sleeper:
        try:
            found = {
                how: run(sys.executable, "-c", code, str(sleeper.pid), how).stdout
                for how in ("alive", "named", "dead")
            }
        finally:
            sleeper.kill()
    assert found == {"alive": there, "named": there, "dead": here}


def test_links_of_others_are_seen_once_ours_are_gone(netns):
    ask = "print(links.has_others_virtual_links())"
    inside(netns, "links.ensure('kci-test', ranges)")
    assert inside(netns, f"links.remove('kci-test', ranges); {ask}") == "False\n"
    run("ip", "-n", netns, "link", "add", "kvother", "type", "veth")
    assert inside(netns, ask) == "True\n"


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


def test_what_the_machine_lives_in_is_reserved_and_the_stacks_own_is_not(netns, tmp_path):
    inside(netns, "links.ensure('kci-test', ranges); links.remove('kci-test', ranges)")
    for words in (
        "link add lan0 up type veth peer name lan1",
        "link set lan1 up",
        "address add 192.168.1.50/24 dev lan0",
        "route add 198.51.100.1 dev lan0",
        "route add default via 198.51.100.1",
    ):
        run("ip", "-n", netns, *words.split())
    code = f"""
import pathlib
from kci.stack import layout, preparation, settings
where = layout.Layout(pathlib.Path({str(tmp_path / "s")!r}))
where.root.mkdir()
asked = settings.Settings(state_dir=str(where.root), cri_endpoint="/run/none.sock", netns={netns!r})
def prepare():
    return preparation.prepare(where, asked, settings.read_machine(), None, api_addresses=["203.0.113.7"])
first = prepare()
links.ensure(where.bridge, first.ranges)
print(json.dumps([str(one) for one in prepare().program_plan().reserved if one.overlaps(first.ranges.pods)]))
print(json.dumps([str(one) for one in prepare().reserved]))
"""
    own, reserved = [json.loads(line) for line in inside(netns, code).splitlines()]
    assert own == []
    assert set(reserved) >= {"10.152.0.0/16", "192.168.1.0/24", "198.51.100.1/32", "203.0.113.7/32"}


def warnings(netns):
    code = (
        "from kci.stack import otherfirewalls, typed\n"
        "print(json.dumps(otherfirewalls.find_warnings('kci-test', typed.USUAL)))"
    )
    return json.loads(inside(netns, code))


def nft(netns, *commands):
    for command in commands:
        run("ip", "netns", "exec", netns, "nft", command)


OPENED = tuple(f'insert rule {{}} {side}ifname "kv*" accept' for side in "io")


def test_dockers_firewall_is_told_until_pods_are_let_through(netns):
    """Docker's chains as iptables-nft makes them."""
    assert warnings(netns) == []
    nft(
        netns,
        "add table ip filter",
        "add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }",
        "add chain ip filter DOCKER-USER",
        "add rule ip filter FORWARD jump DOCKER-USER",
    )
    (told,) = warnings(netns)
    assert "the chain FORWARD of the table ip filter drops" in told
    for side in "io":
        assert f"`iptables -I DOCKER-USER -{side} kv+ -j ACCEPT`" in told
    nft(netns, *(one.format("ip filter DOCKER-USER") for one in OPENED))
    assert warnings(netns) == []


def test_the_guards_of_stacks_are_nobody_elses_firewall(netns):
    base = "{ type filter hook input priority filter; policy accept; }"
    for table in ("kci-ca8c54-guard", "kci-ca8c54-guarded"):
        nft(
            netns,
            f"add table inet {table}",
            f"add chain inet {table} entering {base}",
            f"add rule inet {table} entering drop",
        )
    (told,) = warnings(netns)
    assert "table inet kci-ca8c54-guarded drops" in told


def test_a_chain_that_ends_in_a_drop_for_all_is_told_with_the_rules_that_open_it(netns):
    nft(
        netns,
        "add table inet mine",
        "add chain inet mine forward { type filter hook forward priority filter; }",
        "add rule inet mine forward ct state established accept",
        "add rule inet mine forward counter reject with icmpx admin-prohibited",
        "add chain inet mine in { type filter hook input priority filter; policy drop; }",
        "add chain inet mine out { type filter hook output priority filter; policy drop; }",
        "add table ip6 mine",
        "add chain ip6 mine forward { type filter hook forward priority filter; policy drop; }",
        # Only of somebody else's packets.
        "add table inet fine",
        "add chain inet fine forward { type filter hook forward priority filter; }",
        'add rule inet fine forward iifname "eth9" drop',
    )
    forward, entering = warnings(netns)
    for side in "io":
        assert f'`nft insert rule inet mine forward {side}ifname "kv*" accept`' in forward
    assert '`nft insert rule inet mine in iifname "kv*" accept` lets it pass' in entering
    nft(netns, *(one.format("inet mine forward") for one in OPENED), OPENED[0].format("inet mine in"))
    assert warnings(netns) == []


def test_firewalld_is_told_until_a_zone_of_it_has_the_pods(netns):
    nft(
        netns,
        "add table inet firewalld",
        "add chain inet firewalld zones",
        "add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; }",
        "add rule inet firewalld filter_FORWARD jump zones",
        "add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited",
    )
    (told,) = warnings(netns)
    assert "--zone=trusted --add-interface=kv+" in told
    assert "kci-test" in told
    nft(netns, 'add rule inet firewalld zones iifname "kv*" accept')
    assert warnings(netns) == []


def test_a_machine_that_has_all_that_pods_networks_need_is_left_as_it_was(netns):
    code = """
from kci.stack import trial
print(json.dumps([trial.run(), [route.interface for route in links.list_routes()]]))
"""
    assert json.loads(inside(netns, code)) == [[], []]
    assert run("ip", "netns", "exec", netns, "nft", "list", "ruleset").stdout == ""
    assert len(run("ip", "-n", netns, "-o", "link").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("add rule inet trial none drop", "use a kernel with CONFIG_SUCH"),
        ("add rule inet trial c suchwords", "upgrade nftables to 1.0.6"),
    ],
)
def test_a_feature_that_is_missing_is_named_with_the_remedy(netns, command, remedy):
    code = f"""
from kci.stack import errors, trial
try:
    trial.run((*trial.FEATURES, trial.Feature("such thing", "CONFIG_SUCH", ({command!r},))))
except errors.StackError as error:
    print(error)
"""
    told = inside(netns, code)
    assert "has no such thing: " in told
    assert remedy in told
    assert "libnftables 1." in told


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
