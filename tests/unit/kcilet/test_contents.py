"""What volumes are made of changes while a pod runs or waits, on a clock that jumps."""

import asyncio
import contextlib
import dataclasses

import msgspec
from fakes import kcilet_world, machine_world

from kci.kube import models
from kci.link import types as link

on_virtual_time = kcilet_world.on_virtual_time
SETTINGS = models.Volume(name="config", config_map=models.ConfigMapVolume(name="settings"))
OTHER = models.Volume(name="other", config_map=models.ConfigMapVolume(name="other", optional=True))
LABELS = models.Volume(
    name="info",
    downward_api=models.DownwardAPIVolume(
        items=(
            models.DownwardAPIFile(
                path="labels", field_ref=models.ObjectFieldSelector(field_path="metadata.labels")
            ),
        )
    ),
)


class CountingVolumes(machine_world.FakeVolumes):
    def __init__(self):
        super().__init__()
        self.times_laid_out = 0

    async def ensure_volumes(self, pod_uid, volumes):
        self.times_laid_out += 1
        await super().ensure_volumes(pod_uid, volumes)

    def files(self, volume):
        laid = self.pods["uid-1"].get(f"volume {volume}")
        return laid and {file.path: file.content.decode() for file in laid.files}


@contextlib.asynccontextmanager
async def world(*volumes, pod=None):
    async with kcilet_world.world(volumes=volumes) as it:
        it.volumes = CountingVolumes()
        it.drivers = dataclasses.replace(it.drivers, volumes=it.volumes)
        if pod is not None:
            it.cluster.put(pod)
        yield it


def now_s():
    return asyncio.get_running_loop().time()


async def until_running(it):
    await it.until_phase(link.Phase.RUNNING)
    await asyncio.sleep(1)


def kept(it):
    return [follower.kept for follower in it.cluster.followers]


@on_virtual_time
async def test_a_change_is_laid_out_at_once_and_only_a_change_is():
    async with world(SETTINGS) as it:
        it.cluster.put_config_map("settings", {"a": "1"})
        await it.start(machine_world.group())
        await until_running(it)
        assert it.volumes.files("config") == {"a": "1"}
        assert it.volumes.times_laid_out == 1
        it.cluster.put_config_map("settings", {"a": "2"})
        changed_at_s = now_s()
        await it.until(lambda: it.volumes.files("config") == {"a": "2"})
        assert now_s() < changed_at_s + 1
        await asyncio.sleep(300)
        assert it.volumes.times_laid_out == 2
        assert it.runtime.names().count("start_container") == 1


@on_virtual_time
async def test_a_config_map_that_is_missing_holds_the_start_up_no_longer_than_it_is_missing():
    env = models.EnvVar(
        name="V",
        value_from=models.EnvVarSource(config_map_key_ref=models.KeySelector(name="settings", key="a")),
    )
    waits_for_env = machine_world.pod()
    container = msgspec.structs.replace(waits_for_env.spec.containers[0], env=(env,))
    spec = msgspec.structs.replace(waits_for_env.spec, containers=(container,))
    for volumes, pod in (((SETTINGS,), None), ((), msgspec.structs.replace(waits_for_env, spec=spec))):
        async with world(*volumes, pod=pod) as it:
            await it.start(machine_world.group())
            # Long enough for the back-off to have grown.
            await asyncio.sleep(200)
            assert it.phase() is not link.Phase.RUNNING
            it.cluster.put_config_map("settings", {"b": "1"})
            await asyncio.sleep(1 if pod else 0)
            it.cluster.put_config_map("settings", {"a": "1"})
            there_at_s = now_s()
            await it.until_phase(link.Phase.RUNNING)
            assert now_s() < there_at_s + 1
            await asyncio.sleep(1)
            # An environment is read once; only what a volume shows is followed further.
            assert kept(it) == [(frozenset({"settings"} if volumes else ()), frozenset())]


@on_virtual_time
async def test_a_label_of_the_pod_shows_in_its_volume():
    async with world(LABELS) as it:
        await it.start(machine_world.group())
        await until_running(it)
        pod = it.cluster.pods["uid-1"]
        meta = msgspec.structs.replace(pod.metadata, labels={"tier": "gold"})
        it.cluster.put(msgspec.structs.replace(pod, metadata=meta))
        changed_at_s = now_s()
        await it.until(lambda: it.volumes.files("info") == {"labels": 'tier="gold"'})
        assert now_s() < changed_at_s + 1
        # Our own annotation on the pod is none of what the volume shows.
        assert it.volumes.times_laid_out == 2


@on_virtual_time
async def test_what_is_wrong_with_one_volume_keeps_no_other_from_being_followed():
    async with world(SETTINGS, OTHER) as it:
        it.cluster.put_config_map("settings", {"a": "1"})
        await it.start(machine_world.group())
        await until_running(it)
        it.cluster.put_config_map("settings", None)
        it.cluster.put_config_map("other", {"o": "1"})
        await it.until(lambda: it.volumes.files("other") == {"o": "1"})
        assert it.volumes.files("config") == {"a": "1"}, "what was there stays"
        it.cluster.put_config_map("other", None)
        await it.until(lambda: it.volumes.files("other") == {})
        assert "FailedMount" in it.cluster.reasons()
        assert it.phase() is link.Phase.RUNNING
        it.cluster.put_config_map("settings", {"a": "3"})
        await it.until(lambda: it.volumes.files("config") == {"a": "3"})


@on_virtual_time
async def test_after_a_restart_of_the_kcilet_changes_are_made_up_for_and_followed():
    async with world(SETTINGS) as it:
        it.cluster.put_config_map("settings", {"a": "1"})
        await it.start(machine_world.group())
        await until_running(it)
        await it.kill()
        it.cluster.put_config_map("settings", {"a": "2"})
        await it.start(machine_world.group())
        await it.until(lambda: it.volumes.files("config") == {"a": "2"}, within_s=1)
        it.cluster.put_config_map("settings", {"a": "3"})
        await it.until(lambda: it.volumes.files("config") == {"a": "3"}, within_s=1)
        assert it.runtime.names().count("start_container") == 1


@on_virtual_time
async def test_nothing_is_followed_for_a_pod_that_has_ended():
    async with world(SETTINGS) as it:
        it.cluster.put_config_map("settings", {"a": "1"})
        it.runtime.programs["app:1"] = machine_world.Program(runs_s=5.0)
        pod = it.cluster.pods["uid-1"]
        it.cluster.put(
            msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, restart_policy="Never"))
        )
        await it.start(machine_world.group())
        await until_running(it)
        assert kept(it) == [(frozenset({"settings"}), frozenset())]
        await it.until_phase(link.Phase.SUCCEEDED)
        assert kept(it) == [((), ())]
