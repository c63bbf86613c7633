"""What groups use, from the machine's word to the signed answer: of one's own groups alone."""

import asyncio

import msgspec
import pytest
import service_world

from kci.client import errors
from kci.contract import capabilities, groups
from kci.contract import usage as api
from kci.kit import tasks
from kci.link import types as link


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


def group_usage(group_id, cpu_core_ns=7):
    used = link.Usage(time_ns=1_700_000_000_123_456_789, cpu_core_ns=cpu_core_ns, working_set_bytes=2**40)
    container = link.ContainerUsage(name="app", started_at_ns=5, usage=used)
    return link.GroupUsage(
        group_id=group_id,
        started_at_ns=4,
        usage=used,
        traffic=link.Traffic(sent_bytes=3),
        containers=(container,),
    )


async def create(client, pod, node="vn", **changes):
    request = service_world.create_request(pod=pod, **changes)
    labels = tuple(label for label in request.label if label.key != "node-name")
    named = msgspec.structs.replace(request, label=(*labels, groups.Label(key="node-name", value=node)))
    return await client.create_container_group(named)


async def test_a_tenant_sees_its_own_groups_of_the_node_that_it_names(world):
    assert capabilities.GROUP_USAGE in (await world.alice.describe_capabilities()).names
    assert await world.alice.describe_container_group_usage() == ()
    one = await create(world.alice, "web-0")
    other = await create(world.alice, "web-1", node="vn2")
    bobs = await create(world.bob, "web-2", **service_world.OF_BOB)
    world.kcilet.usages = link.Usages(groups=tuple(map(group_usage, (one, other, bobs, "unknown"))))
    found = await world.alice.describe_container_group_usage(cluster_id="c1", node_name="vn")
    assert [used.container_group_id for used in found] == [one]
    (used,) = found
    assert (used.label("pod-name"), used.label("node-name")) == ("web-0", "vn")
    assert used.usage.time_ns == 1_700_000_000_123_456_789
    assert (used.usage.working_set_bytes, used.started_at_ns) == (2**40, 4)
    assert used.traffic == api.Traffic(sent_bytes=3)
    assert [(part.name, part.started_at_ns, part.usage.cpu_core_ns) for part in used.containers] == [
        ("app", 5, 7)
    ]
    for client, names in ((world.alice, {one, other}), (world.bob, {bobs})):
        assert {part.container_group_id for part in await client.describe_container_group_usage()} == names
    assert await world.alice.describe_container_group_usage(cluster_id="other") == ()


async def test_many_who_ask_cost_the_machine_one_read(world):
    group_id = await create(world.alice, "web-0")
    world.kcilet.usages = link.Usages(groups=(group_usage(group_id),))
    _ = await tasks.wait_all(
        [world.alice.describe_container_group_usage() for _ in range(20)], name="scrapes"
    )
    assert world.kcilet.calls.count("GET /v1/stats") <= 2


async def test_a_machine_that_is_away_is_told_as_such(world):
    _ = await create(world.alice, "web-0")
    world.kcilet.usages = None
    async with asyncio.timeout(20):
        with pytest.raises(errors.TryLaterError, match="cannot read what pods use"):
            while True:
                _ = await world.alice.describe_container_group_usage()
                await asyncio.sleep(0.1)
