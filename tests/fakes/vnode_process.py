"""A pod controller on a loop whose time jumps, between the doubles of a cluster and of a cloud."""

import asyncio
import contextlib

from fakes import virtual_time, vnode_world

from kci.kit import backoff, tasks
from kci.vnode import pod_controller

QUICK = backoff.Backoff(initial_s=0.5, cap_s=20.0)


def make(cluster, cloud, retries=QUICK):
    controller = pod_controller.PodController(
        pod_provider=cloud,
        api=cluster,
        events=cluster,
        backoff=retries,
        clock=vnode_world.FixedClock(),
    )
    controller.watch(cluster.copy, cluster.synced)
    return controller


class World:
    """Runs a controller on a loop whose time jumps; `restart` kills it wherever it is. `retries` None is what
    the program has.
    """

    def __init__(self, *, window_s=0.0, watched=True, retries=QUICK):
        self._retries = retries
        self.loop = virtual_time.VirtualLoop()
        self.cluster = vnode_world.Cluster()
        self.cloud = vnode_world.Cloud(self.cluster, self.loop.time, window_s=window_s, watched=watched)
        self._process = None
        self.restart()

    def restart(self):
        self.loop.run_until_complete(self._restart())

    def kill(self):
        """Until `restart` nobody looks or listens."""
        self.loop.run_until_complete(self._kill())
        self._process, self.cluster.listener = None, None

    async def _restart(self):
        await self._kill()
        self.cluster.copy, self.cluster.synced = {}, asyncio.Event()
        controller = make(self.cluster, self.cloud, self._retries)

        async def process():
            async with tasks.Tasks() as group:
                group.run_forever("controller", controller.run())
                self.cluster.start(controller)

        self._process = asyncio.get_running_loop().create_task(process())
        await asyncio.sleep(0)

    async def _kill(self):
        if self._process is not None:
            if self._process.done():
                self._process.result()
            self._process.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._process

    def pass_time(self, seconds):
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert self.cluster.violations == []
        if self._process is not None and self._process.done():
            self._process.result()

    def close(self):
        self.loop.run_until_complete(self._kill())
        self.loop.close()
