"""What goes wrong with one pod, one group or one container stays there."""

import asyncio

import msgspec
import pytest
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kcilet.workers import drain
from kci.link import types as link

on_virtual_time, world = kcilet_world.on_virtual_time, kcilet_world.world
app, ready = kcilet_world.app, kcilet_world.ready
Program = machine_world.Program


def add_other(it, **changes):
    it.cluster.put(machine_world.pod("other", "uid-2", **changes))
    return machine_world.group("other", "uid-2", "g-2")


def other_is_ready(it):
    conditions = it.cluster.status("uid-2").conditions
    return any(one.type == "Ready" and one.status == "True" for one in conditions)


class BrokenError(Exception):
    """Nobody expects this."""


@on_virtual_time
async def test_an_unexpected_error_of_one_pods_status_ends_nothing_else():
    async with world() as it:
        group = add_other(it)
        patch = machine_world.FakePod.patch_status
        broken = {"on": True}

        class Source(machine_world.FakePod):
            async def patch_status(self, pod, change):
                if broken["on"] and pod.uid == "uid-1":
                    raise BrokenError
                await patch(self, pod, change)

        it.cluster.join = lambda wanted, on_change: Source(it.cluster, wanted, on_change)
        await it.start(machine_world.group(), group)
        await it.until(lambda: other_is_ready(it))
        # The pod runs all the same, and is told as soon as that can be.
        await it.until(lambda: len(it.runtime.containers) == 2)
        assert ready(it) is None
        broken["on"] = False
        await it.until(lambda: ready(it) == "True")
        assert it.runtime.names().count("run_sandbox") == 2


@on_virtual_time
async def test_a_worker_that_breaks_starts_anew_and_the_others_go_on():
    async with world() as it:
        await it.start(machine_world.group(), add_other(it))
        await it.until(lambda: ready(it) == "True" and other_is_ready(it))
        records = dict(it.runtime.containers)
        one = it.agent._workers["uid-1"]

        async def fail():
            raise BrokenError

        _ = one._group.spawn("broken", fail())
        await asyncio.sleep(120)
        assert it.runtime.containers == records
        assert it.agent._workers["uid-1"] is one
        it.runtime.exit("app", 1)
        await it.until(lambda: app(it).restart_count == 1)


@on_virtual_time
async def test_a_pod_has_one_group_and_dropping_another_leaves_it_alone():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.agent.want(machine_world.group(group_id="g-9"))
        await it.until(lambda: it.agent.reports.get("g-9"))
        assert it.agent.reports.get("g-9").reason == "PodTaken"
        it.agent.drop("g-9")
        await it.until_phase(link.Phase.GONE, "g-9")
        await asyncio.sleep(60)
        assert "stop_container" not in it.runtime.names()
        assert it.agent.find("g-1").pod.uid == "uid-1"
        it.agent.drop("g-1")
        await it.until_phase(link.Phase.GONE)
        assert not any(it.left())


@on_virtual_time
async def test_a_group_whose_pod_is_not_found_out_keeps_no_orphan_alive():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        await it.kill()
        it.cluster.is_away = True
        await it.start(machine_world.group("unknown", "", "g-3"))
        await it.until(lambda: not any(it.left()))
        assert it.phase("g-3") is link.Phase.PENDING


def damaged(generation):
    """The group, as a service hands it on whose kubeconfig of it does not open any more."""
    group = machine_world.group(generation=generation)
    return msgspec.structs.replace(group, cluster=link.Cluster(cluster_id="c-1", kubeconfig=""))


@on_virtual_time
async def test_a_pod_that_runs_is_no_orphan_because_its_groups_kubeconfig_is_refused():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        records = dict(it.runtime.containers)
        await it.kill()
        it.cluster.refusal = "cannot use the group's kubeconfig"
        await it.start(damaged(2))
        await asyncio.sleep(120)
        assert it.runtime.containers == records
        assert it.agent.reports.get("g-1").reason == "SourceRefused"
        assert ("orphan",) not in it.observed
        # As soon as there is a good one it is worked on again; and what is not wanted any more goes.
        it.cluster.refusal = ""
        it.agent.want(machine_world.group(generation=3))
        await it.until_phase(link.Phase.RUNNING)
        assert it.runtime.containers == records
        await it.kill()
        it.cluster.refusal = "cannot use the group's kubeconfig"
        await it.start(damaged(4))
        it.agent.drop("g-1")
        await it.until_phase(link.Phase.GONE)
        assert not any(it.left())


@on_virtual_time
async def test_a_group_is_followed_as_before_while_its_new_kubeconfig_is_refused():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        (source,) = it.cluster.followers
        it.cluster.refusal = "cannot use the group's kubeconfig"
        it.agent.want(damaged(2))
        await it.until(lambda: it.agent.reports.get("g-1").generation == 2)
        it.runtime.exit("app", 1)
        await it.until(lambda: app(it).restart_count == 1)
        assert it.cluster.followers == {source}
        it.cluster.refusal = ""
        it.agent.want(machine_world.group(generation=3))
        await it.until(lambda: it.agent.reports.get("g-1").generation == 3)
        assert len(it.cluster.followers) == 1
        assert source not in it.cluster.followers


@pytest.mark.requirement("R29")
@on_virtual_time
async def test_a_container_without_processes_is_told_and_replaced_though_the_runtime_shows_it_running():
    async with world() as it:
        it.runtime.delays_s["stop_container"] = 20.0
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        (record,) = it.runtime.containers.values()
        it.drivers.cgroups.dead = {record.id}
        lost_at_s = asyncio.get_running_loop().time()
        await it.until(lambda: ready(it) == "False")
        assert asyncio.get_running_loop().time() - lost_at_s <= 30
        assert app(it).state.terminated.reason == "ContainerStatusUnknown"
        await it.until(lambda: ready(it) == "True")
        assert app(it).restart_count == 1


@on_virtual_time
async def test_one_look_without_processes_is_not_enough():
    async with world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.drivers.cgroups.dead = set(it.runtime.containers)
        await asyncio.sleep(10)
        it.drivers.cgroups.dead = set()
        await asyncio.sleep(60)
        assert ready(it) == "True"
        assert "stop_container" not in it.runtime.names()


@pytest.mark.requirement("R15")
@on_virtual_time
async def test_sandboxes_that_hang_delay_no_other_pod():
    async with world() as it:
        groups = []
        for number in range(10, 18):
            uid = f"uid-{number}"
            it.cluster.put(machine_world.pod(f"hangs-{number}", uid))
            groups.append(machine_world.group(f"hangs-{number}", uid, f"g-{number}"))
        run, began_s = it.runtime.run_sandbox, asyncio.get_running_loop().time()

        async def hang(spec):
            if spec.pod.metadata.name.startswith("hangs"):
                await asyncio.sleep(120)
            return await run(spec)

        it.runtime.run_sandbox = hang
        await it.start(*groups, machine_world.group())
        await it.until(lambda: ready(it) == "True")
        assert asyncio.get_running_loop().time() - began_s < 15


@on_virtual_time
async def test_a_runtime_that_is_away_for_long_is_told_on_the_pod():
    async with world() as it:
        failures = [ports.UnavailableError("cannot make the sandbox: nobody answers") for _ in range(12)]
        it.runtime.fail_next["run_sandbox"] = failures
        await it.start(machine_world.group())
        await it.until(lambda: "FailedCreatePodSandBox" in it.cluster.reasons())
        assert asyncio.get_running_loop().time() - 1000 > 10
        await it.until(lambda: ready(it) == "True")


@on_virtual_time
async def test_a_drain_gives_each_container_its_own_grace_but_no_more_than_asked():
    async with world() as it:
        await it.start(machine_world.group(), add_other(it))
        await it.until(lambda: ready(it) == "True" and other_is_ready(it))
        for record, grace_s in zip(list(it.runtime.containers.values()), (3, 300), strict=True):
            it.runtime._set(record, grace_s=grace_s)
        await drain.drain(it.runtime, it.drivers.cgroups, grace_s=10)
        assert {call[2] for call in it.runtime.calls if call[0] == "stop_container"} == {3, 10}
