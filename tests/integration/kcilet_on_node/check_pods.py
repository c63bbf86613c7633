"""Pods from the first look to the last trace: the real agent and drivers, and a cluster in memory."""

import asyncio
import pathlib
import statistics
import time

import msgspec
from fakes import machine_world
from node_world import FOREVER, node, until

from kci.kcilet.workers import drain
from kci.kit import channels
from kci.link import types as link

__all__ = ["node"]


async def test_a_pod_runs_logs_answers_and_goes(node):
    async with node.kcilet():
        group = node.add(
            'trap "echo bye; exit 7" TERM; echo $GREETING $KUBERNETES_SERVICE_HOST; '
            "cat /var/run/token/ca.crt; echo; "
            "while :; do sleep 0.05; done",
            termination_grace_period_seconds=10,
        )
        alias = link.HostAlias(ip="198.18.0.9", hostnames=("registry.example", "registry"))
        group = msgspec.structs.replace(group, machine_host_aliases=(alias,))
        node.agent.sync((group,))
        await until(lambda: node.is_ready(group))
        assert len(node.cluster.patches) == 1
        assert node.status(group).pod_ip == group.interface.address
        place = node.agent.find(group.group_id)
        folder = node.drivers.logs.log_directory(place.pod)
        await asyncio.sleep(0.2)
        parts = node.drivers.streams.log(folder, "app", link.LogOptions())
        assert b"".join([part async for part in parts]) == b"hello 10.0.0.1\na certificate\n"
        peer = _Peer()
        options = link.ExecOptions(command=("cat", "/etc/hosts", "/var/run/token/token"))
        await node.drivers.streams.exec(place.seen.containers[0].id, options, peer)
        assert f"{group.interface.address}\t{group.pod_name}\n" in peer.told.decode()
        assert "198.18.0.9\tregistry.example\tregistry\n" in peer.told.decode()
        assert peer.told.endswith(b"token")
        node.cluster.delete(group.pod_uid, grace_s=10)
        await until(lambda: node.phase(group) is link.Phase.GONE)
        assert node.app(group).state.terminated.exit_code == 7
        assert node.status(group).phase == "Failed"
        assert len(node.cluster.patches) == 2


class _Peer:
    def __init__(self):
        self.told = b""

    async def send(self, message):
        channel, data = channels.parse(message)
        if channel is channels.Channel.STDOUT:
            self.told += data

    async def receive(self):
        await asyncio.Event().wait()


async def test_exits_are_told_with_their_message_and_code(node):
    async with node.kcilet():
        one = node.add("echo last words > /dev/termination-log; exit 3", policy="Never")
        other = node.add("exit 0", policy="OnFailure")
        node.agent.sync((one, other))
        await until(lambda: {node.status(group).phase for group in (one, other)} == {"Failed", "Succeeded"})
        ended = node.app(one).state.terminated
        assert (ended.exit_code, ended.reason, ended.message) == (3, "Error", "last words\n")
        assert node.app(other).state.terminated.reason == "Completed"


async def test_of_a_container_that_crashes_again_and_again_two_logs_are_kept(node):
    async with node.kcilet():
        group = node.add("echo once more; exit 1")
        node.agent.sync((group,))
        # A third run takes ten seconds of back-off.
        await until(lambda: (app := node.app(group)) is not None and app.restart_count == 2)
        await until(lambda: len(node.agent.find(group.group_id).seen.containers) == 2)
        pod = node.agent.find(group.group_id).pod
        folder = pathlib.Path(node.drivers.logs.log_directory(pod), "app")
        assert names_in(folder) == ["1.log", "2.log"]


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


async def test_a_kcilet_that_comes_back_takes_over_what_runs(node):
    async with node.kcilet():
        group = node.add(FOREVER)
        node.agent.sync((group,))
        await until(lambda: node.is_ready(group))
        before = node.app(group)
    for _ in range(3):
        async with node.kcilet():
            node.agent.sync((group,))
            await until(lambda: node.phase(group) is link.Phase.RUNNING)
            await asyncio.sleep(0.2)
    assert node.app(group) == before
    assert len(node.cluster.patches) == 1


async def test_a_start_that_is_cut_off_anywhere_is_finished_by_the_next_kcilet(node):
    for delay_s in (0.01, 0.04, 0.08, 0.12, 0.16):
        group = node.add(FOREVER)
        async with node.kcilet():
            node.agent.sync((group,))
            await asyncio.sleep(delay_s)
        async with node.kcilet():
            node.agent.sync((group,))
            await until(lambda group=group: node.is_ready(group))
            seen = await node.drivers.runtime.observe_pod(group.pod_uid)
            assert sum(box.ready for box in seen.sandboxes) == 1
            running = [one for one in seen.containers if one.phase is machine_world.Phase.RUNNING]
            assert len(running) == 1
            node.agent.sync(())
            await until(lambda group=group: node.phase(group) is link.Phase.GONE)


async def test_after_a_drain_the_restart_policy_decides_what_comes_back(node):
    async with node.kcilet():
        always, never = node.add(FOREVER), node.add("sleep 1000", policy="Never")
        node.agent.sync((always, never))
        await until(lambda: node.is_ready(always) and node.is_ready(never))
    assert await drain.drain(node.drivers.runtime, node.parent, grace_s=1) == []
    assert not any(box.ready for pod in await node.drivers.runtime.list_pods() for box in pod.sandboxes)
    async with node.kcilet():
        node.agent.sync((always, never))
        await until(lambda: node.app(always).restart_count == 1 and node.is_ready(always))
        await until(lambda: node.status(never).phase == "Failed")
        assert node.app(never).state.terminated.exit_code == 137


async def test_how_long_it_takes(node):
    """Nothing is asserted: the numbers are for those who read the output."""
    starts, exits = [], []
    async with node.kcilet():
        node.agent.sync(())
        for _ in range(20):
            group = node.add(FOREVER, policy="Never")
            began = time.perf_counter()
            node.agent.want(group)
            await until(lambda group=group: node.is_ready(group))
            starts.append(time.perf_counter() - began)
            seen = node.agent.find(group.group_id).seen.containers[0]
            began = time.perf_counter()
            stop = asyncio.get_running_loop().create_task(node.drivers.runtime.stop_container(seen.id, 0))
            await until(lambda group=group: node.app(group).state.terminated is not None)
            exits.append(time.perf_counter() - began)
            await stop
            node.agent.drop(group.group_id)
            await until(lambda group=group: node.phase(group) is link.Phase.GONE)
    for name, found in (("start to Ready", starts), ("kill to told", exits)):
        middle, worst = statistics.median(found) * 1000, max(found) * 1000
        print(f"{name}: median {middle:.0f} ms, worst {worst:.0f} ms")
