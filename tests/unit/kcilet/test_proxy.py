"""Services on their way from the source to the network driver, in virtual time."""

import asyncio
import contextlib

import msgspec
import pytest
from fakes import kcilet_world, machine_world, service_world

from kci.kcilet import ports
from kci.kcilet.workers import proxy
from kci.kit import tasks
from kci.kube import models
from kci.link import types as link

pytestmark = pytest.mark.requirement("R55")
on_virtual_time = kcilet_world.on_virtual_time
UID = models.PodUid("uid-1")
INTERFACE = link.Interface(
    address="10.0.0.9", prefix_length=24, gateway="10.0.0.1", mac_address="02:00:00:00:00:01"
)
VIP = ports.ServiceAddress("10.96.0.10", "tcp", 80)


class World:
    def __init__(self):
        self.network = machine_world.FakeNetwork()
        self.services = service_world.Services()
        self.proxy = proxy.Proxy(self.network)
        self.told = []

    def hold(self, uid=UID, interface=INTERFACE, services=None):
        self.proxy.hold(uid, services or self.services, interface, self.told.append)

    def endpoints(self):
        backend = self.network.services[self.services.outlook][VIP]
        return [one.address for one in backend.endpoints]


@contextlib.asynccontextmanager
async def running():
    world = World()
    async with tasks.Tasks() as group:
        world.group = group
        work = group.spawn("proxy", world.proxy.run())
        yield world
        work.cancel()


@on_virtual_time
async def test_the_first_pod_waits_for_its_rules():
    async with running() as world:
        world.hold()
        waiting = world.group.spawn("first", world.proxy.first_rules(world.services))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        world.services.is_known = True
        world.services.put("1.0.0.1")
        assert await waiting
        assert world.endpoints() == ["1.0.0.1"]
        assert world.network.members[world.services.outlook] == {UID}
        assert world.network.changes[0].is_whole


@on_virtual_time
async def test_a_pod_does_not_wait_for_ever_and_hears_why():
    async with running() as world:
        world.hold()
        world.services.tell("cannot list endpointslices: forbidden")
        world.services.tell("cannot list endpointslices: forbidden")
        assert not await world.proxy.first_rules(world.services)
        assert [(one.reason, one.type) for one in world.told] == [("ServicesNotKnown", "Warning")]
        # Once it works nothing more is told, and the rules are there.
        world.services.is_known = True
        world.services.put("1.0.0.1")
        assert await world.proxy.first_rules(world.services)
        assert len(world.told) == 1


@on_virtual_time
async def test_endpoints_that_come_and_go_cost_few_changes():
    async with running() as world:
        world.services.is_known = True
        world.hold()
        for number in range(500):
            world.services.put(f"1.0.{number // 250}.{number % 250}")
            await asyncio.sleep(0.001)
        await asyncio.sleep(proxy.GATHER_S)
        assert world.endpoints() == ["1.0.1.249"]
        assert len(world.network.changes) < 20
        assert all(len(one.put) <= 1 for one in world.network.changes)


@on_virtual_time
async def test_after_an_error_the_whole_table_is_brought_again():
    async with running() as world:
        world.services.is_known = True
        world.services.put("1.0.0.9", name="other", address="10.96.0.11")
        world.hold()
        world.services.put("1.0.0.1")
        assert await world.proxy.first_rules(world.services)
        world.network.fail_next = [ports.DriverError("cannot change the rules: busy")]
        world.services.put("1.0.0.2")
        await asyncio.sleep(2)
        assert world.endpoints() == ["1.0.0.2"]
        assert len(world.network.services[world.services.outlook]) == 2
        assert [one.reason for one in world.told] == ["ServicesNotReached"]


@on_virtual_time
async def test_what_somebody_removed_is_back_after_a_while():
    async with running() as world:
        world.services.is_known = True
        world.services.put("1.0.0.1")
        world.hold()
        assert await world.proxy.first_rules(world.services)
        world.network.services.clear()
        await asyncio.sleep(proxy.CHECK_S + 2)
        assert world.endpoints() == ["1.0.0.1"]


@on_virtual_time
async def test_all_is_let_go_of_with_the_last_pod_and_begun_again_with_the_next():
    async with running() as world:
        world.services.is_known = True
        world.services.put("1.0.0.1")
        world.hold()
        world.hold("uid-2")
        assert await world.proxy.first_rules(world.services)
        world.proxy.release(UID)
        await asyncio.sleep(1)
        assert world.services.holders
        world.proxy.release("uid-2")
        world.proxy.release("uid-2")
        await asyncio.sleep(1)
        assert not world.services.holders
        assert not world.network.services
        world.hold()
        assert await world.proxy.first_rules(world.services)
        assert world.endpoints() == ["1.0.0.1"]


@on_virtual_time
async def test_rules_that_could_not_be_removed_are_removed_later():
    async with running() as world:
        world.services.is_known = True
        world.services.put("1.0.0.1")
        world.hold()
        assert await world.proxy.first_rules(world.services)
        world.network.fail_forget = [ports.DriverError("cannot remove the rules for Services: busy")] * 3
        world.proxy.release(UID)
        await asyncio.sleep(0.1)
        assert world.network.services
        await asyncio.sleep(5)
        assert not world.network.services


@on_virtual_time
async def test_a_pod_that_got_another_interface_has_its_services_there():
    async with running() as world:
        world.services.is_known = True
        world.services.put("1.0.0.1")
        world.hold()
        assert await world.proxy.first_rules(world.services)
        other = msgspec.structs.replace(INTERFACE, address="10.0.0.10")
        world.hold(interface=other)
        await asyncio.sleep(1)
        assert world.network.member_links == {UID: other}


@on_virtual_time
async def test_a_pod_whose_group_changed_its_cluster_leaves_the_formers_services():
    async with running() as world:
        former, now = world.services, service_world.Services()
        now.outlook = "another/u/vn1"
        for one in (former, now):
            one.is_known = True
            one.put("1.0.0.1")
        world.hold()
        world.hold("uid-2")
        assert await world.proxy.first_rules(former)
        world.hold(services=now)
        assert await world.proxy.first_rules(now)
        former.put("1.0.0.2")
        await asyncio.sleep(1)
        assert world.network.members == {former.outlook: {"uid-2"}, now.outlook: {UID}}
        world.hold("uid-2", services=now)
        await asyncio.sleep(1)
        assert not former.holders
        assert world.network.services.keys() == {now.outlook}


@on_virtual_time
async def test_an_endpoint_at_an_address_of_the_machine_is_ignored():
    async with running() as world:
        world.services.is_known = True
        world.services.put("10.0.0.1", "1.0.0.1")
        world.hold()
        assert await world.proxy.first_rules(world.services)
        assert world.endpoints() == ["1.0.0.1"]
