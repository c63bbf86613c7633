"""The fake API server behaves as the real one where reflectors and recorders can tell."""

import asyncio
import contextlib

import pytest
from fakes import kube_api

from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import errors, events, resources

pytestmark = pytest.mark.integration
CONFIG_MAPS = resources.CONFIG_MAPS


@pytest.fixture(params=["fake", "real"])
def api(request):
    return kube_api.FakeApi() if request.param == "fake" else request.getfixturevalue("admin")


@pytest.fixture
def place(request, api):
    if isinstance(api, kube_api.FakeApi):
        return "fake"
    return request.getfixturevalue("namespace")


async def next_events(api, place, version, count):
    seen = []
    watch = api.watch(CONFIG_MAPS, namespace=place, resource_version=version)
    async with asyncio.timeout(10), contextlib.aclosing(watch) as found:
        async for event in found:
            if isinstance(event, clients.WatchEvent):
                seen.append((event.kind.name, event.object))
            if len(seen) == count:
                return seen
    return seen


class TestApi:
    async def test_a_watch_tells_what_came_after_the_list(self, api, place):
        kept = await api.create(CONFIG_MAPS, {"metadata": {"name": "kept"}}, namespace=place)
        listing = await api.list_all(CONFIG_MAPS, namespace=place)
        assert listing.items == (kept,)
        made = await api.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace=place)
        changed = await api.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, namespace=place)
        await api.delete(CONFIG_MAPS, "a", namespace=place, uid=made.metadata.uid)
        first, second, third = await next_events(api, place, listing.resource_version, 3)
        assert first == ("ADDED", made)
        assert second == ("MODIFIED", changed)
        assert third[0] == "DELETED"
        versions = [int(item.metadata.resource_version) for _, item in (first, second, third)]
        assert versions == sorted(set(versions)), "a deletion has a version of its own"

    async def test_a_name_made_anew_is_another_object(self, api, place):
        first = await api.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace=place)
        with pytest.raises(errors.AlreadyExistsError):
            await api.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace=place)
        await api.delete(CONFIG_MAPS, "a", namespace=place)
        second = await api.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace=place)
        assert first.metadata.uid != second.metadata.uid
        with pytest.raises(errors.ConflictError):
            await api.delete(CONFIG_MAPS, "a", namespace=place, uid=first.metadata.uid)
        with pytest.raises(errors.ConflictError):
            old = {"metadata": {"uid": first.metadata.uid}, "data": {"x": "1"}}
            await api.patch(CONFIG_MAPS, "a", old, namespace=place)
        with pytest.raises(errors.NotFoundError):
            await api.delete(CONFIG_MAPS, "b", namespace=place)

    async def test_a_patch_that_names_an_older_version_is_refused(self, api, place):
        old = await api.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace=place)
        versioned = {"metadata": {"resourceVersion": old.metadata.resource_version}, "data": {"x": "1"}}
        await api.patch(CONFIG_MAPS, "a", versioned, namespace=place)
        with pytest.raises(errors.ConflictError):
            await api.patch(CONFIG_MAPS, "a", versioned, namespace=place)

    async def test_what_is_told_again_is_counted(self, api, place):
        recorder = events.EventRecorder(api, component="tests", host="n1")
        about = events.Reference(kind="Pod", namespace=place, name="p", uid="u")
        async with tasks.background("recorder", recorder.run()):
            for count in (1, 2, 3):
                recorder.record(about, type=events.WARNING, reason="BackOff", message="again")
                told = await self.until(api, place, "BackOff", count)
            recorder.record(about, type=events.NORMAL, reason="Started", message="it runs")
            await self.until(api, place, "Started", 1)
        assert (told.source.component, told.involved_object.uid) == ("tests", "u")
        assert len((await api.list_all(resources.EVENTS, namespace=place)).items) == 2

    @staticmethod
    async def until(api, place, reason, count):
        watch = api.watch(resources.EVENTS, namespace=place, resource_version="0")
        async with asyncio.timeout(10), contextlib.aclosing(watch) as found:
            async for event in found:
                if isinstance(event, clients.WatchEvent) and (event.object.reason, event.object.count) == (
                    reason,
                    count,
                ):
                    return event.object
        raise AssertionError("the watch ended")
