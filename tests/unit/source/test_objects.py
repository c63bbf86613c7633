"""ConfigMaps and Secrets that pods keep: one watch each, as long as somebody needs it."""

import asyncio
import itertools

import pytest
from fakes import kcilet_world, source_world
from fakes.source_world import group, kubeconfig, sources_of, until

from kci.kit import tasks
from kci.kube import errors, resources
from kci.source import errors as source_errors
from kci.source import objects

ON_A = ("configmaps", "metadata.name=a")
ON_PODS = ("pods", "spec.nodeName=vn1")


@pytest.fixture
async def api():
    return await source_world.new_api()


class Pod:
    """A pod that keeps ConfigMap `a`; `changes` counts what it was told."""

    def __init__(self, sources, pod, **changes):
        self.changes = 0
        self.source = sources.join(group(pod.uid, name=pod.metadata.name, **changes), self._note)
        self.source.keep({"a"}, ())

    def _note(self):
        self.changes += 1

    async def read(self):
        found = await self.source.config_map("a")
        return found and found.data


async def test_fifty_pods_share_one_list_and_one_watch_until_the_last_has_left(api):
    await api.put_config_map(k="1")
    async with sources_of(api) as sources:
        pods = [Pod(sources, await api.add_pod(f"p{number}")) for number in range(50)]
        found = await tasks.wait_all((pod.read() for pod in pods), name="read")
        assert found == [{"k": "1"}] * 50
        await until(lambda: set(api.watching) == {ON_A, ON_PODS})
        # One list of pods and one of the object; no object was read by itself.
        assert api.lists == 2
        assert not [read for read in api.reads if read.startswith("configmaps/")]
        for pod in pods[:-1]:
            pod.source.leave()
        assert ON_A in api.watching
        pods[-1].source.leave()
        await until(lambda: api.watching == [ON_PODS])


async def test_an_object_that_cannot_be_read_is_not_taken_for_none(api):
    await api.put_config_map(k="1")
    api.change(resources.CONFIG_MAPS, "a", namespace="default", data="no map")
    async with sources_of(api) as sources:
        pod = Pod(sources, await api.add_pod("p"))
        with pytest.raises(source_errors.SourceError, match="default/a"):
            await pod.read()
        api.change(resources.CONFIG_MAPS, "a", namespace="default", data={"k": "2"})
        await until(lambda: ON_A in api.watching)
        assert await pod.read() == {"k": "2"}


async def test_a_change_is_told_to_those_who_read_it_and_only_once(api):
    await api.put_config_map(k="1")
    async with sources_of(api) as sources:
        pod, other = Pod(sources, await api.add_pod("p")), Pod(sources, await api.add_pod("q"))
        other.source.keep((), ())
        before = pod.source.content
        assert await pod.read() == {"k": "1"}
        assert pod.source.content == before, "the first read is no change"
        await api.put_config_map(k="2")
        await until(lambda: pod.source.content != before)
        assert await pod.read() == {"k": "2"}
        now = pod.source.content
        await api.put_config_map(name="b", k="9")
        await api.put_config_map(k="3")
        await until(lambda: pod.source.content != now)
        assert other.source.content not in {now, pod.source.content}
        assert await pod.read() == {"k": "3"}


async def test_an_object_may_appear_vanish_and_come_back(api):
    async with sources_of(api) as sources:
        pod = Pod(sources, await api.add_pod())
        assert await pod.read() is None
        for number in range(2):
            before = pod.source.content
            await api.put_config_map(k=str(number))
            await until(lambda: pod.source.content != before)  # noqa: B023  (awaited here)
            assert await pod.read() == {"k": str(number)}
            before = pod.source.content
            await api.delete(resources.CONFIG_MAPS, "a", namespace="default")
            await until(lambda: pod.source.content != before)  # noqa: B023
            assert await pod.read() is None


async def test_what_was_missing_when_it_was_read_and_is_there_when_it_is_kept_is_a_change(api):
    async with sources_of(api) as sources:
        pod = Pod(sources, await api.add_pod())
        pod.source.keep((), ())
        assert await pod.read() is None
        await api.put_config_map(k="1")
        before = pod.source.content
        pod.source.keep({"a"}, ())
        await until(lambda: pod.source.content != before)
        assert await pod.read() == {"k": "1"}


@kcilet_world.on_virtual_time
async def test_what_is_missed_while_the_server_is_away_is_made_up_for():
    api = await source_world.new_api()
    await api.put_config_map(k="1")
    async with sources_of(api, within_s=600) as sources:
        pod = Pod(sources, await api.add_pod())
        assert await pod.read() == {"k": "1"}
        await until(lambda: ON_A in api.watching)
        for break_off in (api.cut, api.forget):
            before = pod.source.content
            api.failures = [errors.UnreachableError("cannot reach it")] * 7
            break_off()
            await api.put_config_map(k=break_off.__name__)
            assert await pod.read() is not None, "the last state counts while the server is away"
            await until(lambda: pod.source.content != before)  # noqa: B023  (awaited here)
            assert await pod.read() == {"k": break_off.__name__}


@kcilet_world.on_virtual_time
async def test_a_first_list_that_fails_is_told_and_made_up_for():
    api = await source_world.new_api()
    await api.put_config_map(k="1")
    async with sources_of(api, within_s=600) as sources:
        joined = sources.join(group((await api.add_pod()).uid), lambda: None)
        await until(lambda: joined.view.pod and ON_PODS in api.watching and joined.host_ip)
        before = joined.content
        api.failures = [errors.UnreachableError("cannot list configmaps: no")]
        joined.keep({"a"}, ())
        with pytest.raises(source_errors.SourceError, match="cannot read configmaps default/a: cannot list"):
            await joined.config_map("a")
        await until(lambda: joined.content != before)
        assert (await joined.config_map("a")).data == {"k": "1"}


@kcilet_world.on_virtual_time
async def test_what_may_be_read_but_not_listed_is_read_by_its_name_each_minute_until_it_may_be_listed():
    api = await source_world.new_api()
    await api.put_config_map(k="1")
    api.unlisted = {"configmaps"}
    async with sources_of(api, within_s=3600) as sources:
        pod = Pod(sources, await api.add_pod())
        assert await pod.read() == {"k": "1"}
        before = pod.source.content
        await api.put_config_map(k="2")
        async with asyncio.timeout(objects.READ_AGAIN_S + 2):
            await until(lambda: pod.source.content != before, every_s=1)
        assert await pod.read() == {"k": "2"}
        before = pod.source.content
        await api.delete(resources.CONFIG_MAPS, "a", namespace="default")
        await until(lambda: pod.source.content != before, every_s=1)
        assert await pod.read() is None
        before = pod.source.content
        await api.put_config_map(k="back")
        async with asyncio.timeout(objects.LOOK_FOR_S + 2):
            await until(lambda: pod.source.content != before, every_s=1)
        assert await pod.read() == {"k": "back"}
        assert ON_A not in api.watching
        await api.delete(resources.CONFIG_MAPS, "a", namespace="default")
        api.unlisted = set()
        await until(lambda: ON_A in api.watching, every_s=1)
        assert await pod.read() is None
        before = pod.source.content
        await api.put_config_map(k="3")
        await until(lambda: pod.source.content != before, every_s=1)
        assert await pod.read() == {"k": "3"}


@kcilet_world.on_virtual_time
async def test_a_list_that_was_refused_a_moment_too_early_is_a_watch_within_seconds():
    api = await source_world.new_api()
    await api.put_config_map(k="1")
    api.unlisted = {"configmaps"}
    async with sources_of(api, within_s=60) as sources:
        pod = Pod(sources, await api.add_pod())
        assert await pod.read() == {"k": "1"}
        api.unlisted = set()
        async with asyncio.timeout(objects.LIST_AGAIN.initial_s + 2):
            await until(lambda: ON_A in api.watching, every_s=0.5)
        before = pod.source.content
        await api.put_config_map(k="2")
        await until(lambda: pod.source.content != before)
        assert await pod.read() == {"k": "2"}


@kcilet_world.on_virtual_time
async def test_what_may_not_even_be_read_is_told_and_tried_again():
    api = await source_world.new_api()
    await api.put_config_map(k="1")
    api.unlisted = {"configmaps"}
    async with sources_of(api, within_s=3600) as sources:
        joined = sources.join(group((await api.add_pod()).uid), lambda: None)
        await until(lambda: joined.view.pod and ON_PODS in api.watching and joined.host_ip)
        before = joined.content
        api.failures = [errors.ForbiddenError("cannot get configmaps: no", code=403)]
        joined.keep({"a"}, ())
        with pytest.raises(source_errors.SourceError, match="cannot read configmaps default/a: cannot get"):
            await joined.config_map("a")
        await until(lambda: joined.content != before)
        assert (await joined.config_map("a")).data == {"k": "1"}


async def test_an_immutable_object_is_not_watched_once_it_is_known(api):
    body = {"metadata": {"name": "a"}, "data": {"k": "1"}, "immutable": True}
    async with sources_of(api) as sources:
        pod = Pod(sources, await api.add_pod())
        assert await pod.read() is None
        await until(lambda: ON_A in api.watching)
        await api.create(resources.CONFIG_MAPS, body, namespace="default")
        await until(lambda: ON_A not in api.watching)
        assert await pod.read() == {"k": "1"}
        lists = api.lists
        other = Pod(sources, await api.add_pod("other"))
        assert await other.read() == {"k": "1"}
        assert api.lists == lists


async def test_watches_go_on_with_a_newer_kubeconfig(api):
    await api.put_config_map(k="1")
    async with sources_of(api) as sources:
        pod = Pod(sources, await api.add_pod())
        assert await pod.read() == {"k": "1"}
        newer = kubeconfig("https://10.0.0.2:6443")
        renewed = sources.join(group("uid-2", name="other", text=newer), lambda: None)
        await until(lambda: len(sources.connected) == 2)
        # What closing the old client does to its watches.
        api.cut()
        before = pod.source.content
        await api.put_config_map(k="2")
        await until(lambda: pod.source.content != before)
        renewed.leave()


@kcilet_world.on_virtual_time
async def test_a_watch_that_was_well_for_long_is_tried_again_at_once():
    asked_at_s = []

    async def client():
        asked_at_s.append(asyncio.get_running_loop().time())
        if len(asked_at_s) == 10:
            await asyncio.sleep(3600)
        raise RuntimeError("nobody expects this")

    watch = objects.Watch(objects.Key(resources.CONFIG_MAPS, "default", "a"), client)
    async with tasks.background("watch", watch.run()):
        await until(lambda: len(asked_at_s) == 11, every_s=1)
    delays_s = [after - before for before, after in itertools.pairwise(asked_at_s)]
    assert delays_s[8] > objects.BACKOFF.cap_s / 2
    assert delays_s[9] - 3600 <= objects.BACKOFF.initial_s
