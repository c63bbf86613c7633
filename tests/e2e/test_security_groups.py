"""A pod that wants to reach what it may not: from its first moment, with the network's capabilities, and over
a restart of the kcilet.
"""

import contextlib
import json
import subprocess
import sys

import pytest
from line import IDLE, eventually, pod

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.requirement("R54"),
    pytest.mark.guide("env KCI_SECURITY_GROUP_IDS"),
]
# A word for each place: `reached` even if nobody listens there.
TRY = """
try() {
    told=$(timeout 4 nc -w 1 "$1" "$2" </dev/null 2>&1 >/dev/null)
    case $told in
    *"timed out"*|*unreachable*|*"No route"*|*"not permitted"*) echo "$1:$2 no";;
    *) echo "$1:$2 reached";;
    esac
}
"""
ADVERSARY = {"securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}}
WEB = "mkdir -p /www; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"


def tries(places):
    return TRY + "".join(f"try {address} {port}\n" for address, port in places)


def reached(told):
    return {line.split()[0] for line in told.splitlines() if line.endswith(" reached")}


def ask(line, name, script):
    return line.kubectl("exec", name, "--", "sh", "-c", script)


def gateway_of(line):
    return json.loads(line.kci("status", "-o", "json"))["gateway"]


def run_inside(line, *argv):
    """A machine without IPv6 refuses, and then has nothing to be reached."""
    subprocess.run(line.inside(*argv), check=False, timeout=30)


@contextlib.contextmanager
def hearing(line, port):
    """Listens on the machine; whether anything has come."""
    listens = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); "
        f"s.bind(('0.0.0.0', {port})); print('listens', flush=True); "
        "sys.stdin.readline(); s.setblocking(False); "
        "print(next(iter([s.recv(1)]), None) is not None, flush=True)"
    )
    with subprocess.Popen(
        line.inside(sys.executable, "-c", listens),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "listens\n"
            # Its error when nothing has come ends it without a word.
            yield lambda: process.communicate("\n", timeout=10)[0] == "True\n"
        finally:
            process.kill()


def forbidden_places(line):
    gateway = gateway_of(line)
    own_ports = [10250, 22, 80, 2379, 2380, 10257, 10259, 443]
    return [(gateway, port) for port in own_ports] + [
        ("169.254.169.254", 80),
        ("127.0.0.2", 80),
        ("192.0.2.1", 80),
    ]


def test_a_pods_first_process_reaches_nothing_that_it_may_not(line):
    forbidden = [place for place in forbidden_places(line) if not place[0].startswith("127.")]
    gateway = gateway_of(line)
    script = tries([*forbidden[:3], (gateway, 6443)])
    line.apply(pod("hasty", script, restartPolicy="Never"))
    line.kubectl(
        "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s", "pod/hasty", timeout_s=120
    )
    told = line.kubectl("logs", "hasty")
    assert reached(told) == {f"{gateway}:6443"}, told
    line.kubectl("delete", "pod", "hasty")


def test_an_adversary_with_the_networks_capabilities_finds_no_way(line):
    line.apply(
        pod("adversary", IDLE, container=ADVERSARY),
        pod("victim", WEB),
        pod("friend", IDLE, container=ADVERSARY),
    )
    line.wait_ready("pod/adversary", "pod/victim", "pod/friend")
    victim, friend = (line.get("pod", name)["status"]["podIP"] for name in ("victim", "friend"))
    gateway = gateway_of(line)
    eventually(lambda: f"{victim}:8080" in reached(ask(line, "adversary", tries([(victim, 8080)]))))

    # What it may: its neighbours, an echo of its gateway, the API server, the KCI service.
    assert reached(ask(line, "adversary", tries([(gateway, 6443), (gateway, 8180), (victim, 8080)]))) == {
        f"{gateway}:6443", f"{gateway}:8180", f"{victim}:8080",
    }  # fmt: skip
    ask(line, "adversary", f"ping -c 1 -W 2 {gateway}")

    places = forbidden_places(line)
    # A machine of several addresses, and its loopback by way of the gateway.
    ask(line, "adversary", f"ip route add 127.0.0.2/32 via {gateway} 2>/dev/null; true")
    told = ask(line, "adversary", tries(place for place in places if place[0] != "127.0.0.2"))
    assert reached(told) == set(), told

    # Where clouds tell secrets over IPv6: by way of the gateway, which would not say that it has the address.
    metadata = "fd00:ec2::254"
    line_link = line.where.bridge
    run_inside(line, "ip", "-6", "address", "add", f"{metadata}/128", "dev", line_link, "nodad")
    by_ipv6 = (
        "ip -6 address add fd00:ec2::1/64 dev eth0 nodad 2>/dev/null; "
        "mac=$(ip neigh show dev eth0 | grep -o '..:..:..:..:..:..' | head -n 1); "
        f"ip -6 neigh add {metadata} lladdr $mac dev eth0 2>/dev/null; "
        f"ping6 -c 1 -W 1 {metadata} >/dev/null 2>&1; echo $?"
    )
    assert ask(line, "adversary", by_ipv6).split()[-1] == "1"
    run_inside(line, "ip", "-6", "address", "delete", f"{metadata}/128", "dev", line_link)
    # A raw broadcast: nobody leases it anything, and the machine's own DHCP server would not hear of it.
    with hearing(line, 67) as heard:
        discover = "udhcpc -i eth0 -n -q -t 2 -T 1 -s /bin/true >/dev/null 2>&1; echo $?"
        assert ask(line, "adversary", discover).split()[-1] == "1"
        assert not heard()

    # Somebody else's address, MAC address, and IPv6.
    takes, gives = (f"ip address {verb} {friend}/32 dev eth0" for verb in ("add", "del"))
    spoof = f"{takes}; ping -c 1 -W 1 -I {friend} {victim} >/dev/null; echo $?; {gives}"
    assert ask(line, "adversary", spoof).split()[-1] == "1"
    own = ask(line, "adversary", "cat /sys/class/net/eth0/address").strip()
    masked = (
        "ip link set eth0 address 02:00:00:00:00:99; "
        f"ping -c 1 -W 1 {victim} >/dev/null; echo $?; ip link set eth0 address {own}; "
        f"ip route replace default via {gateway} dev eth0 onlink"
    )
    assert ask(line, "adversary", masked).split()[-1] == "1"
    # An answer to a question that nobody asked: the friend goes on being where it is.
    ask(line, "adversary", f"{takes}; arping -U -c 2 -I eth0 {friend}; {gives}; true")
    assert f"{victim}:8080" in reached(ask(line, "friend", tries([(victim, 8080)])))
    assert f"{victim}:8080" in reached(ask(line, "adversary", tries([(victim, 8080)])))
    line.kubectl("delete", "pod", "adversary", "victim", "friend")


def test_rules_hold_while_the_kcilet_is_away_and_when_it_is_back(line):
    gateway = gateway_of(line)
    steps = f"try {gateway} 10250; try {gateway} 6443; sleep 0.2"
    again = f"{TRY}\ntrap 'exit 0' TERM\nwhile :; do {steps}; done"
    line.apply(pod("patient", again))
    line.wait_ready("pod/patient")
    eventually(lambda: f"{gateway}:6443" in reached(line.kubectl("logs", "patient")))
    killed = line.kill("kcilet")
    line.wait_back("kcilet", killed)
    # Once the service has found it again.
    seen = eventually(lambda: line.kubectl("logs", "patient").count("6443 reached"))
    eventually(lambda: line.kubectl("logs", "patient").count("6443 reached") > seen + 3)
    told = line.kubectl("logs", "patient")
    assert reached(told) == {f"{gateway}:6443"}
    assert f"{gateway}:6443 no" not in told
    line.kubectl("delete", "pod", "patient")
