"""The texts of the firewall's table."""

from kci.kcilet import ports
from kci.kcilet.drivers.network import cni, rules
from kci.link import types as link

FRAME = rules.Frame(
    table="kci-guard",
    link_group=77,
    reachable=frozenset({rules.Endpoint("10.0.0.1", 53, "udp")}),
    connections=100,
)
TCP, ICMP = link.Protocol.TCP, link.Protocol.ICMP


def pod(number, policy="", tenant=""):
    interface = link.Interface(
        address=f"10.0.0.{number}",
        prefix_length=16,
        gateway="10.0.0.1",
        mac_address=f"02:00:00:00:00:{number:02x}",
    )
    return ports.GuardedPod(f"uid-{number}", interface, tenant, policy)


def rule(**said):
    return ports.PacketRule(is_allowed=said.pop("is_allowed", True), **said)


def test_rules_are_written_in_their_order_and_what_fits_none_is_dropped():
    policy = ports.Policy(
        incoming=(
            rule(protocol=TCP, first_port=80, last_port=90, cidr="10.0.0.0/8"),
            rule(is_allowed=False, protocol=ICMP, icmp_type=8, icmp_code=0),
            rule(protocol=ICMP, members_of="} drop;"),
            rule(cidr="2001:db8::/32"),
        ),
        outgoing=(rule(),),
    )
    made = rules.to_ruleset(
        ports.Firewall((pod(2, "p"),), {"p": policy}, {"} drop;": frozenset({"10.0.0.3"})}), FRAME
    )
    (incoming,) = (found for name, found in made.chains.items() if name.startswith("in_"))
    (outgoing,) = (found for name, found in made.chains.items() if name.startswith("out_"))
    (members,) = (name for name in made.sets if name.startswith("members_"))
    assert incoming == (
        "ip saddr 10.0.0.0/8 tcp dport 80-90 return",
        "icmp type 8 icmp code 0 drop",
        f"ip saddr @{members} meta l4proto icmp return",
        "drop",
    )
    assert outgoing == ("return", "drop")


def test_names_of_others_never_stand_in_a_command():
    evil = '"; flush ruleset; x'
    firewall = ports.Firewall(
        (pod(2, evil, tenant=evil),),
        {evil: ports.Policy(incoming=(rule(members_of=evil),))},
        {evil: frozenset()},
    )
    assert "flush ruleset" not in rules.whole(rules.to_ruleset(firewall, FRAME), FRAME)


def test_one_pod_more_changes_elements_and_no_rule():
    before, after = (
        rules.to_ruleset(
            ports.Firewall(tuple(pod(number, "p") for number in range(2, last)), {"p": ports.Policy()}), FRAME
        )
        for last in (50, 51)
    )
    commands = rules.changes(before, after, FRAME).splitlines()
    assert len(commands) == 6
    assert all(command.startswith("add element") for command in commands)
    assert cni.to_link_name("uid-50") in commands[0]
    assert rules.changes(after, after, FRAME) == ""
