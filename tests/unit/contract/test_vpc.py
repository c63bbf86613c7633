"""The service `vpc`: forms of requests, pages, and the one scope for each service."""

import datetime

import pytest

from kci.contract import errors, networks, operations, security_groups, signing, wire
from kci.kit import secret


def authorize(**asked):
    given = {"security_group_id": "g", "direction": "in", "protocol": "tcp", "cidr_block": "10.0.0.0/8"}
    return security_groups.check_authorize(security_groups.AuthorizeSecurityGroupEntry(**(given | asked)))


def test_an_entry_is_read_with_nothing_left_to_guess():
    assert authorize() == security_groups.Match(
        direction="in", protocol="tcp", first_port=1, last_port=65535, cidr="10.0.0.0/8"
    )
    assert authorize(protocol="UDP", port_range_from=53, port_range_to=53).first_port == 53
    every = authorize(protocol="icmp", icmp_type=-1, icmp_code=-1)
    assert (every.icmp_type, every.icmp_code) == (None, None)
    echo = authorize(protocol="icmp", icmp_type=8, icmp_code=0)
    assert (echo.icmp_type, echo.icmp_code) == (8, 0)
    assert authorize(cidr_block="", authorized_security_group_id="p").peer_id == "p"


@pytest.mark.parametrize(
    ("asked", "parameter"),
    [
        ({"security_group_id": ""}, "SecurityGroupId"),
        ({"direction": ""}, "Direction"),
        ({"protocol": ""}, "Protocol"),
        ({"protocol": "sctp"}, "Protocol"),
        ({"cidr_block": ""}, "CidrBlock"),
        ({"cidr_block": "10.0.0.1/8"}, "CidrBlock"),
        ({"cidr_block": "fd00::/8"}, "CidrBlock"),
        ({"authorized_security_group_id": "p"}, "CidrBlock"),
        ({"port_range_from": 90, "port_range_to": 80}, "PortRangeFrom"),
        ({"port_range_from": 80}, "PortRangeFrom"),
        ({"port_range_to": 80}, "PortRangeFrom"),
        ({"protocol": "ip", "port_range_from": 80, "port_range_to": 80}, "PortRangeFrom"),
        ({"icmp_type": 8}, "IcmpType"),
        ({"protocol": "icmp", "icmp_code": 3}, "IcmpCode"),
    ],
)
def test_an_entry_that_says_nothing_clear_is_refused_by_its_parameter(asked, parameter):
    with pytest.raises(errors.ApiError) as caught:
        authorize(**asked)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    "pairs",
    [
        {"Priority": "0"},
        {"Priority": "101"},
        {"Direction": "both"},
        {"Policy": "Refuse"},
        {"IcmpType": "-2"},
        {"PortRangeTo": "65536"},
    ],
)
def test_values_outside_of_their_range_are_refused_when_they_are_read(pairs):
    with pytest.raises(errors.ApiError) as caught:
        wire.read(wire.nest(pairs.items()), security_groups.AuthorizeSecurityGroupEntry)
    assert caught.value.parameter == next(iter(pairs))


def test_pages_go_on_to_the_end_by_their_tokens():
    rows, seen, token = list(range(7)), [], ""
    while True:
        offset = networks.position(token)
        page = rows[offset : offset + 3]
        seen += page
        token = networks.next_token(offset, page, len(rows))
        if not token:
            break
    assert seen == rows
    # Clients of Kingsoft's count from 1.
    assert networks.position("1") == networks.position("0") == networks.position("") == 0
    # One that was made before something was deleted is no error.
    assert networks.next_token(99, [], 7) == ""


def test_a_signature_is_good_for_one_service():
    keys = signing.Credentials("AK", secret.Secret("sk"))
    now = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
    bare = signing.Request("POST", "/", headers=[("host", "h")], body=b"Action=DescribeVpcs")
    claims = {}
    for service in operations.SERVICES:
        added = signing.sign(bare, keys, region="r", now=now, service=service)
        signed = signing.Request("POST", "/", headers=[*bare.headers, *added], body=bare.body)
        claims[service] = signing.read_claim(signed, region="r", now=now)
        assert claims[service].scope.service == service
        signing.check_signature(signed, claims[service], keys.secret_key)
    assert claims["kci"].signature != claims["vpc"].signature
    added = signing.sign(bare, keys, region="r", now=now, service="eip")
    signed = signing.Request("POST", "/", headers=[*bare.headers, *added], body=bare.body)
    with pytest.raises(errors.ApiError, match="'kci' or 'vpc'"):
        signing.read_claim(signed, region="r", now=now)


def test_no_two_services_have_an_action_of_one_name():
    assert {operation.service for operation in operations.ALL.values()} == {"kci", "vpc"}
    assert all(
        operation.version == operations.SERVICES[operation.service] for operation in operations.ALL.values()
    )
