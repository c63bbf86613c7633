"""Networks and security groups from the signed call to the rows, and what they mean for groups."""

import asyncio
import json

import pytest
import service_world
from fakes import link_server

from kci.client import errors
from kci.contract import groups, networks, security_groups
from kci.link import types as link


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


async def _fails(code, call):
    with pytest.raises(errors.KciError) as caught:
        await call
    assert caught.value.code == code
    return caught.value


async def _network(client, cidr="10.20.0.0/16", subnet="10.20.0.0/24", **asked):
    """A VPC with one subnet; returns both and the VPC's default security group."""
    vpc = await client.vpc.create_vpc(networks.CreateVpc(vpc_name="web", cidr_block=cidr))
    made = await client.vpc.create_subnet(
        networks.CreateSubnet(vpc_id=vpc.vpc_id, cidr_block=subnet, **asked)
    )
    (security_group,) = await client.vpc.list_security_groups(vpc_ids=(vpc.vpc_id,))
    return vpc, made, security_group


def _request(subnet, security_group, **asked):
    given = {"subnet_id": subnet.subnet_id, "security_group_id": (security_group.security_group_id,)}
    return service_world.create_request(**(given | asked))


async def _delete_and_wait(world, group_id, client=None):
    await (client or world.alice).delete_container_group(group_id)
    async with asyncio.timeout(10):
        await world.service.wait_deleted(group_id)


def _authorize(security_group_id, **asked):
    given = {
        "security_group_id": security_group_id,
        "direction": "in",
        "protocol": "tcp",
        "cidr_block": "10.0.0.0/8",
    }
    return security_groups.AuthorizeSecurityGroupEntry(**(given | asked))


async def test_what_is_configured_is_there_from_the_start(world):
    (vpc,) = await world.alice.vpc.list_vpcs()
    (subnet,) = await world.alice.vpc.list_subnets()
    (security_group,) = await world.alice.vpc.list_security_groups()
    assert (vpc.is_default, vpc.cidr_block) == (True, "10.9.0.0/24")
    assert (subnet.subnet_id, subnet.vpc_id, subnet.gateway_ip) == (
        service_world.SUBNET_ID,
        vpc.vpc_id,
        "10.9.0.1",
    )
    assert subnet.available_ip_number == "253"
    assert (security_group.security_group_id, security_group.security_group_type) == (
        service_world.SECURITY_GROUP_ID,
        "default",
    )
    assert {
        (one.direction, one.cidr_block, one.policy) for one in security_group.security_group_entry_set
    } == {
        ("in", "10.9.0.0/24", "Accept"),
        ("out", "0.0.0.0/0", "Accept"),
    }
    await _fails("VpcInUse", world.alice.vpc.delete_vpc(vpc.vpc_id))
    await _fails("SubnetInUse", world.alice.vpc.delete_subnet(subnet.subnet_id))
    await _fails(
        "SecurityGroupInUse", world.alice.vpc.delete_security_group(security_group.security_group_id)
    )


@pytest.mark.guide("env KCI_SUBNET_ID", "annotation kci-subnet-id")
async def test_groups_come_to_a_subnet_that_was_made(world):
    vpc, subnet, security_group = await _network(
        world.alice, gateway_ip="10.20.0.9", dhcp_ip_from="10.20.0.8", dns1="10.20.0.53", mtu=1400
    )
    group_id = await world.alice.create_container_group(_request(subnet, security_group))
    second = await world.alice.create_container_group(_request(subnet, security_group))
    (listed,) = await world.alice.list_container_groups(ids=(group_id,))
    (face,) = listed.network_interface_attributes
    assert (face.vpc_id, face.subnet_id, face.private_ip_address) == (
        vpc.vpc_id,
        subnet.subnet_id,
        "10.20.0.8",
    )
    async with asyncio.timeout(10):
        while len(world.kcilet.wanted) < 2:  # noqa: ASYNC110  (the fake tells nobody)
            await asyncio.sleep(0.01)
    wanted = world.kcilet.wanted[second]
    # The gateway's own address is passed over.
    assert wanted.interface == link.Interface(
        address="10.20.0.10", prefix_length=24, gateway="10.20.0.9", mac_address="0a:58:0a:14:00:0a", mtu=1400
    )
    assert wanted.machine_dns == ("10.20.0.53",)
    assert (wanted.tenant_id, wanted.security_group_ids) == (
        "tenant-alice/c1",
        (security_group.security_group_id,),
    )
    (now,) = await world.alice.vpc.list_subnets((subnet.subnet_id,))
    # 8 to 254 without the gateway, and two are taken.
    assert now.available_ip_number == str(247 - 1 - 2)
    for name, value, count in (
        ("vpc-id", vpc.vpc_id, 2),
        ("subnet-id", subnet.subnet_id, 2),
        ("vpc-id", "x", 0),
    ):
        assert len(await world.alice.list_container_groups(filters={name: [value]})) == count


async def test_a_network_is_not_deleted_under_its_groups_and_goes_in_order(world):
    vpc, subnet, security_group = await _network(world.alice)
    group_id = await world.alice.create_container_group(_request(subnet, security_group))
    await _fails("SubnetInUse", world.alice.vpc.delete_subnet(subnet.subnet_id))
    await _fails("VpcInUse", world.alice.vpc.delete_vpc(vpc.vpc_id))
    await _delete_and_wait(world, group_id)
    await world.alice.vpc.delete_subnet(subnet.subnet_id)
    await _fails("SubnetNotFound", world.alice.vpc.delete_subnet(subnet.subnet_id))
    (security_group,) = await world.alice.vpc.list_security_groups((security_group.security_group_id,))
    assert [one.direction for one in security_group.security_group_entry_set] == ["out"]
    await world.alice.vpc.delete_vpc(vpc.vpc_id)
    assert len(await world.alice.vpc.list_vpcs()) == 1
    assert len(await world.alice.vpc.list_security_groups()) == 1


def _foreign_calls(client, vpc_id, subnet_id, security_group_id, entry_id):
    """What somebody can try with ids that are not his, each with the code that it must give."""
    vpc = client.vpc
    group = service_world.OF_BOB
    return [
        ("VpcNotFound", vpc.delete_vpc(vpc_id)),
        (
            "VpcNotFound",
            vpc.create_subnet(networks.CreateSubnet(vpc_id=vpc_id, cidr_block="10.20.9.0/24")),
        ),
        ("VpcNotFound", vpc.create_security_group(security_groups.CreateSecurityGroup(vpc_id=vpc_id))),
        ("SubnetNotFound", vpc.delete_subnet(subnet_id)),
        ("SubnetNotFound", vpc.modify_subnet(networks.ModifySubnet(subnet_id=subnet_id))),
        ("SecurityGroupNotFound", vpc.delete_security_group(security_group_id)),
        (
            "SecurityGroupNotFound",
            vpc.modify_security_group(
                security_groups.ModifySecurityGroup(security_group_id=security_group_id)
            ),
        ),
        ("SecurityGroupNotFound", vpc.revoke_security_group_entry(security_group_id, entry_id)),
        ("SecurityGroupNotFound", vpc.authorize_security_group_entry(_authorize(security_group_id))),
        (
            "SubnetNotFound",
            client.create_container_group(service_world.create_request(**(group | {"subnet_id": subnet_id}))),
        ),
        (
            "SecurityGroupNotFound",
            client.create_container_group(
                service_world.create_request(**(group | {"security_group_id": (security_group_id,)}))
            ),
        ),
    ]


async def test_another_tenants_network_looks_missing(world):
    vpc, subnet, security_group = await _network(world.alice)
    bob = world.bob.vpc
    assert await bob.list_vpcs((vpc.vpc_id,)) == []
    assert await bob.list_subnets((subnet.subnet_id,)) == []
    assert await bob.list_security_groups((security_group.security_group_id,)) == []
    entry = security_group.security_group_entry_set[0].security_group_entry_id
    missing = "99999999-9999-4999-8999-999999999999"
    hers = _foreign_calls(world.bob, vpc.vpc_id, subnet.subnet_id, security_group.security_group_id, entry)
    nobodys = _foreign_calls(world.bob, missing, missing, missing, entry)
    for (code, call), (_, same_call) in zip(hers, nobodys, strict=True):
        assert str(await _fails(code, call)) == str(await _fails(code, same_call))
    # A range that is in use is told, not whose it is.
    own, _, _ = await _network(world.bob, subnet="10.20.1.0/24")
    clash = networks.CreateSubnet(vpc_id=own.vpc_id, cidr_block="10.20.0.0/26")
    told = await _fails("CidrConflict", bob.create_subnet(clash))
    assert subnet.subnet_id not in str(told)


async def test_a_range_that_the_machine_needs_is_refused_before_use(world):
    vpc = await world.alice.vpc.create_vpc(networks.CreateVpc(cidr_block="10.0.0.0/8"))
    for cidr in ("10.96.0.0/24", "10.64.0.0/10"):
        clash = networks.CreateSubnet(vpc_id=vpc.vpc_id, cidr_block=cidr)
        told = await _fails("CidrConflict", world.alice.vpc.create_subnet(clash))
        assert str(service_world.RESERVED) in str(told)


@pytest.mark.guide("env KCI_SECURITY_GROUP_IDS", "annotation kci-security-group-id", "limit securityGroups")
async def test_a_group_names_security_groups_of_its_own_vpc(world):
    vpc, subnet, security_group = await _network(world.alice)
    more = [
        await world.alice.vpc.create_security_group(security_groups.CreateSecurityGroup(vpc_id=vpc.vpc_id))
        for _ in range(3)
    ]
    named = tuple(one.security_group_id for one in (security_group, *more))
    group_id = await world.alice.create_container_group(
        _request(subnet, security_group, security_group_id=named[:3])
    )
    (listed,) = await world.alice.list_container_groups(ids=(group_id,))
    (face,) = listed.network_interface_attributes
    assert tuple(one.security_group_id for one in face.security_groups) == named[:3]
    await _fails(
        "InvalidParameterValue",
        world.alice.create_container_group(_request(subnet, security_group, security_group_id=named)),
    )
    foreign = (service_world.SECURITY_GROUP_ID,)
    told = await _fails(
        "InvalidParameterValue",
        world.alice.create_container_group(_request(subnet, security_group, security_group_id=foreign)),
    )
    assert "another VPC" in str(told)
    await _fails("SecurityGroupInUse", world.alice.vpc.delete_security_group(named[1]))
    await _delete_and_wait(world, group_id)
    await world.alice.vpc.delete_security_group(named[1])


async def test_of_several_subnets_the_first_with_a_free_address_is_taken(world):
    vpc, small, security_group = await _network(world.alice, subnet="10.20.0.0/29")
    second = await world.alice.vpc.create_subnet(
        networks.CreateSubnet(vpc_id=vpc.vpc_id, cidr_block="10.20.0.8/29")
    )
    several = {"subnet_id": "", "multi_subnet_id": (small.subnet_id, second.subnet_id)}
    for _ in range(10):
        await world.alice.create_container_group(_request(small, security_group, **several))
    await _fails(
        "InsufficientAddresses",
        world.alice.create_container_group(_request(small, security_group, **several)),
    )
    found = [group.private_address for group in await world.alice.list_container_groups()]
    assert found == [f"10.20.0.{part}" for part in (*range(2, 7), *range(10, 15))]
    missing = {"multi_subnet_id": (second.subnet_id, "99999999-9999-4999-8999-999999999999")}
    await _fails(
        "SubnetNotFound", world.alice.create_container_group(_request(small, security_group, **missing))
    )


@pytest.mark.guide("annotation kci-retain-ip", "annotation kci-retain-ip-hours")
async def test_a_retained_address_comes_back_to_its_name_and_to_no_other(world):
    _, subnet, security_group = await _network(world.alice, subnet="10.20.0.0/29")

    async def create(name, **asked):
        return await world.alice.create_container_group(
            _request(subnet, security_group, container_group_name=name, retain_ip=True, **asked)
        )

    made = {name: await create(name) for name in ("default.db-0", "default.db-1", "default.db-2")}
    was = {
        group.container_group_name: group.private_address
        for group in await world.alice.list_container_groups()
    }
    for group_id in made.values():
        await _delete_and_wait(world, group_id)
    others = [await create(f"default.other-{number}") for number in range(2)]
    assert await create("default.db-1")
    now = {
        group.container_group_name: group.private_address
        for group in await world.alice.list_container_groups()
    }
    assert now["default.db-1"] == was["default.db-1"]
    assert not {now[f"default.other-{number}"] for number in range(2)} & set(was.values())
    # Where no other address is left it is not held back.
    await create("default.last")
    assert len(others) == 2
    listed = await world.alice.list_container_groups()
    assert {group.private_address for group in listed} < {f"10.20.0.{part}" for part in range(2, 7)}
    assert (listed[0].retain_ip, listed[0].retain_ip_hours) == (True, 24)


async def test_two_clusters_keep_addresses_for_a_name_that_both_have(world):
    _, subnet, security_group = await _network(world.alice)

    async def create(cluster):
        asked = {"container_group_name": "default.db-0", "retain_ip": True, "cluster": cluster}
        return await world.alice.create_container_group(_request(subnet, security_group, **asked))

    async def addresses():
        return {
            group.container_group_id: group.private_address
            for group in await world.alice.list_container_groups()
        }

    first, second = await create("c1"), await create("c2")
    was = await addresses()
    for group_id in (first, second):
        await _delete_and_wait(world, group_id)
    # The other way round, so that the order of release does not do it.
    again_second, again_first = await create("c2"), await create("c1")
    now = await addresses()
    assert (now[again_first], now[again_second]) == (was[first], was[second])


async def test_subnets_and_security_groups_are_called_otherwise(world):
    _, subnet, security_group = await _network(world.alice, dns1="10.20.0.53")
    newer = await world.alice.vpc.modify_subnet(
        networks.ModifySubnet(subnet_id=subnet.subnet_id, subnet_name="front", dns2="10.20.0.54")
    )
    assert (newer.subnet_name, newer.dns1, newer.dns2) == ("front", "10.20.0.53", "10.20.0.54")
    renamed = await world.alice.vpc.modify_security_group(
        security_groups.ModifySecurityGroup(
            security_group_id=security_group.security_group_id, security_group_name="front"
        )
    )
    assert (renamed.security_group_name, renamed.description) == ("front", security_group.description)
    assert await world.alice.vpc.list_subnets((subnet.subnet_id,)) == [newer]
    assert await world.alice.vpc.list_security_groups((security_group.security_group_id,)) == [renamed]


async def test_rules_are_added_named_by_others_and_taken_away(world):
    vpc, _, security_group = await _network(world.alice)
    web = await world.alice.vpc.create_security_group(
        security_groups.CreateSecurityGroup(vpc_id=vpc.vpc_id, security_group_name="web")
    )
    assert web.security_group_entry_set == ()
    entry = await world.alice.vpc.authorize_security_group_entry(
        _authorize(
            web.security_group_id,
            port_range_from=80,
            port_range_to=81,
            priority=7,
            policy="Drop",
            rule_tag="t",
        )
    )
    await _fails(
        "SecurityGroupEntryExists",
        world.alice.vpc.authorize_security_group_entry(
            _authorize(web.security_group_id, port_range_from=80, port_range_to=81, priority=7, policy="Drop")
        ),
    )
    by_peer = await world.alice.vpc.authorize_security_group_entry(
        _authorize(
            security_group.security_group_id,
            protocol="ICMP",
            icmp_type=8,
            cidr_block="",
            authorized_security_group_id=web.security_group_id,
        )
    )
    (shown,) = await world.alice.vpc.list_security_groups((web.security_group_id,))
    (one,) = shown.security_group_entry_set
    assert (
        one.security_group_entry_id,
        one.port_range_from,
        one.port_range_to,
        one.policy,
        one.rule_tag,
    ) == (
        entry,
        80,
        81,
        "Drop",
        "t",
    )
    told = await _fails("SecurityGroupInUse", world.alice.vpc.delete_security_group(web.security_group_id))
    assert "revoke them first" in str(told)
    await world.alice.vpc.revoke_security_group_entry(security_group.security_group_id, by_peer)
    await _fails(
        "SecurityGroupEntryNotFound",
        world.alice.vpc.revoke_security_group_entry(security_group.security_group_id, by_peer),
    )
    await world.alice.vpc.delete_security_group(web.security_group_id)


async def test_a_machine_is_told_all_rules_and_that_they_changed(tmp_path):
    async with service_world.running(tmp_path) as world:
        vpc, _, _ = await _network(world.alice)
        web = await world.alice.vpc.create_security_group(
            security_groups.CreateSecurityGroup(vpc_id=vpc.vpc_id)
        )
        before, times = await world.security_groups.security_groups(), len(world.told)
        known = {one.security_group_id: one.rules for one in before.security_groups}
        # Groups that come and go are no change of it.
        await world.alice.create_container_group(service_world.create_request())
        assert await world.security_groups.security_groups() == before
        # Also those that no group names yet.
        assert known[web.security_group_id] == ()
        await world.alice.vpc.authorize_security_group_entry(
            _authorize(web.security_group_id, protocol="icmp", icmp_type=8, policy="Drop", priority=3)
        )
        assert len(world.told) == times + 1
        after = await world.security_groups.security_groups()
        assert after.generation > before.generation
        assert {one.security_group_id: one.rules for one in after.security_groups} == known | {
            web.security_group_id: (
                link.SecurityGroupRule(
                    direction=link.Direction.IN,
                    is_allowed=False,
                    priority=3,
                    protocol=link.Protocol.ICMP,
                    icmp_type=8,
                    cidr="10.0.0.0/8",
                ),
            )
        }
    async with service_world.running(tmp_path, kcilet=link_server.LinkServer()) as world:
        again = await world.security_groups.security_groups()
        assert again.generation >= after.generation
        assert again.security_groups == after.security_groups


async def test_an_older_service_and_a_wrong_scope_are_told_apart_from_missing_things(world):
    """The scope says whose action may be named."""
    for operation_of, code in (("kci", "InvalidAction"), ("vpc", "InvalidAction")):
        action = "DescribeVpcs" if operation_of == "kci" else "DescribeContainerGroup"
        body = f"Action={action}".encode()
        status, answer = await _send(world, body, operation_of)
        assert (status, json.loads(answer)["Error"]["Code"]) == (400, code)
    status, _ = await _send(world, b"Action=DescribeVpcs&Version=2020-07-02&Service=vpc", "vpc")
    assert status == 400
    status, _ = await _send(world, b"Action=DescribeVpcs&Version=2016-03-04&Service=vpc", "vpc")
    assert status == 200


async def _send(world, body, service):
    import aiohttp

    from kci.contract import signing
    from kci.kit import clock

    headers = [("host", world.endpoint), ("content-type", "application/x-www-form-urlencoded")]
    headers += signing.sign(
        signing.Request("POST", "/", headers=headers, body=body),
        service_world.keys_of(service_world.ALICE),
        region=service_world.REGION,
        now=clock.SystemClock().now(),
        service=service,
    )
    async with aiohttp.ClientSession() as session:
        url = f"http://{world.endpoint}/"
        async with session.post(url, data=body, headers=[*headers, ("accept", "application/json")]) as answer:
            return answer.status, await answer.read()


async def test_lists_come_in_pages(world):
    vpc = await world.alice.vpc.create_vpc(networks.CreateVpc(cidr_block="10.20.0.0/16"))
    made = {
        (
            await world.alice.vpc.create_subnet(
                networks.CreateSubnet(vpc_id=vpc.vpc_id, cidr_block=f"10.20.{part}.0/24")
            )
        ).subnet_id
        for part in range(5)
    }
    seen, token = [], ""
    while True:
        page = await world.networks.describe_subnets(
            service_world.ALICE.tenant_id,
            networks.DescribeSubnets(
                filter=(networks.SubnetFilter(name="vpc-id", value=(vpc.vpc_id,)),),
                max_results=2,
                next_token=token,
            ),
        )
        seen += [subnet.subnet_id for subnet in page.subnet_set]
        token = page.next_token
        if not token:
            break
    assert len(seen) == 5
    assert set(seen) == made
    nowhere = networks.SubnetFilter(name="subnet-type", value=("Physical",))
    none = await world.networks.describe_subnets(
        service_world.ALICE.tenant_id, networks.DescribeSubnets(filter=(nowhere,))
    )
    assert none.subnet_set == ()


async def test_the_watch_names_the_vpc_also_after_a_restart(tmp_path):
    async with service_world.running(tmp_path) as world:
        vpc, subnet, security_group = await _network(world.alice)
        group_id = await world.alice.create_container_group(_request(subnet, security_group))
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, lambda change: change.group and change.group.status == "Running")
    reborn = link_server.LinkServer()
    async with (
        service_world.running(tmp_path, kcilet=reborn) as world,
        service_world.watching(world.alice) as watch,
    ):
        change = await service_world.until(watch, lambda change: change.group_id == group_id)
    (face,) = change.group.network_interface_attributes
    assert isinstance(face, groups.NetworkInterface)
    assert face.vpc_id == vpc.vpc_id
