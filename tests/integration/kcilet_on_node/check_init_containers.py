"""Init containers on a real runtime: their order, what they hand on, and that no life repeats one in vain."""

import asyncio
import pathlib

import msgspec
import node_processes
from node_world import FOREVER, node, until

from kci.kit import channels
from kci.kube import models
from kci.link import types as link

__all__ = ["node"]

SHARED = models.Volume(name="shared", empty_dir=models.EmptyDirVolume())
# Each run of a container leaves a line.
SIGN = "echo $NAME >> /shared/signed; "


def add(node, script, init, **spec):
    """A pod whose containers share a folder, each of which signs there that it has begun. Whose name begins
    with `side` is a sidecar.
    """
    signing = {name: SIGN + step for name, step in init.items()}
    group = node.add(SIGN + script, init=signing, **spec)
    pod = node.cluster.pods[group.pod_uid]
    changed = {
        "volumes": (*pod.spec.volumes, SHARED),
        "containers": tuple(shared(one) for one in pod.spec.containers),
        "init_containers": tuple(shared(one) for one in pod.spec.init_containers),
    }
    node.cluster.put(msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, **changed)))
    return group


def shared(container):
    return msgspec.structs.replace(
        container,
        volume_mounts=(*container.volume_mounts, models.VolumeMount(name="shared", mount_path="/shared")),
        env=(*container.env, models.EnvVar(name="NAME", value=container.name)),
        restart_policy="Always" if container.name.startswith("side") else None,
    )


def signed(node, group):
    path = node.drivers.volumes.host_path(group.pod_uid, "shared")
    return pathlib.Path(path, "signed").read_text().split()


async def signs(node, group, wanted):
    """Until these have signed and no others: a container is Ready before its first command has run."""
    await until(lambda: len(signed(node, group)) >= len(wanted))
    assert signed(node, group) == wanted


def init(node, group, number=0):
    found = node.status(group).init_container_statuses
    return found[number] if found else None


def is_running(node, group, number=0):
    status = init(node, group, number)
    return status is not None and status.state.running is not None


async def log(node, group, name):
    folder = node.drivers.logs.log_directory(node.agent.find(group.group_id).pod)
    parts = node.drivers.streams.log(folder, name, link.LogOptions())
    return b"".join([part async for part in parts]).decode()


async def test_they_run_in_order_and_hand_on_what_they_made(node):
    async with node.kcilet():
        group = add(
            node,
            f"cat /shared/work; {FOREVER}",
            {
                "one": "echo first > /shared/work; echo $GREETING done; echo bye > /dev/termination-log",
                "two": "echo second >> /shared/work; cat /var/run/nothing || true",
            },
        )
        node.agent.sync((group,))
        await until(lambda: node.is_ready(group))
        await signs(node, group, ["one", "two", "app"])
        assert await log(node, group, "one") == "hello done\n"
        # It is ready before it has said anything.
        async with asyncio.timeout(30):
            while await log(node, group, "app") != "first\nsecond\n":  # noqa: ASYNC110  (a file tells no event)
                await asyncio.sleep(0.05)
        ended = init(node, group).state.terminated
        assert (ended.exit_code, ended.reason, ended.message) == (0, "Completed", "bye\n")
        node.cluster.delete(group.pod_uid, grace_s=2)
        await until(lambda: node.phase(group) is link.Phase.GONE)


async def test_one_that_runs_can_be_watched_and_entered(node):
    async with node.kcilet():
        group = add(node, FOREVER, {"wait": "echo waiting; until [ -e /shared/go ]; do sleep 0.05; done"})
        node.agent.sync((group,))
        await until(lambda: is_running(node, group))
        assert node.app(group).state.waiting.reason == "PodInitializing"
        await until(lambda: node.phase(group) is link.Phase.PENDING)
        assert await log(node, group, "wait") == "waiting\n"
        (running,) = node.agent.find(group.group_id).seen.containers
        peer = _Peer()
        options = link.ExecOptions(command=("sh", "-c", "hostname; touch /shared/go"))
        await node.drivers.streams.exec(running.id, options, peer)
        assert peer.told.decode() == f"{group.pod_name}\n"
        await until(lambda: node.is_ready(group))


class _Peer:
    def __init__(self):
        self.told = b""

    async def send(self, message):
        channel, data = channels.parse(message)
        if channel is channels.Channel.STDOUT:
            self.told += data

    async def receive(self):
        await asyncio.Event().wait()


async def test_failures_are_told_and_retried_or_final_by_the_policy(node):
    async with node.kcilet():
        # It succeeds at its second try, which comes at once.
        stubborn = add(node, FOREVER, {"try": "[ $(wc -l < /shared/signed) = 2 ] || exit 9"})
        never = add(node, FOREVER, {"try": "echo no > /dev/termination-log; exit 9"}, policy="Never")
        hopeless = add(node, FOREVER, {"try": "exit 9"})
        node.agent.sync((stubborn, never, hopeless))
        await until(lambda: node.is_ready(stubborn))
        await signs(node, stubborn, ["try", "try", "app"])
        assert init(node, stubborn).last_state.terminated.exit_code == 9
        await until(lambda: node.status(never).phase == "Failed")
        ended = init(node, never).state.terminated
        assert (ended.exit_code, ended.message) == (9, "no\n")
        assert node.app(never).state.waiting.reason == "PodInitializing"
        waiting = "CrashLoopBackOff"
        await until(lambda: getattr(init(node, hopeless).state.waiting, "reason", "") == waiting)
        assert node.status(hopeless).phase == "Pending"


async def test_a_kcilet_that_comes_and_goes_repeats_none(node):
    groups = [add(node, FOREVER, {"one": "sleep 0.3", "two": "sleep 0.3"}) for _ in range(3)]
    while True:
        async with node.kcilet():
            node.agent.sync(tuple(groups))
            await asyncio.sleep(0.2)
            if all(node.is_ready(group) for group in groups):
                break
    for group in groups:
        await signs(node, group, ["one", "two", "app"])
        assert [one.restart_count for one in node.status(group).all_containers] == [0, 0, 0]


async def test_after_the_end_of_the_sandbox_they_run_again(node):
    async with node.kcilet():
        group = add(node, FOREVER, {"one": "true", "two": "true"})
        node.agent.sync((group,))
        await until(lambda: node.is_ready(group))
        sandbox = node.agent.find(group.group_id).seen.sandboxes[0]
        node_processes.of_container(sandbox.id)[0].kill()
        await until(lambda: node.app(group).restart_count == 1 and node.is_ready(group))
        await signs(node, group, ["one", "two", "app"] * 2)


async def test_a_deletion_ends_the_one_that_runs(node):
    async with node.kcilet():
        group = add(node, FOREVER, {"wait": 'trap "exit 4" TERM; while :; do sleep 0.05; done'})
        node.agent.sync((group,))
        await until(lambda: is_running(node, group))
        node.cluster.delete(group.pod_uid, grace_s=5)
        await until(lambda: node.phase(group) is link.Phase.GONE)
        assert init(node, group).state.terminated.exit_code == 4
        assert node.status(group).phase == "Failed"


async def test_a_sidecar_serves_the_others_from_first_to_last(node):
    """The container's last words reach the sidecar, which is there until then."""
    listen = "trap : TERM; nc -l -p 7000 >> /shared/heard & wait; cat /shared/heard; exit 0"
    async with node.kcilet():
        group = add(
            node,
            'trap "echo goodbye | nc 127.0.0.1 7000; exit 0" TERM; while :; do sleep 0.05; done',
            {"side": f"touch /shared/up; {listen}", "check": "until [ -e /shared/up ]; do sleep 0.05; done"},
            termination_grace_period_seconds=10,
        )
        node.agent.sync((group,))
        await until(lambda: node.is_ready(group))
        await signs(node, group, ["side", "check", "app"])
        node.cluster.delete(group.pod_uid, grace_s=10)
        await until(lambda: node.phase(group) is link.Phase.GONE)
        assert node.app(group).state.terminated.exit_code == 0
        assert node.status(group).phase == "Succeeded"


async def test_what_a_pod_with_them_costs(node):
    """From the wish to Ready, with two that do nothing; for those who read the output."""
    async with node.kcilet():
        node.agent.sync(())
        loop = asyncio.get_running_loop()
        for init_containers in ({}, {"one": "true", "two": "true"}):
            began_s = loop.time()
            group = add(node, FOREVER, init_containers)
            node.agent.want(group)
            await until(lambda group=group: node.is_ready(group))
            print(f"{len(init_containers)} init containers: {(loop.time() - began_s) * 1000:.0f} ms to Ready")
            written = [one for one in node.cluster.patches if one["metadata"]["uid"] == group.pod_uid]
            assert len(written) == 1
