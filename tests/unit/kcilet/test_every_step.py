"""A fault at every step of a pod's life: what runs goes on, what was asked comes about, nothing is left."""

import asyncio
import contextlib

import pytest
from fakes import failpoints, kcilet_world, machine_world

from kci.kube import models
from kci.link import types as link

Fault = failpoints.Fault
VOLUME = models.Volume(name="config", config_map=models.ConfigMapVolume(name="settings"))
# More than a pod's life has.
MOST_STEPS = 60
KINDLY = {"Pulling", "Pulled", "Created", "Started", "Killing", "BackOff"}


class Life:
    """A pod that has an init container, starts, crashes twice, and is deleted, beside one that runs all the
    time.
    """

    def __init__(self, it):
        self.it = it
        self.points = failpoints.Failpoints(it.drivers)
        it.drivers = self.points.drivers
        self.other = machine_world.group("other", "uid-2", "g-2")
        self.groups = (self.other, machine_world.group())
        it.cluster.config_maps["settings"] = models.ConfigMap(data={"a": "1"})
        it.cluster.put(machine_world.pod("other", "uid-2", volumes=(VOLUME,)))
        it.runtime.registry |= {"new:1", "setup:1"}

    async def begin(self):
        await self.it.start(self.other)
        await self.it.until_phase(link.Phase.RUNNING, "g-2")
        await asyncio.sleep(60)
        return self.bystander()

    def bystander(self):
        """The one that runs, as the runtime and the cluster show it."""
        records = [one for one in self.it.runtime.containers.values() if one.image == "app:1"]
        return records, self.it.cluster.status("uid-2"), self.it.drivers.network.links["uid-2"]

    async def live(self):
        it = self.it
        it.agent.sync(self.groups)
        await self.until_ready(restarts=0)
        for restarts in (1, 2):
            # A long run, so that the restart back-off starts anew.
            await asyncio.sleep(1300)
            self.exit()
            await self.until_ready(restarts=restarts)
        # What only a later look would find is found by then.
        await asyncio.sleep(40)
        it.cluster.delete("uid-1", grace_s=30)
        await self.until(lambda: it.phase() is link.Phase.GONE)

    def exit(self):
        machine_world.FakeRuntime.exit(self.it.runtime, "main", 1)

    async def until_ready(self, *, restarts):
        def is_so():
            status = self.it.cluster.status("uid-1")
            return (
                kcilet_world.ready(self.it) == "True"
                and status.container_statuses[0].restart_count >= restarts
            )

        await self.until(is_so)
        assert kcilet_world.app(self.it).restart_count == restarts
        # It ran once, to its success.
        setup = self.it.cluster.status("uid-1").init_container_statuses[0]
        assert (setup.restart_count, setup.ready) == (0, True)

    async def until(self, holds):
        """The kcilet that dies on the way is started again, as the stack does it."""
        it, hit = self.it, self.points.hit
        while not holds():
            await asyncio.sleep(0.01)
            if hit.is_set():
                hit.clear()
                # What a kcilet finishes even when it is stopped, a dead one does not.
                _ = asyncio.get_running_loop().call_later(0.1, self.points.bury)
                await it.kill()
                await it.start(*self.groups)


@contextlib.asynccontextmanager
async def life():
    image = {"containers": ("main",), "image": "new:1", "init": ("setup",), "volumes": (VOLUME,)}
    async with kcilet_world.world(**image) as it:
        it.runtime.programs["setup:1"] = machine_world.Program(runs_s=0.5)
        yield Life(it)


@pytest.mark.requirement("R05")
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value.replace(" ", "-"))
def test_a_fault_at_any_step_leaves_the_rest_untouched_and_nothing_behind(fault, runs):
    reached, at = [], 1
    while at <= MOST_STEPS:
        step = live_once(fault, at)
        if step is None:
            break
        reached.append(step)
        at += 1
    runs.count = len(reached)
    steps = {
        "runtime.pull_image", "volumes.ensure_volumes", "cgroups.ensure_cgroup", "runtime.run_sandbox",
        "runtime.create_container", "runtime.start_container", "runtime.stop_container",
        "runtime.stop_sandbox", "logs.remove_log", "runtime.remove_container", "runtime.remove_sandbox",
        "network.remove_network", "cgroups.remove_cgroup", "logs.remove_logs", "volumes.remove_volumes",
    }  # fmt: skip
    assert steps <= set(reached)


def live_once(fault, at):
    """A life with this fault at this step; the step's name, or None if there was no such step any more."""
    found = []

    @kcilet_world.on_virtual_time
    async def run():
        async with life() as one:
            before = await one.begin()
            one.points.arm(at, fault)
            await one.live()
            if not one.points.has_fired:
                return
            found.append(one.points.steps[at - 1])
            check(one, before, fault)

    try:
        run()
    except Exception as error:
        raise AssertionError(f"{fault.value} at step {at}: {error!r}") from error
    return found[0] if found else None


def check(one, before, fault):
    it = one.it
    where = one.points.steps
    assert one.bystander() == before, where
    assert it.runtime.most_live_sandboxes == 1
    assert [box.pod_uid for box in it.runtime.sandboxes.values()] == ["uid-2"]
    assert len(it.runtime.containers) == 1
    for left in (it.drivers.volumes.pods, it.drivers.cgroups.pods, it.drivers.logs.pods):
        assert set(left) == {"uid-2"}, where
    assert set(it.drivers.network.links) == {"uid-2"}
    assert it.drivers.logs.files == {"/logs/uid-2/app/0.log"}
    told = set(it.cluster.reasons())
    if fault is not Fault.FAILS:
        # A fault that is not the pod's is not told on it; a sandbox that was cut off is made anew.
        assert told <= KINDLY | {"SandboxChanged"}, told
    # Ready once for each run, and not ready once for each end: no flapping.
    readiness = [
        condition["status"]
        for patch in it.cluster.patches
        for condition in patch.get("status", {}).get("conditions", ())
        if condition["type"] == "Ready" and patch["metadata"]["uid"] == "uid-1"
    ]
    turns = [status for status, last in zip(readiness, [None, *readiness], strict=False) if status != last]
    assert turns.count("True") == 3, turns
