"""What groups use, by the real agent and drivers: of what runs, and again after the agent's restart."""

import asyncio

from node_world import FOREVER, node, until

from kci.kcilet.workers import usage

__all__ = ["node"]

# Ends when it is told to: who removes a pod that nobody wants gives it the usual time.
BUSY = 'trap "exit 0" TERM; while :; do :; done'


async def usages(node, *groups):
    """By group, once all of these are told; a reader of its own, as each keeps its answer for a second."""
    async with asyncio.timeout(30):
        while True:
            told = await usage.UsageReader(node.agent, node.drivers.stats).usages()
            found = {one.group_id: one for one in told.groups}
            if found.keys() >= {group.group_id for group in groups} and all(
                one.containers for one in found.values()
            ):
                return found
            await asyncio.sleep(0.05)


async def test_who_is_busy_and_who_is_not_is_told_by_group_also_after_a_restart(node):
    async with node.kcilet():
        busy, calm = node.add(BUSY), node.add(FOREVER)
        node.agent.sync((busy, calm))
        await until(lambda: node.is_ready(busy) and node.is_ready(calm))
        first = await usages(node, busy, calm)
    async with node.kcilet():
        node.agent.sync((busy, calm))
        await asyncio.sleep(2)
        now = await usages(node, busy, calm)

    def used_ns(group):
        return now[group.group_id].usage.cpu_core_ns - first[group.group_id].usage.cpu_core_ns

    assert used_ns(busy) > 10 * used_ns(calm)
    (container,) = now[busy.group_id].containers
    assert container.name == "app"
    assert container.started_at_ns >= now[busy.group_id].started_at_ns > 0
    assert 0 < container.usage.working_set_bytes <= now[busy.group_id].usage.working_set_bytes
    assert now[busy.group_id].traffic is not None
