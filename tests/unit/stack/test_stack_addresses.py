import ipaddress

import hypothesis
import hypothesis.strategies as st
import pytest

from kci.stack import addresses, errors

BRIDGE = "kci-abcdef"
LINK_GROUP = 7
NETWORK = ipaddress.IPv4Network


def route(destination, interface="eth0"):
    return addresses.Route(NETWORK(destination), interface)


def choose(*routes, pods="", services="", kept=None, own_control_plane=True):
    return addresses.choose_ranges(
        pods=pods,
        services=services,
        own_control_plane=own_control_plane,
        routes=routes,
        bridge=BRIDGE,
        link_group=LINK_GROUP,
        kept=kept,
    )


def test_the_default_route_takes_no_range():
    ranges = choose(route("0.0.0.0/0"))
    assert ranges.pods == NETWORK("10.88.0.0/16")
    assert str(ranges.gateway) == "10.88.0.1"


def test_ranges_of_another_stack_on_the_machine_are_left_alone():
    first = choose()
    second = choose(
        addresses.Route(first.pods), addresses.Route(first.services), route(str(first.pods), "kci-000000")
    )
    assert not second.pods.overlaps(first.pods)
    assert not second.services.overlaps(first.services)


def test_a_stack_that_was_killed_finds_its_own_routes_and_keeps_its_ranges():
    kept = choose()
    own = [addresses.Route(kept.pods), addresses.Route(kept.services), route(str(kept.pods), BRIDGE)]
    pod = addresses.Route(NETWORK("10.88.0.8/32"), "kv0a1b2c3d4e5", link_group=LINK_GROUP)
    assert choose(*own, pod, kept=kept) == kept


def test_a_kept_range_that_somebody_else_took_is_named_with_the_remedy():
    kept = choose()
    with pytest.raises(errors.StackError, match=r"10\.88\.3\.0/24.*--purge"):
        choose(route("10.88.3.0/24"), kept=kept)


def test_a_range_asked_for_that_overlaps_a_route_is_refused():
    with pytest.raises(errors.StackError, match=r"192\.0\.2\.0/24.*--pod-cidr"):
        choose(route("192.0.2.0/24"), pods="192.0.2.128/25")


def test_ranges_do_not_change_under_pods_that_have_addresses():
    with pytest.raises(errors.StackError, match="cannot change the pod range"):
        choose(kept=choose(), pods="10.99.0.0/16")


def test_a_cluster_that_is_not_ours_has_no_service_range_of_ours():
    assert choose(own_control_plane=False).services is None


@hypothesis.given(
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=2**32 - 1), st.integers(min_value=6, max_value=32)),
        max_size=30,
    )
)
def test_chosen_ranges_overlap_neither_a_route_nor_each_other(pairs):
    routes = [addresses.Route(NETWORK(pair, strict=False), "eth0") for pair in pairs]
    try:
        ranges = choose(*routes)
    except errors.StackError:
        return
    assert not ranges.pods.overlaps(ranges.services)
    assert not any(
        one.destination.overlaps(mine) for one in routes for mine in (ranges.pods, ranges.services)
    )


def reserve(*routes, hosts=(), own_control_plane=True):
    ranges = choose(own_control_plane=own_control_plane)
    found = addresses.plan_reserved(ranges, routes, bridge=BRIDGE, link_group=LINK_GROUP, hosts=hosts)
    return [str(one) for one in found]


def test_where_the_machine_lives_and_whom_it_asks_no_subnet_may_be():
    default = addresses.Route(NETWORK("0.0.0.0/0"), "eth0", next_hops=("198.51.100.1",))
    found = reserve(
        default, route("192.168.1.0/24"), route("192.168.1.9/32"), hosts=("203.0.113.53", "192.168.1.7")
    )
    assert found == ["10.152.0.0/16", "192.168.1.0/24", "198.51.100.1/32", "203.0.113.53/32"]
    assert reserve(default, own_control_plane=False) == ["198.51.100.1/32"]


def test_what_is_the_stacks_own_is_not_reserved_against_its_subnets():
    """Its first subnet must pass, and a subnet that was deleted can be made again."""
    found = reserve(
        route("10.88.0.0/16", BRIDGE),
        route("10.20.1.1/32", BRIDGE),
        addresses.Route(NETWORK("10.20.1.2/32"), "kv0", link_group=7),
        addresses.Route(NETWORK("10.20.1.0/24")),
        route("127.0.0.0/8", "lo"),
        hosts=("10.88.0.1", "127.0.0.53"),
    )
    assert found == ["10.152.0.0/16"]


def test_a_subnet_may_be_a_part_of_what_lies_behind_a_router():
    behind = addresses.Route(NETWORK("10.0.0.0/8"), "eth0", next_hops=("192.168.1.1",))
    assert reserve(behind, own_control_plane=False) == []
