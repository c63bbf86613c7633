"""What the kcilet needs is killed under it: containerd, shims, pause processes, containers."""

import asyncio
import dataclasses
import signal
import time

import node_processes
import pytest
from node_world import FOREVER, node, until

from kci.link import types as link

__all__ = ["node"]

KINDLY = {"Pulling", "Pulled", "Created", "Started", "Killing", "SandboxChanged"}
NOTICED_WITHIN_S = 30


class Killing:
    """A runtime whose containerd dies `after_s` after this call began, once."""

    def __init__(self, runtime, call, after_s):
        self._runtime, self._call, self._after_s = runtime, call, after_s
        self.has_fired = False

    def __getattr__(self, name):
        found = getattr(self._runtime, name)
        if name != self._call or self.has_fired:
            return found

        async def call(*arguments):
            self.has_fired = True
            _ = asyncio.get_running_loop().call_later(self._after_s, node_processes.containerd().kill)
            return await found(*arguments)

        return call


def record(node, group):
    (found,) = [one for one in node.agent.find(group.group_id).seen.containers if one.name == "app"][:1]
    return found


def first_process(node, group):
    return node_processes.of_container(record(node, group).id)[0]


async def ready(node, group):
    await until(lambda: node.is_ready(group))
    return first_process(node, group)


CALLS = [
    "pull_image", "run_sandbox", "create_container", "start_container", "stop_container", "stop_sandbox",
    "remove_sandbox",
]  # fmt: skip


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.12])
@pytest.mark.parametrize("call", CALLS)
async def test_containerd_is_killed_in_the_middle_of_a_call(node, call, after_s):
    runtime = node.drivers.runtime
    killing = Killing(runtime, call, after_s)
    node.drivers = dataclasses.replace(node.drivers, runtime=killing)
    async with node.kcilet():
        killing.has_fired = True
        other = node.add(FOREVER)
        node.agent.sync((other,))
        bystander = await ready(node, other)
        killing.has_fired = False
        group = node.add(FOREVER, pull_policy="Always" if call == "pull_image" else "IfNotPresent")
        node.agent.want(group)
        await until(lambda: node.is_ready(group))
        assert node.app(group).restart_count == 0, (node.app(group).last_state, node.cluster.reasons())
        node.cluster.delete(group.pod_uid, grace_s=2)
        await until(lambda: node.phase(group) is link.Phase.GONE)
        assert killing.has_fired
        assert set(node.cluster.reasons()) <= KINDLY
        assert first_process(node, other) == bystander
        assert node.is_ready(other)
        assert node.app(other).restart_count == 0
        assert len(node_processes.shims()) == 1
    node.drivers = dataclasses.replace(node.drivers, runtime=runtime)


def kill_shim(node, group):
    node_processes.shim_of(record(node, group).sandbox_id).kill()


def kill_pause(node, group):
    node_processes.of_container(record(node, group).sandbox_id)[0].kill()


def kill_first(node, group):
    first_process(node, group).kill()


@pytest.mark.parametrize(
    ("kill", "code"), [(kill_shim, {137, 255}), (kill_pause, {0, 137}), (kill_first, {137})], ids=str
)
async def test_a_helper_is_killed_and_the_pod_is_told_honestly_and_restarted(node, kill, code):
    async with node.kcilet():
        group = node.add(FOREVER)
        node.agent.sync((group,))
        before = await ready(node, group)
        began_s = time.monotonic()
        kill(node, group)
        await until(lambda: node.app(group).restart_count == 1 and node.is_ready(group))
        assert time.monotonic() - began_s < NOTICED_WITHIN_S
        assert node.app(group).last_state.terminated.exit_code in code
        assert first_process(node, group) != before
        assert node.status(group).pod_ip == group.interface.address
        assert len(node_processes.shims()) == 1


async def test_a_shim_that_hangs_hides_no_dead_container(node):
    async with node.kcilet():
        group = node.add(FOREVER)
        node.agent.sync((group,))
        process = await ready(node, group)
        began_s = time.monotonic()
        node_processes.shim_of(record(node, group).sandbox_id).send(signal.SIGSTOP)
        process.kill()
        await until(lambda: not node.is_ready(group))
        assert time.monotonic() - began_s < NOTICED_WITHIN_S
        assert node.app(group).state.terminated.reason == "ContainerStatusUnknown"
        await until(lambda: node.app(group).restart_count == 1 and node.is_ready(group), within_s=90)
        assert len(node_processes.shims()) == 1


async def test_a_containerd_that_hangs_is_waited_for_and_changes_nothing(node):
    async with node.kcilet():
        group, gone = node.add(FOREVER), node.add(FOREVER)
        node.agent.sync((group, gone))
        process, _ = await ready(node, group), await ready(node, gone)
        patches = len(node.cluster.patches)
        daemon = node_processes.containerd()
        daemon.send(signal.SIGSTOP)
        late = node.add(FOREVER)
        node.agent.want(late)
        node.cluster.delete(gone.pod_uid, grace_s=2)
        await asyncio.sleep(12)
        assert (
            len([one for one in node.cluster.patches if one["metadata"]["uid"] == group.pod_uid]) <= patches
        )
        daemon.send(signal.SIGCONT)
        await until(lambda: node.is_ready(late) and node.phase(gone) is link.Phase.GONE, within_s=60)
        assert (node.app(late).restart_count, node.app(group).restart_count) == (0, 0)
        assert first_process(node, group) == process
        assert node.is_ready(group)
