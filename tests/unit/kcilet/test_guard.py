"""The worker that keeps the firewall: told of changes, stubborn, and never ahead of them."""

import asyncio

import pytest
from fakes import machine_world

from kci.kcilet import ports
from kci.kcilet.workers import guard
from kci.kit import tasks

pytestmark = pytest.mark.requirement("R54")


class Failing(machine_world.FakeNetwork):
    def __init__(self, failures):
        super().__init__()
        self.failures = failures
        self.tries = 0

    async def guard(self, firewall):
        self.tries += 1
        if self.tries <= self.failures:
            raise ports.DriverError("cannot set the rules: the kernel is busy")
        await super().guard(firewall)


def planned(number):
    return ports.Firewall(members={str(number): frozenset()})


async def until(network, firewall):
    async with asyncio.timeout(10):
        async for known in network.guarded.changes():
            if known == firewall:
                return


async def test_what_changed_is_planned_anew_and_set_until_it_is():
    network, now = Failing(failures=3), [planned(1)]
    it = guard.Guard(network, lambda: now[0], again_s=3600)
    async with tasks.background("guard", it.run()):
        it.wake()
        await until(network, planned(1))
        assert network.tries == 4
        now[0] = planned(2)
        it.wake()
        await until(network, planned(2))
        assert network.tries == 5


async def test_it_is_looked_after_now_and_then_without_a_change():
    network = machine_world.FakeNetwork()
    async with tasks.background("guard", guard.Guard(network, lambda: planned(1), again_s=0.01).run()):
        await until(network, planned(1))
        network.guarded.set(ports.Firewall())
        await until(network, planned(1))
