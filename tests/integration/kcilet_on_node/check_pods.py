"""Pods from the first look to the last trace: the real agent and drivers, and a cluster in memory."""

import asyncio
import contextlib
import pathlib
import statistics
import subprocess
import time
import uuid

import msgspec
import pytest
from fakes import machine_world

from kci.kcilet.drivers.cgroups import pods as cgroups
from kci.kcilet.drivers.logs import folders as logs
from kci.kcilet.drivers.network import server as network
from kci.kcilet.drivers.runtime import cri
from kci.kcilet.drivers.streams import driver as streams
from kci.kcilet.drivers.volumes import folders as volumes
from kci.kcilet.workers import agent, drain, machine
from kci.kit import channels, clock, environment, tasks
from kci.kube import models
from kci.link import types as link
from kci.stack import layout

BUSYBOX = "docker.io/library/busybox:latest"
WITHIN_S = 30
# The first process of a container ignores TERM unless it says otherwise.
FOREVER = 'trap "exit 0" TERM; sleep 1000 & wait'
TOKEN = models.Volume(
    name="token",
    projected=models.ProjectedVolume(
        sources=(
            models.VolumeProjection(service_account_token=models.ServiceAccountTokenProjection(path="token")),
            models.VolumeProjection(config_map=models.ConfigMapProjection(name="kube-root-ca.crt")),
        )
    ),
)


class Node:
    """The drivers for as long as the test runs, and a kcilet that may come and go."""

    def __init__(self, drivers, parent):
        self.drivers = drivers
        self.parent = parent
        self.cluster = machine_world.FakeCluster()
        self.cluster.config_maps["kube-root-ca.crt"] = models.ConfigMap(data={"ca.crt": "a certificate"})
        self.agent = None
        self._addresses = iter(range(2, 250))

    @contextlib.asynccontextmanager
    async def kcilet(self):
        with contextlib.suppress(_Killed):
            async with tasks.Tasks() as group:
                ours = machine.Machine(self.drivers, clock=clock.SystemClock())
                self.agent = agent.Agent(ours, self.cluster, group)
                group.run_forever("agent", self.agent.run())
                await asyncio.sleep(0)
                yield
                raise _Killed
        self.cluster.followers.clear()

    def add(self, script, **spec):
        """A pod that runs a script, at the cluster and as a group."""
        uid = str(uuid.uuid4())
        container = models.Container(
            name="app",
            image=BUSYBOX,
            image_pull_policy="IfNotPresent",
            command=("sh", "-c", script),
            env=(models.EnvVar(name="GREETING", value="hello"),),
            volume_mounts=(models.VolumeMount(name="token", mount_path="/var/run/token", read_only=True),),
        )
        spec = {"termination_grace_period_seconds": 2, **spec}
        pod = machine_world.pod(name=f"p-{uid[:8]}", uid=uid, volumes=(TOKEN,), **spec)
        pod_spec = msgspec.structs.replace(pod.spec, containers=(container,))
        self.cluster.put(msgspec.structs.replace(pod, spec=pod_spec))
        number = next(self._addresses)
        return msgspec.structs.replace(
            machine_world.group(pod.metadata.name, uid, f"g-{uid[:8]}"),
            interface=link.Interface(
                address=f"10.88.0.{number}",
                prefix_length=24,
                gateway="10.88.0.1",
                mac_address=f"0a:58:0a:58:00:{number:02x}",
            ),
        )

    def status(self, group):
        return self.cluster.status(group.pod_uid)

    def app(self, group):
        found = self.status(group).container_statuses
        return found[0] if found else None

    def is_ready(self, group):
        return any(one.type == "Ready" and one.status == "True" for one in self.status(group).conditions)

    def phase(self, group):
        report = self.agent.reports.get(group.group_id)
        return report.phase if report else None


class _Killed(Exception):  # noqa: N818  (no error: leaves the group of tasks)
    pass


async def until(holds):
    async with asyncio.timeout(WITHIN_S):
        while not holds():  # noqa: ASYNC110  (reports tell less than is looked for)
            await asyncio.sleep(0.001)


@pytest.fixture
async def node():
    variables = environment.read()
    where = layout.Layout(pathlib.Path(variables["KCI_TEST_ROOT"]))
    parent = cgroups.PodCgroups(variables["KCI_TEST_CGROUP"])
    async with (
        cri.open_runtime(str(where.containerd_socket)) as runtime,
        network.open_network(where.cni_socket, where.bridge) as wires,
    ):
        _ = await runtime.pull_image(BUSYBOX, [])
        drivers = machine.Drivers(
            runtime=runtime,
            volumes=volumes.PodFolders(where.kcilet),
            network=wires,
            cgroups=parent,
            logs=logs.Folders(where.kcilet / "logs" / "pods"),
            streams=streams.MachineStreams(
                exec_url=runtime.exec_url, is_written=runtime.is_written, clock=clock.SystemClock()
            ),
        )
        it = Node(drivers, parent)
        yield it
        async with it.kcilet():
            it.agent.sync(())
            await until(lambda: not any((where.kcilet / "pods").iterdir()))
        assert await runtime.list_pods() == []
    assert left(where) == []


def left(where):
    """What pods may leave outside the runtime."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    mounts = pathlib.Path("/proc/self/mounts").read_text()
    found = [line for line in links.splitlines() if "veth" in line]
    found += [line for line in mounts.splitlines() if f"{where.kcilet}/pods/" in line]
    return found + list((where.kcilet / "logs" / "pods").iterdir())


async def test_a_pod_runs_logs_answers_and_goes(node):
    async with node.kcilet():
        group = node.add(
            'trap "echo bye; exit 7" TERM; echo $GREETING $KUBERNETES_SERVICE_HOST; '
            "cat /var/run/token/ca.crt; echo; "
            "while :; do sleep 0.05; done",
            termination_grace_period_seconds=10,
        )
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
