"""The real agent and drivers on a node's containerd, and a cluster in memory, in the node's namespaces."""

import asyncio
import contextlib
import pathlib
import subprocess
import uuid

import msgspec
import pytest
from fakes import machine_world

from kci.kcilet.drivers.cgroups import pods as cgroups
from kci.kcilet.drivers.logs import folders as logs
from kci.kcilet.drivers.network import cni
from kci.kcilet.drivers.network import server as network
from kci.kcilet.drivers.probes import driver as probes
from kci.kcilet.drivers.runtime import cri
from kci.kcilet.drivers.stats import driver as stats
from kci.kcilet.drivers.streams import driver as streams
from kci.kcilet.drivers.volumes import folders as volumes
from kci.kcilet.workers import agent, machine
from kci.kit import clock, environment, tasks
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

    def add(self, script, *, init=None, pull_policy="IfNotPresent", **spec):
        """A pod that runs a script, at the cluster and as a group; `init` are its init containers' scripts by
        name.
        """
        uid = str(uuid.uuid4())
        container = models.Container(
            name="app",
            image=BUSYBOX,
            image_pull_policy=pull_policy,
            command=("sh", "-c", script),
            env=(models.EnvVar(name="GREETING", value="hello"),),
            volume_mounts=(models.VolumeMount(name="token", mount_path="/var/run/token", read_only=True),),
        )
        spec = {"termination_grace_period_seconds": 2, **spec}
        pod = machine_world.pod(name=f"p-{uid[:8]}", uid=uid, volumes=(TOKEN,), **spec)
        steps = tuple(
            msgspec.structs.replace(container, name=name, command=("sh", "-c", step))
            for name, step in (init or {}).items()
        )
        pod_spec = msgspec.structs.replace(pod.spec, containers=(container,), init_containers=steps)
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


async def until(holds, *, within_s=WITHIN_S):
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  (reports tell less than is looked for)
            await asyncio.sleep(0.001)


@pytest.fixture
async def node():
    async with opened() as it:
        yield it
        await remove_all(it)


@contextlib.asynccontextmanager
async def opened():
    """The drivers; what runs stays."""
    variables = environment.read()
    where = layout.Layout(pathlib.Path(variables["KCI_TEST_ROOT"]))
    parent = cgroups.PodCgroups(variables["KCI_TEST_CGROUP"])
    async with (
        cri.open_runtime(str(where.containerd_socket)) as runtime,
        network.open_network(where.cni_socket, where.bridge) as wires,
    ):
        _ = await runtime.pull_image(BUSYBOX, [])
        drivers = make_drivers(where, runtime, wires, parent)
        yield Node(drivers, parent)


def make_drivers(where, runtime, wires, parent):
    carried = streams.MachineStreams(
        exec_url=runtime.exec_url,
        attach_url=runtime.attach_url,
        is_written=runtime.is_written,
        clock=clock.SystemClock(),
        commands_dir=where.kcilet / "commands",
    )
    return machine.Drivers(
        runtime=runtime,
        volumes=volumes.PodFolders(where.kcilet),
        network=wires,
        cgroups=parent,
        logs=logs.Folders(where.kcilet / "logs" / "pods"),
        streams=carried,
        probes=probes.MachineProbes(run_command=runtime.run_command, open_network=carried.open_network),
        stats=stats.MachineStats(cgroup_of=parent.path_of, link_of=cni.to_link_name),
    )


async def remove_all(node):
    """Nobody wants anything any more: nothing may be left."""
    where = layout.Layout(pathlib.Path(environment.read()["KCI_TEST_ROOT"]))
    async with node.kcilet():
        node.agent.sync(())
        await until(lambda: not any((where.kcilet / "pods").iterdir()))
    assert await node.drivers.runtime.list_pods() == []
    assert left(where) == []


def left(where):
    """What pods may leave outside the runtime."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    mounts = pathlib.Path("/proc/self/mounts").read_text()
    found = [line for line in links.splitlines() if "veth" in line]
    found += [line for line in mounts.splitlines() if f"{where.kcilet}/pods/" in line]
    return found + list((where.kcilet / "logs" / "pods").iterdir())
