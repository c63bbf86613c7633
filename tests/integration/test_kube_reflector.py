"""The reflector against a real API server that goes away and forgets."""

import asyncio
import contextlib

import pytest

from kci.kit import backoff, tasks
from kci.kube import errors, reflector, resources

pytestmark = pytest.mark.integration


class Seen:
    """Keeps changes, and wakes who waits for one."""

    def __init__(self):
        self.changes = []
        self._news = asyncio.Event()

    def __call__(self, change):
        self.changes.append((change.kind.name, change.object.metadata.name, change.final_state_unknown))
        self._news.set()

    async def until(self, *wanted):
        async with asyncio.timeout(60):
            while not set(wanted) <= set(self.changes):
                self._news.clear()
                await self._news.wait()


async def test_a_copy_stays_whole_over_a_restart_of_the_server(admin, api_server, namespace):
    async def create(name):
        await admin.create(resources.CONFIG_MAPS, {"metadata": {"name": name}}, namespace=namespace)

    await create("before")
    seen = Seen()
    copy = reflector.Reflector(
        admin,
        resources.CONFIG_MAPS,
        namespace=namespace,
        on_change=seen,
        backoff=backoff.Backoff(initial_s=0.05, cap_s=0.5),
    )
    async with tasks.background("reflector", copy.run()):
        await asyncio.wait_for(copy.synced.wait(), 10)
        assert seen.changes == [("ADDED", "before", False)]
        await create("watched")
        await seen.until(("ADDED", "watched", False))

        await tasks.in_thread(api_server.stop_api_server)
        assert len(copy.objects) == 2, "an absent server deletes nothing"
        api_server.start_api_server()
        await tasks.in_thread(api_server.await_ready)

        await admin.delete(resources.CONFIG_MAPS, "before", namespace=namespace)
        await create("after")
        await seen.until(("DELETED", "before", False), ("ADDED", "after", False))
    assert {item.metadata.name for item in copy.objects.values()} == {"watched", "after"}
    assert len(seen.changes) == 4, "nothing is told twice"


async def test_a_version_from_before_the_restart_is_gone(admin, api_server, namespace):
    start = await admin.list_all(resources.CONFIG_MAPS, namespace=namespace)
    await admin.create(resources.CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace=namespace)
    await tasks.in_thread(api_server.stop_api_server)
    api_server.start_api_server()
    await tasks.in_thread(api_server.await_ready)
    watch = admin.watch(
        resources.CONFIG_MAPS, namespace=namespace, resource_version=start.resource_version, timeout_s=5
    )
    with pytest.raises(errors.GoneError):
        async with contextlib.aclosing(watch) as events:
            _ = [event async for event in events]
