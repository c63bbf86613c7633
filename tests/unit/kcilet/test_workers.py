"""The agent and its workers on fakes: a pod's whole life, on a clock that jumps."""

import asyncio
import itertools

import msgspec
import pytest
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kube import models
from kci.link import types as link

Program = machine_world.Program
on_virtual_time, world = kcilet_world.on_virtual_time, kcilet_world.world
app, ready = kcilet_world.app, kcilet_world.ready


def statuses_of(it):
    """What was written of the pod's status, write by write."""
    return [patch["status"] for patch in it.cluster.patches if "status" in patch]


def has_ended(status):
    return any("terminated" in one["state"] for one in status.get("containerStatuses", ()))


@pytest.mark.guide("annotation kci-instance-id", "annotation kci-instance-spec")
@on_virtual_time
async def test_a_pod_becomes_ready_with_one_status_write():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.RUNNING)
        await it.until(lambda: ready(it) == "True")
        assert len(it.cluster.patches) == 1
        status = it.cluster.status("uid-1")
        assert (status.phase, status.pod_ip, status.host_ip) == ("Running", "10.0.0.9", "192.168.0.1")
        assert app(it).state.running is not None
        assert app(it).ready
        assert app(it).container_id.startswith("containerd://")
        annotations = it.cluster.pods["uid-1"].metadata.annotations
        assert annotations["k8s.ksyun.com/kci-instance-id"] == "g-1"
        assert annotations["k8s.ksyun.com/kci-instance-spec"] == "1-0.5Gi"
        assert annotations["k8s.ksyun.com/kci-instance-spec"] == "1-0.5Gi"
        assert it.cluster.reasons() == ["Pulled", "Created", "Started"]
        # What it does not know any better, it does not say again.
        await asyncio.sleep(300)
        assert len(it.cluster.patches) == 1
        assert it.runtime.names().count("run_sandbox") == 1


@on_virtual_time
async def test_a_dns_server_that_is_a_service_is_told_once_of_a_pod_without_kube_proxy():
    async with world() as it:
        it.cluster.services["10.96.0.10"] = "kube-system/kube-dns"
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        assert it.cluster.reasons().count("DNSNotReachable") == 1
        # A sandbox that is made anew is no news.
        it.runtime.kill_sandbox("uid-1")
        await it.until(lambda: it.runtime.names().count("run_sandbox") == 2)
        await it.until(lambda: ready(it) == "True")
        assert it.cluster.reasons().count("DNSNotReachable") == 1


@on_virtual_time
async def test_a_pod_with_kube_proxy_reaches_services():
    async with world() as it:
        it.cluster.services["10.96.0.10"] = "kube-system/kube-dns"
        await it.start(msgspec.structs.replace(machine_world.group(), kube_proxy=True))
        await it.until(lambda: ready(it) == "True")
        assert "DNSNotReachable" not in it.cluster.reasons()


@on_virtual_time
async def test_a_slow_start_is_told_before_it_is_done():
    async with world() as it:
        it.runtime.delays_s["run_sandbox"] = 5.0
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches)
        assert asyncio.get_running_loop().time() < 1003
        assert app(it).state.waiting.reason == "ContainerCreating"
        await it.until(lambda: ready(it) == "True")
        assert len(it.cluster.patches) == 2


@on_virtual_time
async def test_a_start_of_many_slow_steps_costs_two_writes():
    async with world() as it:
        for step in ("run_sandbox", "create_container", "start_container"):
            it.runtime.delays_s[step] = 4.0
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        assert len(it.cluster.patches) == 2


@on_virtual_time
async def test_an_exit_is_told_at_once_and_a_finished_pod_keeps_its_records():
    async with world(policy="Never") as it:
        it.drivers.volumes.pods["uid-1"]["message-app-0"] = b"last words"
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        before = asyncio.get_running_loop().time()
        it.runtime.exit("app", 3)
        await it.until_phase(link.Phase.FAILED)
        await it.until(lambda: it.cluster.status("uid-1").phase == "Failed")
        assert asyncio.get_running_loop().time() - before < 0.1
        ended = app(it).state.terminated
        assert (ended.exit_code, ended.reason, ended.message) == (3, "Error", "last words")
        # The phase is not told after it: whoever sees that the container ended sees what became of the pod.
        assert [(patch.get("phase"), has_ended(patch)) for patch in statuses_of(it)] == [
            ("Running", False),
            ("Failed", True),
        ]
        await it.until(lambda: not any(box.ready for box in it.runtime.sandboxes.values()))
        await asyncio.sleep(100)
        assert it.runtime.containers
        assert len(it.runtime.sandboxes) == 1


@on_virtual_time
async def test_a_crashing_container_is_restarted_after_growing_delays():
    async with world() as it:
        it.runtime.programs["app:1"] = Program(runs_s=0.5, code=1)
        await it.start(machine_world.group())
        starts = []

        def count():
            number = it.runtime.names().count("start_container")
            if number > len(starts):
                starts.append(asyncio.get_running_loop().time())
            return len(starts) == 6

        await it.until(count)
        # The first restart is at once; then 10, 20, 40, 80 seconds after the exit. A run takes half a second.
        assert [int(b - a) for a, b in itertools.pairwise(starts)] == [0, 10, 20, 40, 80]
        await it.until(lambda: app(it).state.waiting is not None)
        assert app(it).state.waiting.reason == "CrashLoopBackOff"
        assert app(it).state.waiting.message.startswith(
            "back-off 2m40s restarting failed container=app pod=web_"
        )
        assert app(it).restart_count == 5
        assert app(it).last_state.terminated.exit_code == 1
        assert it.cluster.status("uid-1").phase == "Running"
        assert "BackOff" in it.cluster.reasons()
        # Two records of a container are kept with their logs, and no more.
        assert {one.attempt for one in it.runtime.containers.values()} == {4, 5}
        assert it.drivers.logs.files == {"/logs/uid-1/app/4.log", "/logs/uid-1/app/5.log"}


@on_virtual_time
async def test_an_image_that_is_not_there_is_asked_for_again_and_again():
    async with world(image="gone:1") as it:
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches and app(it).state.waiting.reason == "ErrImagePull")
        await it.until(lambda: app(it).state.waiting.reason == "ImagePullBackOff")
        assert it.cluster.status("uid-1").phase == "Pending"
        assert it.agent.reports.get("g-1").reason == "ImagePullBackOff"
        it.runtime.registry.add("gone:1")
        await it.until_phase(link.Phase.RUNNING)
        await it.until(lambda: ready(it) == "True")
        told = it.cluster.reasons()
        assert told[:3] == ["Pulling", "Failed", "Failed"]
        assert told[-4:] == ["Pulling", "Pulled", "Created", "Started"]


@on_virtual_time
async def test_a_container_that_cannot_start_says_why():
    async with world() as it:
        it.runtime.programs["app:1"] = Program(fails_to_start=True)
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches and app(it).state.waiting is not None)
        assert app(it).state.waiting.reason == "RunContainerError"
        await it.until(lambda: app(it).state.waiting.reason == "CrashLoopBackOff")
        assert app(it).last_state.terminated.exit_code == 128


@on_virtual_time
async def test_a_missing_config_map_is_waited_for():
    volume = models.Volume(name="config", config_map=models.ConfigMapVolume(name="settings"))
    async with world(volumes=(volume,)) as it:
        await it.start(machine_world.group())
        await it.until(lambda: "FailedMount" in it.cluster.reasons())
        it.cluster.config_maps["settings"] = models.ConfigMap(data={"a": "1"})
        await it.until_phase(link.Phase.RUNNING)
        content = it.drivers.volumes.pods["uid-1"]["volume config"]
        assert [(file.path, file.content) for file in content.files] == [("a", b"1")]


@on_virtual_time
async def test_a_deleted_pod_gets_its_grace_and_leaves_nothing():
    async with world() as it:
        it.runtime.programs["app:1"] = Program(stops_in_s=3.0, stop_code=0)
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.cluster.delete("uid-1", grace_s=30)
        await it.until_phase(link.Phase.GONE)
        assert ("stop_container", "c2", 30) in it.runtime.calls
        status = it.cluster.status("uid-1")
        assert (status.phase, app(it).state.terminated.exit_code) == ("Succeeded", 0)
        assert not any(it.left())
        assert "Killing" in it.cluster.reasons()
        # One write for the start, one for the end.
        assert len(it.cluster.patches) == 2
        # What is gone stays gone, whoever asks.
        it.agent.want(machine_world.group(generation=2))
        await asyncio.sleep(60)
        assert not any(it.left())


@on_virtual_time
async def test_a_shorter_grace_period_overtakes_a_longer_one():
    async with world() as it:
        it.runtime.programs["app:1"] = Program(stops_in_s=1000.0)
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.cluster.delete("uid-1", grace_s=600)
        await asyncio.sleep(1)
        it.cluster.delete("uid-1", grace_s=0)
        await it.until_phase(link.Phase.GONE)
        assert asyncio.get_running_loop().time() < 1010
        assert app(it).state.terminated.exit_code == 137
        assert it.cluster.status("uid-1").phase == "Failed"


@pytest.mark.parametrize("step", ["run_sandbox", "pull_image", "create_container", "start_container"])
def test_a_deletion_in_the_middle_of_a_start_ends_it(step):
    @on_virtual_time
    async def run():
        async with world(image="new:1") as it:
            it.runtime.registry.add("new:1")
            it.runtime.delays_s[step] = 5.0
            await it.start(machine_world.group())
            await it.until(lambda: step in it.runtime.names())
            it.cluster.delete("uid-1", grace_s=0)
            await it.until_phase(link.Phase.GONE)
            assert not any(it.left())
            # What ran after all ended well when it was told to; what never ran counts as failed.
            has_run = step in {"create_container", "start_container"}
            assert it.cluster.status("uid-1").phase == ("Succeeded" if has_run else "Failed")

    run()


@on_virtual_time
async def test_a_group_that_the_service_drops_ends_though_the_pod_stays():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.agent.drop("g-1")
        await it.until_phase(link.Phase.GONE)
        assert not any(it.left())
        it.agent.drop("g-1")
        it.agent.drop("never-known")
        await it.until_phase(link.Phase.GONE, "never-known")


@on_virtual_time
async def test_a_pod_deleted_by_force_ends_too():
    async with world() as it:
        it.runtime.programs["app:1"] = Program(stops_in_s=1000.0)
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.cluster.remove("uid-1")
        await it.until_phase(link.Phase.GONE)
        assert ("stop_container", "c2", 2) in it.runtime.calls
        assert not any(it.left())


@pytest.mark.requirement("R22")
@on_virtual_time
async def test_a_restarted_kcilet_takes_over_and_changes_nothing():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        calls, patches = len(it.runtime.calls), len(it.cluster.patches)
        for _ in range(5):
            await it.kill()
            await it.start(machine_world.group())
            await it.until_phase(link.Phase.RUNNING)
            await asyncio.sleep(60)
        assert len(it.runtime.calls) == calls
        assert len(it.cluster.patches) == patches


@on_virtual_time
async def test_before_the_first_sync_nothing_is_removed_and_after_it_orphans_are():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        await it.kill()
        await it.start()
        await asyncio.sleep(300)
        assert it.runtime.containers
        it.agent.sync(())
        await it.until(lambda: not any(it.left()))


@pytest.mark.parametrize("step", ["run_sandbox", "create_container", "start_container"])
def test_a_kcilet_that_was_killed_at_a_step_goes_on_with_one_sandbox(step):
    @on_virtual_time
    async def run():
        async with world() as it:
            it.runtime.delays_s[step] = 0.5
            await it.start(machine_world.group())
            await it.until(lambda: step in it.runtime.names())
            await it.kill()
            it.runtime.delays_s[step] = 0.0
            await it.start(machine_world.group())
            await it.until(lambda: ready(it) == "True")
            assert it.runtime.most_live_sandboxes == 1
            assert len(it.runtime.containers) == 1
            assert app(it).restart_count == 0

    run()


@on_virtual_time
async def test_a_lost_sandbox_is_replaced_and_the_restart_is_counted():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.runtime.kill_sandbox("uid-1")
        await it.until(lambda: app(it).restart_count == 1 and ready(it) == "True")
        assert it.runtime.most_live_sandboxes == 1
        assert "SandboxChanged" in it.cluster.reasons()


@on_virtual_time
async def test_while_the_api_server_is_away_containers_run_and_the_newest_status_is_kept():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.cluster.is_away = True
        it.runtime.exit("app", 1)
        await it.until(lambda: it.runtime.names().count("start_container") == 2)
        await asyncio.sleep(600)
        assert app(it).restart_count == 0
        it.cluster.is_away = False
        await it.until(lambda: app(it).restart_count == 1 and app(it).state.running is not None)
        assert len(it.cluster.patches) == 2


@on_virtual_time
async def test_after_a_restart_without_the_api_server_nothing_is_touched():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        await it.kill()
        calls = len(it.runtime.calls)
        it.cluster.is_away, it.cluster.is_synced = True, False
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.RUNNING)
        await asyncio.sleep(600)
        assert len(it.runtime.calls) == calls


@on_virtual_time
async def test_the_runtime_may_go_away_in_the_middle():
    async with world() as it:
        for name in ("observe_pod", "run_sandbox", "create_container", "start_container"):
            it.runtime.fail_next[name] = [ports.DriverError("cannot reach the runtime")] * 2
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        assert it.runtime.most_live_sandboxes == 1
        assert "FailedCreatePodSandBox" in it.cluster.reasons()


@on_virtual_time
async def test_in_a_burst_sandboxes_are_made_a_few_at_a_time():
    async with world() as it:
        it.runtime.delays_s["run_sandbox"] = 0.1
        groups = []
        for number in range(20):
            it.cluster.put(machine_world.pod(name=f"p{number}", uid=f"u{number}"))
            groups.append(machine_world.group(f"p{number}", f"u{number}", f"g{number}"))
        await it.start(*groups)
        first = None
        while it.phase("g19") is not link.Phase.RUNNING:
            await asyncio.sleep(0.01)
            if first is None and it.phase("g0") is link.Phase.RUNNING:
                first = asyncio.get_running_loop().time()
        assert it.runtime.most_starts == 4
        assert asyncio.get_running_loop().time() - first > 0.35


@on_virtual_time
async def test_a_group_without_a_uid_keeps_the_first_pod_of_its_name():
    async with world() as it:
        await it.start(machine_world.group(pod_uid=""))
        await it.until_phase(link.Phase.RUNNING)
        assert it.agent.reports.get("g-1").pod_uid == "uid-1"
        await it.kill()
        # While we are down the pod is replaced by another of the same name.
        it.cluster.remove("uid-1")
        it.cluster.put(machine_world.pod(uid="uid-2"))
        await it.start(machine_world.group(pod_uid=""))
        await it.until_phase(link.Phase.GONE)
        assert not any(it.left())
        assert it.cluster.status("uid-2").container_statuses == ()


@on_virtual_time
async def test_a_pod_that_cannot_run_as_asked_says_so_and_starts_nothing():
    hooked = machine_world.pod()
    container = msgspec.structs.replace(hooked.spec.containers[0], lifecycle={"preStop": {}})
    async with world() as it:
        spec = msgspec.structs.replace(hooked.spec, containers=(container,))
        it.cluster.put(msgspec.structs.replace(hooked, spec=spec))
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches)
        status = it.cluster.status("uid-1")
        assert status.phase == "Pending"
        assert "lifecycle" in status.message
        assert it.runtime.calls == []
        it.cluster.delete("uid-1", grace_s=0)
        await it.until_phase(link.Phase.GONE)


@on_virtual_time
async def test_a_deadline_ends_the_pod_as_failed():
    async with world(active_deadline_seconds=60) as it:
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.status("uid-1").phase == "Failed")
        assert it.cluster.status("uid-1").reason == "DeadlineExceeded"
        assert it.runtime.containers
        assert 1059 < asyncio.get_running_loop().time() < 1062


@on_virtual_time
async def test_containers_that_start_at_different_speed_are_each_started_once():
    async with world(containers=("fast", "slow")) as it:
        create = it.runtime.create_container

        async def create_slowly(sandbox_id, spec):
            await asyncio.sleep(1.0 if spec.container.name == "slow" else 0.0)
            return await create(sandbox_id, spec)

        it.runtime.create_container = create_slowly
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        assert it.runtime.names().count("create_container") == 2
        assert it.cluster.reasons().count("Pulled") == 2


@on_virtual_time
async def test_a_container_that_starts_while_another_one_is_looked_at_is_started_once():
    async with world(containers=("a", "b")) as it:
        create = it.runtime.create_container

        async def create_apart(sandbox_id, spec):
            await asyncio.sleep(0.002 if spec.container.name == "b" else 0.0)
            return await create(sandbox_id, spec)

        it.runtime.create_container = create_apart
        it.runtime.delays_s |= {"start_container": 0.01, "observed_pod": 0.05}
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        # A runtime refuses to start what runs, which would be told as a failure.
        assert it.runtime.names().count("start_container") == 2
        assert "Warning" not in {kind for kind, _, _ in it.cluster.events}


@on_virtual_time
async def test_a_deletion_waits_for_volumes_that_are_being_written_however_often_it_is_woken():
    async with world() as it:
        began, volumes = asyncio.Event(), it.drivers.volumes
        ensure = volumes.ensure_volumes

        async def ensure_slowly(pod_uid, wanted):
            began.set()
            await asyncio.sleep(5.0)
            await ensure(pod_uid, wanted)
            ended.append(asyncio.get_running_loop().time())

        ended = []
        volumes.ensure_volumes = ensure_slowly
        await it.start(machine_world.group())
        await began.wait()
        it.cluster.delete("uid-1", 1)
        for _ in range(3):
            await asyncio.sleep(0.5)
            it.runtime._tell("uid-1")
        await it.until_phase(link.Phase.GONE)
        assert ended
        assert not any(it.left())
