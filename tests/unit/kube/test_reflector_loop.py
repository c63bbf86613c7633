"""The reflector's loop against a server that fails."""

import asyncio
import contextlib

import pytest
from fakes import kube_api

from kci.kit import backoff, tasks
from kci.kube import errors, reflector, resources, transport

AT_ONCE = backoff.Backoff(initial_s=0.001, cap_s=0.001)


class World:
    def __init__(self, backoff=AT_ONCE):
        self.api = kube_api.FakeApi()
        self.seen = []
        self._news = asyncio.Event()
        self.restarts = []
        self.copy = reflector.Reflector(
            self.api,
            resources.CONFIG_MAPS,
            namespace="ns",
            on_change=self._see,
            backoff=backoff,
            on_restart=self.restarts.append,
        )

    def _see(self, change):
        self.seen.append((change.kind.name, change.object.metadata.name, change.final_state_unknown))
        self._news.set()

    async def until(self, *wanted):
        async with asyncio.timeout(10):
            while not set(wanted) <= set(self.seen):
                self._news.clear()
                await self._news.wait()

    async def create(self, name):
        await self.api.create(resources.CONFIG_MAPS, {"metadata": {"name": name}}, namespace="ns")

    async def delete(self, name):
        await self.api.delete(resources.CONFIG_MAPS, name, namespace="ns")

    @contextlib.asynccontextmanager
    async def running(self):
        async with tasks.background("reflector", self.copy.run()):
            async with asyncio.timeout(10):
                await self.copy.synced.wait()
            yield


@pytest.mark.requirement("R17")
async def test_a_cut_watch_goes_on_without_a_list():
    world = World()
    async with world.running():
        await world.create("a")
        await world.until(("ADDED", "a", False))
        world.api.cut()
        await world.delete("a")
        await world.until(("DELETED", "a", False))
    assert world.api.lists == 1
    assert world.restarts == ["configmaps"] * len(world.restarts) != []


@pytest.mark.requirement("R17")
async def test_a_forgotten_version_leads_to_a_list_with_the_deletions():
    world = World()
    await world.create("a")
    async with world.running():
        await world.until(("ADDED", "a", False))
        await world.delete("a")
        world.api.forget()
        await world.create("b")
        await world.until(("DELETED", "a", True), ("ADDED", "b", False))
    assert [item.metadata.name for item in world.copy.objects.values()] == ["b"]


@pytest.mark.requirement("R06", "R17")
@pytest.mark.parametrize("failure", [errors.UnreachableError, errors.ForbiddenError, errors.TryLaterError])
async def test_a_failed_list_deletes_nothing_and_is_tried_again(failure):
    world = World()
    await world.create("a")
    world.api.failures = [failure("cannot list"), failure("cannot list")]
    async with world.running():
        assert world.seen == [("ADDED", "a", False)]
        await world.create("b")
        world.api.forget()
        world.api.failures = [
            errors.GoneError("cannot watch"),
            failure("cannot list"),
            errors.GoneError("cannot list"),
        ]
        await world.until(("ADDED", "b", False))
    assert {change[0] for change in world.seen} == {"ADDED"}


@pytest.mark.requirement("R17")
async def test_a_silent_watch_is_begun_anew_at_once_and_ended_by_the_server_from_then_on():
    world = World(backoff=backoff.Backoff(initial_s=1000.0, cap_s=1000.0))
    world.api.silent_watches = 2
    async with world.running():
        await world.create("a")
        await world.until(("ADDED", "a", False))
    first, *after_silence = world.api.watch_timeouts_s
    assert first >= min(reflector.WATCH_TIMEOUT_S)
    assert len(after_silence) == 2
    assert max(after_silence) <= max(reflector.QUIET_WATCH_TIMEOUT_S) < transport.WATCH_STALL_S
    assert world.api.lists == 1


@pytest.mark.requirement("R17")
async def test_a_bookmark_is_where_the_next_watch_starts():
    world = World()
    async with world.running():
        await world.create("a")
        world.api.bookmark()
        await world.until(("ADDED", "a", False))
        world.api.forget()
        await world.create("b")
        await world.until(("ADDED", "b", False))


async def test_an_error_of_the_handler_ends_it():
    api = kube_api.FakeApi()
    await api.create(resources.CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace="ns")

    def broken(change):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await reflector.Reflector(api, resources.CONFIG_MAPS, on_change=broken).run()
