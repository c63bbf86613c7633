"""Which packets pass, by security groups: the planner against the rows' own words."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kci.kcilet import ports
from kci.kcilet.plan import firewall
from kci.link import types as link

pytestmark = pytest.mark.requirement("R54", runs=300)
IN, OUT = link.Direction.IN, link.Direction.OUT
ADDRESSES = [f"10.0.0.{number}" for number in range(2, 8)]
GROUPS = ["a", "b", "c", "d"]
PORTS = [1, 22, 53, 80, 443, 65535]


def row(direction=IN, **said):
    return link.SecurityGroupRule(direction=direction, **said)


def wanted(address, *security_group_ids, pod_uid="uid", tenant_id=""):
    group = link.WantedGroup(
        group_id=f"g-{address}",
        generation=1,
        tenant_id=tenant_id,
        cluster=link.Cluster(cluster_id="c", kubeconfig=""),
        namespace="n",
        pod_name="p",
        interface=link.Interface(
            address=address, prefix_length=16, gateway="10.0.0.1", mac_address="02:00:00:00:00:01"
        ),
        security_group_ids=security_group_ids,
    )
    return firewall.Wanted(group, pod_uid)


def secured(name, *rows):
    return link.SecurityGroup(security_group_id=name, rules=rows)


def policy_of(planned, number=0):
    return planned.policies[planned.pods[number].policy]


def test_pods_with_the_same_security_groups_share_a_policy_in_whatever_order_they_name_them():
    planned = firewall.plan(
        [wanted("10.0.0.2", "a", "b", pod_uid="1"), wanted("10.0.0.3", "b", "a", pod_uid="2")],
        [secured("a", row()), secured("b", row(OUT))],
    )
    assert len(planned.policies) == 1
    assert [pod.pod_uid for pod in planned.pods] == ["1", "2"]


def test_rows_are_one_list_by_priority_and_denials_come_first_of_equals():
    planned = firewall.plan(
        [wanted("10.0.0.2", "a", "b")],
        [
            secured("a", row(priority=5, cidr="10.0.0.0/24"), row(priority=1, cidr="10.0.1.0/24")),
            secured("b", row(priority=5, is_allowed=False, cidr="10.0.2.0/24"), row(OUT, priority=3)),
        ],
    )
    assert [(rule.cidr, rule.is_allowed) for rule in policy_of(planned).incoming] == [
        ("10.0.1.0/24", True),
        ("10.0.2.0/24", False),
        ("10.0.0.0/24", True),
    ]
    assert policy_of(planned).outgoing == (ports.PacketRule(is_allowed=True),)


def test_a_group_without_security_groups_has_no_policy():
    assert firewall.plan([wanted("10.0.0.2")], [secured("a", row())]).pods[0].policy == ""


def test_a_security_group_that_is_not_known_lets_nothing_through_and_the_others_hold():
    planned = firewall.plan(
        [wanted("10.0.0.2", "a", "none"), wanted("10.0.0.3", "none")], [secured("a", row())]
    )
    assert policy_of(planned, 0) == ports.Policy(incoming=(ports.PacketRule(is_allowed=True),))
    assert policy_of(planned, 1) == ports.Policy()


@pytest.mark.parametrize(
    "wrong",
    [
        {"cidr": "10.0.0.0/40"},
        {"cidr": "} ; flush ruleset"},
        {"first_port": 0},
        {"first_port": 90, "last_port": 80},
        {"icmp_type": 256},
        {"cidr": "10.0.0.0/8", "security_group_id": "a"},
    ],
)
def test_a_security_group_with_a_row_that_cannot_be_read_lets_nothing_through(wrong):
    planned = firewall.plan([wanted("10.0.0.2", "a")], [secured("a", row(), row(is_allowed=False, **wrong))])
    assert policy_of(planned) == ports.Policy()


def test_members_are_all_groups_that_name_it_even_before_their_pod_is_known():
    planned = firewall.plan(
        [wanted("10.0.0.2", "a"), wanted("10.0.0.3", "b", pod_uid=None), wanted("10.0.0.4", "c")],
        [secured("a", row(security_group_id="b"), row(security_group_id="d"))],
    )
    assert planned.members == {"b": frozenset({"10.0.0.3"}), "d": frozenset()}
    assert [pod.interface.address for pod in planned.pods] == ["10.0.0.2", "10.0.0.4"]


# ---- what the plan's values say, against what the rows say ---------------------------------------------


rows = st.builds(
    link.SecurityGroupRule,
    direction=st.sampled_from(link.Direction),
    is_allowed=st.booleans(),
    priority=st.integers(1, 4),
    protocol=st.sampled_from(link.Protocol),
    first_port=st.sampled_from([1, 53, 80]),
    last_port=st.sampled_from([80, 443, 65535]),
    icmp_type=st.sampled_from([None, 0, 8]),
    icmp_code=st.sampled_from([None, 0, 1]),
    cidr=st.sampled_from(["", "", "0.0.0.0/0", "10.0.0.0/30", "10.0.0.5/32", "192.0.2.0/24"]),
).flatmap(
    lambda made: (
        st.just(made)
        if made.cidr
        else st.sampled_from(["", *GROUPS]).map(
            lambda name: link.SecurityGroupRule(
                **{key: getattr(made, key) for key in made.__struct_fields__} | {"security_group_id": name}
            )
        )
    )
)
packets = st.tuples(
    st.sampled_from(link.Direction),
    st.sampled_from([*ADDRESSES, "192.0.2.9"]),
    st.one_of(
        st.tuples(st.sampled_from(["tcp", "udp"]), st.sampled_from(PORTS), st.just(0)),
        st.tuples(st.just("icmp"), st.sampled_from([0, 3, 8]), st.sampled_from([0, 1])),
        st.just(("sctp", 0, 0)),
    ),
)


def is_meant(rows_of, members, groups, packet):
    """KCI's words: the lowest number that fits decides, a denial among equals; else it is dropped."""
    direction, other, (protocol, number, code) = packet
    fitting = []
    for one in groups:
        for it in rows_of.get(one, ()):
            if it.direction is not direction or it.protocol.value not in {"ip", protocol}:
                continue
            if it.protocol.value in {"tcp", "udp"} and not it.first_port <= number <= it.last_port:
                continue
            has_type = it.protocol.value == "icmp" and it.icmp_type is not None
            if has_type and (number != it.icmp_type or it.icmp_code not in {None, code}):
                continue
            if it.cidr and ipaddress.ip_address(other) not in ipaddress.ip_network(it.cidr):
                continue
            if it.security_group_id and other not in members.get(it.security_group_id, ()):
                continue
            fitting.append(it)
    lowest = min((it.priority for it in fitting), default=None)
    return lowest is not None and all(it.is_allowed for it in fitting if it.priority == lowest)


def passes(planned, pod, packet):
    """As a kernel goes through the rules."""
    direction, other, (protocol, number, code) = packet
    policy = planned.policies[pod.policy]
    for rule in policy.incoming if direction is IN else policy.outgoing:
        fits = (
            rule.protocol.value in {"ip", protocol}
            and (protocol not in {"tcp", "udp"} or rule.first_port <= number <= rule.last_port)
            and (rule.icmp_type is None or number == rule.icmp_type)
            and (rule.icmp_code is None or code == rule.icmp_code)
            and (not rule.cidr or ipaddress.ip_address(other) in ipaddress.ip_network(rule.cidr))
            and (not rule.members_of or other in planned.members[rule.members_of])
        )
        if fits:
            return rule.is_allowed
    return False


@settings(max_examples=300)
@given(
    rows_of=st.dictionaries(st.sampled_from(GROUPS), st.lists(rows, max_size=4)),
    named=st.lists(st.sets(st.sampled_from(GROUPS), min_size=1, max_size=3), min_size=1, max_size=5),
    sent=st.lists(packets, min_size=1, max_size=12),
)
def test_what_passes_is_what_the_rows_say(rows_of, named, sent):
    rows_of = {name: [it for it in found if it.first_port <= it.last_port] for name, found in rows_of.items()}
    pods = [
        wanted(address, *sorted(ids), pod_uid=address) for address, ids in zip(ADDRESSES, named, strict=False)
    ]
    members = {}
    for one in pods:
        for name in one.group.security_group_ids:
            members.setdefault(name, set()).add(one.group.interface.address)
    planned = firewall.plan(pods, [secured(name, *found) for name, found in rows_of.items()])
    for pod, one in zip(planned.pods, pods, strict=True):
        for packet in sent:
            meant = is_meant(rows_of, members, one.group.security_group_ids, packet)
            assert passes(planned, pod, packet) == meant, (packet, rows_of)
