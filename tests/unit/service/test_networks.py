"""VPCs, subnets and security groups: what may be made beside what there is. Plain values."""

import datetime
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kci.contract import errors, ids
from kci.contract import networks as api
from kci.contract import security_groups as security_groups_api
from kci.service.domain import addresses, networks, security_groups

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
ALICE, BOB = ids.TenantId("alice"), ids.TenantId("bob")
ZONE = "cn-test-1a"
SERVICES = ipaddress.IPv4Network("10.20.128.0/20")


def vpc(cidr="10.20.0.0/16", tenant=ALICE):
    return networks.new_vpc(api.CreateVpc(cidr_block=cidr), tenant, now=NOW)


def subnet(cidr="10.20.0.0/24", *, of=None, others=(), reserved=(SERVICES,), **asked):
    of = of or vpc()
    request = api.CreateSubnet(vpc_id=of.vpc_id, cidr_block=cidr, **asked)
    return networks.new_subnet(request, of, others=others, reserved=reserved, zone=ZONE, now=NOW)


def refused(call, code, match="."):
    with pytest.raises(errors.ApiError, match=match) as caught:
        call()
    assert caught.value.entry.code == code


def test_the_gateway_is_the_first_address_unless_given():
    made = subnet()
    assert str(made.pool.gateway) == "10.20.0.1"
    assert addresses.count_usable(made.pool) == 253
    moved = subnet(gateway_ip="10.20.0.9")
    assert str(moved.pool.gateway) == "10.20.0.9"
    assert addresses.count_usable(moved.pool) == 253


@pytest.mark.parametrize(
    ("asked", "code", "match"),
    [
        ({"cidr": "10.21.0.0/24"}, "InvalidParameterValue", "outside of its VPC's range"),
        ({"cidr": "10.20.0.0/30"}, "InvalidParameterValue", "/8 to /29"),
        ({"cidr": "10.20.0.1/24"}, "InvalidParameterValue", "host bits"),
        ({"cidr": ""}, "MissingParameter", "CidrBlock"),
        ({"cidr": "10.20.130.0/24"}, "CidrConflict", "10.20.128.0/20, which this machine needs"),
        ({"gateway_ip": "10.20.1.1"}, "InvalidParameterValue", "no host's address"),
        ({"gateway_ip": "10.20.0.255"}, "InvalidParameterValue", "no host's address"),
        ({"gateway_ip": "x"}, "InvalidParameterValue", "no IPv4 address"),
        ({"dhcp_ip_from": "10.20.0.9", "dhcp_ip_to": "10.20.0.8"}, "InvalidParameterValue", "no address"),
        ({"availability_zone": "cn-test-1b"}, "InvalidParameterValue", "the only one is cn-test-1a"),
        ({"subnet_type": "Physical"}, "UnsupportedOperation", "SubnetType"),
        ({"provided_ipv6_cidr_block": True}, "UnsupportedOperation", "Ipv6"),
        ({"visit_internet": False}, "UnsupportedOperation", "VisitInternet"),
        ({"dns1": "dns.example"}, "InvalidParameterValue", "Dns1"),
        ({"mtu": 100}, "InvalidParameterValue", "Mtu: must be 1280 to 9000"),
    ],
)
def test_a_subnet_that_cannot_be_is_refused_with_the_reason(asked, code, match):
    refused(lambda: subnet(**asked), code, match)


def test_no_two_subnets_overlap_and_another_tenants_is_not_named():
    first = subnet("10.20.0.0/23")
    refused(
        lambda: subnet("10.20.1.0/24", others=[first]),
        "CidrConflict",
        f"10.20.0.0/23 of the subnet {first.subnet_id}",
    )
    bobs = vpc(tenant=BOB)
    with pytest.raises(errors.ApiError) as caught:
        subnet("10.20.1.0/24", of=bobs, others=[first])
    assert caught.value.entry is errors.CIDR_CONFLICT
    assert first.subnet_id not in str(caught.value)
    assert "10.20.0.0/23" not in str(caught.value)


@pytest.mark.parametrize("cidr", ["127.0.0.0/16", "169.254.0.0/16", "224.0.0.0/8", "0.0.0.0/8", "10.0.0.0/7"])
def test_a_vpc_has_addresses_that_instances_can_have(cidr):
    refused(lambda: vpc(cidr), "InvalidParameterValue", "CidrBlock")


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(17, 29)), max_size=12))
def test_whatever_is_asked_for_the_subnets_that_are_made_share_no_address(asked):
    of, made = vpc(), []
    for place, length in asked:
        network = ipaddress.IPv4Network((f"10.20.{place}.0", length), strict=False)
        if any(network.overlaps(other) for other in (SERVICES, *(one.network for one in made))):
            refused(lambda network=network: subnet(str(network), of=of, others=made), "CidrConflict")
        else:
            made.append(subnet(str(network), of=of, others=made))
    for number, one in enumerate(made):
        assert one.network.subnet_of(of.network)
        assert not any(one.network.overlaps(other.network) for other in made[:number])


def test_a_default_group_lets_out_everything_and_in_its_subnets():
    of = vpc()
    security_group = security_groups.new_default(of)
    made = subnet(of=of)
    out, into = security_groups.way_out(security_group), security_groups.way_in(security_group, made)
    assert (out.match.direction, out.match.cidr, out.is_allowed) == ("out", "0.0.0.0/0", True)
    assert (into.match.direction, into.match.cidr) == ("in", "10.20.0.0/24")
    # Whatever somebody writes is looked at before them.
    assert (out.priority, into.priority) == (100, 100)


def rule(group, *, peer=None, others=(), **asked):
    given_ = {"direction": "in", "protocol": "tcp", "cidr_block": "10.0.0.0/8"} | asked
    request = security_groups_api.AuthorizeSecurityGroupEntry(
        security_group_id=group.security_group_id, **given_
    )
    return security_groups.new_rule(request, group, peer, others=others, now=NOW)


def test_the_same_rule_is_not_there_twice():
    group = security_groups.new_default(vpc())
    first = rule(group, port_range_from=80, port_range_to=80)
    refused(
        lambda: rule(group, protocol="TCP", port_range_from=80, port_range_to=80, others=[first]),
        "SecurityGroupEntryExists",
        first.rule_id,
    )
    for other in ({"priority": 2}, {"policy": "Drop"}, {"direction": "out"}, {"port_range_to": 81}):
        rule(group, **({"port_range_from": 80, "port_range_to": 80} | other), others=[first])


def test_a_group_has_a_bounded_number_of_rules():
    group = security_groups.new_default(vpc())
    others = [rule(group, port_range_from=port, port_range_to=port) for port in range(1, 201)]
    refused(lambda: rule(group, others=others), "LimitExceeded", "at most 200")


def test_a_peer_is_a_group_of_the_same_vpc():
    here, there = vpc(), vpc("10.30.0.0/16")
    group, other = security_groups.new_default(here), security_groups.new_default(there)
    asked = {"cidr_block": "", "authorized_security_group_id": other.security_group_id}
    refused(lambda: rule(group, peer=other, **asked), "SecurityGroupNotFound")
    refused(lambda: rule(group, peer=None, **asked), "SecurityGroupNotFound")
    own = {"cidr_block": "", "authorized_security_group_id": group.security_group_id}
    assert rule(group, peer=group, **own).match.peer_id == group.security_group_id


def test_groups_come_to_subnets_of_one_vpc_with_its_security_groups():
    here, there = vpc(), vpc("10.30.0.0/16")
    one, two, far = subnet(of=here), subnet("10.20.1.0/24", of=here), subnet("10.30.0.0/24", of=there)
    asked = [one.subnet_id, two.subnet_id]
    assert networks.choose_subnets(asked, [one, two]) == (here.vpc_id, [one, two])
    refused(lambda: networks.choose_subnets(asked, [one, None]), "SubnetNotFound")
    refused(lambda: networks.choose_subnets(asked, [one, far]), "InvalidParameterValue", "more than one VPC")
    group, other = security_groups.new_default(here), security_groups.new_default(there)
    security_groups.check_groups([group.security_group_id], [group], here.vpc_id)
    refused(
        lambda: security_groups.check_groups([other.security_group_id], [other], here.vpc_id),
        "InvalidParameterValue",
        "another VPC than the subnet",
    )
    refused(
        lambda: security_groups.check_groups([other.security_group_id], [None], here.vpc_id),
        "SecurityGroupNotFound",
    )
