"""The kcilet is killed, as by kill -9, at each of its crash points, on a real containerd."""

import crash_points
import node_processes
import node_world
import pytest
from node_program import kcilet, processes_of

__all__ = ["kcilet"]

KINDLY = {"Pulling", "Pulled", "Created", "Started", "Killing", "SandboxChanged"}
# Two records are kept, so that removing one takes a third run.
RESTARTS = 2
CRASHES = "sleep 0.5; exit 1"


def points():
    return [point.name for point in crash_points.list_steps_of_a_pod()]


@pytest.mark.parametrize("point", points())
async def test_a_kcilet_killed_at_a_step_changes_nothing_that_runs_and_goes_on(kcilet, point):
    node = kcilet.node
    other = kcilet.add(node_world.FOREVER)
    async with kcilet.running():
        await node_world.until(lambda: node.is_ready(other))
        bystander, patches = processes_of(node, other), len(node.cluster.patches)
    kcilet.crashes = 0
    kcilet.arm(point, 1)
    crashing = "remove_container" in point
    group = kcilet.add(
        CRASHES if crashing else node_world.FOREVER,
        pull_policy="Always" if "pull" in point else "IfNotPresent",
    )
    async with kcilet.running():
        if crashing:
            await node_world.until(lambda: restarts(node, group) >= RESTARTS and kcilet.crashes, within_s=60)
        else:
            await node_world.until(lambda: node.is_ready(group))
            assert restarts(node, group) == 0
        kcilet.delete(group)
        await node_world.until(lambda: kcilet.phases.get(group.group_id) == "Gone")
        assert kcilet.crashes == 1
        assert processes_of(node, other) == bystander
        others = [one for one in node.cluster.patches[patches:] if one["metadata"]["uid"] == other.pod_uid]
        assert others == []
    told = set(node.cluster.reasons())
    assert told <= KINDLY | ({"BackOff"} if crashing else set())
    assert len(node_processes.shims()) == 1


def restarts(node, group):
    return 0 if node.app(group) is None else node.app(group).restart_count
