"""A machine and a cluster on fakes, with a kcilet that comes and goes, on a clock that jumps."""

import asyncio
import contextlib
import functools

from fakes import machine_world, virtual_time

from kci.kcilet.workers import agent, machine
from kci.kit import tasks


def on_virtual_time(test):
    @functools.wraps(test)
    def run():
        with asyncio.Runner(loop_factory=virtual_time.VirtualLoop) as runner:
            runner.run(test())

    return run


class World:
    """One machine, one cluster; `start` starts a kcilet on it, `kill` ends it as a kill -9 does."""

    def __init__(self):
        self.runtime = machine_world.FakeRuntime()
        self.cluster = machine_world.FakeCluster()
        self.drivers = machine_world.drivers(self.runtime)
        self.agent = None
        # What was told to who measures: kind and labels, and seconds where there are some.
        self.observed = []
        self._task = None

    async def start(self, *groups):
        started = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(started))
        await started.wait()
        if groups:
            self.agent.sync(groups)

    async def _run(self, started):
        async with tasks.Tasks() as group:
            ours = machine.Machine(self.drivers, clock=machine_world.LoopClock(), observed=self._observers())
            self.agent = agent.Agent(ours, self.cluster, group)
            group.run_forever("agent", self.agent.run())
            started.set()

    def _observers(self):
        def note(kind):
            return lambda *told: self.observed.append((kind, *told))

        return machine.Observers(
            start_phase=note("start"), probe=note("probe"), orphan=note("orphan"), watch_restart=note("watch")
        )

    async def kill(self):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.cluster.followers.clear()

    def phase(self, group_id="g-1"):
        report = self.agent.reports.get(group_id)
        return report.phase if report else None

    async def until(self, holds, what="", within_s=3600.0):
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110  (many things are looked for; time jumps)
                await asyncio.sleep(0.01)

    async def until_phase(self, phase, group_id="g-1"):
        await self.until(lambda: self.phase(group_id) is phase)

    def left(self):
        """Everything that a pod may leave on the machine."""
        drivers = self.drivers
        found = [self.runtime.sandboxes, self.runtime.containers, drivers.volumes.pods]
        return [*found, drivers.network.links, drivers.cgroups.pods, drivers.logs.pods, drivers.logs.files]


@contextlib.asynccontextmanager
async def world(**pod_changes):
    """A world with one pod and its group, before the kcilet starts."""
    it = World()
    it.cluster.put(machine_world.pod(**pod_changes))
    try:
        yield it
    finally:
        it.runtime.close()
        await it.kill()


def app(it):
    return it.cluster.status("uid-1").container_statuses[0]


def ready(it):
    conditions = it.cluster.status("uid-1").conditions
    return next((one.status for one in conditions if one.type == "Ready"), None)
