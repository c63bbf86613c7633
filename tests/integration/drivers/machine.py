"""All drivers together on a node with a real containerd, and pods in one line."""

import asyncio
import contextlib
import dataclasses
import pathlib
import subprocess
import uuid

import msgspec

from kci.kcilet import ports
from kci.kcilet.drivers.cgroups import pods
from kci.kcilet.drivers.logs import rotation
from kci.kcilet.drivers.network import cni, server
from kci.kcilet.drivers.runtime import cri
from kci.kcilet.drivers.stats import driver as stats
from kci.kcilet.drivers.streams import driver
from kci.kcilet.drivers.volumes import folders
from kci.kit import channels, clock, environment
from kci.kube import models
from kci.link import types as link
from kci.stack import layout

GATEWAY = "10.88.0.1"
PREFIX = 24
BUSYBOX = "docker.io/library/busybox:latest"
WITHIN_S = 20
_addresses = iter(range(2, 250))


@dataclasses.dataclass
class Started:
    pod: models.Pod
    sandbox_id: ports.SandboxId
    container_id: ports.ContainerId
    interface: link.Interface
    log_directory: str


class Machine:
    def __init__(self, where, cgroup, runtime, network):
        self.where = where
        self.cgroup = cgroup
        self.runtime = runtime
        self.network = network
        self.guarded = {}
        self.volumes = folders.PodFolders(where.kcilet)
        self.cgroups = pods.PodCgroups(cgroup)
        self.stats = stats.MachineStats(cgroup_of=self.cgroups.path_of, link_of=cni.to_link_name)
        self.streams = driver.MachineStreams(
            exec_url=runtime.exec_url,
            attach_url=runtime.attach_url,
            is_written=runtime.is_written,
            clock=clock.SystemClock(),
            commands_dir=where.kcilet / "commands",
        )

    async def image(self):
        return await self.runtime.find_image(BUSYBOX) or await self.runtime.pull_image(BUSYBOX, [])

    async def sandbox(self, *, cpu_milli=1000, memory_mib=256, pids=256, attempt=0, pod=None, **spec):
        """A pod with the container `main` and its sandbox; `spec` are fields of the container."""
        pod_spec = spec.pop("pod_spec", {})
        pod = pod or make_pod(models.Container(name="main", image=BUSYBOX, **spec), **pod_spec)
        interface = make_interface()
        await self.cgroups.ensure_cgroup(pod.uid, cpu_milli=cpu_milli, memory_mib=memory_mib, pids=pids)
        self.network.expect(pod.uid, interface, ports.NO_LIMITS)
        self.guarded[pod.uid] = ports.GuardedPod(pod.uid, interface)
        await self.network.guard(ports.Firewall(pods=tuple(self.guarded.values())))
        described = self.sandbox_spec(pod, attempt=attempt)
        sandbox_id = await self.runtime.run_sandbox(described)
        return Started(pod, sandbox_id, ports.ContainerId(""), interface, described.log_directory)

    def sandbox_spec(self, pod, *, attempt):
        return ports.SandboxSpec(
            pod=pod,
            group_id="group-1",
            attempt=attempt,
            hostname=pod.metadata.name,
            log_directory=str(self.where.logs / pod.uid),
            cgroup_parent=f"/{self.cgroup}/pod{pod.uid}",
            dns=ports.DnsConfig(servers=("10.0.0.10",), searches=("svc.cluster.local",)),
        )

    async def create(self, started, *, attempt=0, mounts=(), env=None, **ceilings):
        return await self.runtime.create_container(
            started.sandbox_id,
            ports.ContainerSpec(
                pod=started.pod,
                container=started.pod.spec.containers[0],
                attempt=attempt,
                image_id=(await self.image()).id,
                env=env or {},
                mounts=mounts,
                **ceilings,
            ),
        )

    async def run(self, *command, mounts=(), **spec):
        """A pod whose container runs a command."""
        started = await self.sandbox(command=command, **spec)
        ceilings = {
            "cpu_milli_limit": spec.get("cpu_milli", 0),
            "memory_mib_limit": spec.get("memory_mib", 0),
        }
        started.container_id = await self.create(started, mounts=mounts, **ceilings)
        await self.runtime.start_container(started.container_id)
        return started

    async def run_pod(self, pod, *, mounts=()):
        started = await self.sandbox(pod=pod)
        started.container_id = await self.create(started, mounts=mounts)
        await self.runtime.start_container(started.container_id)
        return started

    @contextlib.asynccontextmanager
    async def network_away(self):
        """As if the kcilet were not running."""
        away = self.where.cni_socket.with_suffix(".away")
        self.where.cni_socket.rename(away)
        yield
        away.rename(self.where.cni_socket)

    def rotation(self, **policy):
        return rotation.Rotation(
            list_written=self.runtime.list_written_logs,
            reopen=self.runtime.reopen_log,
            policy=rotation.Policy(**policy),
            clock=clock.SystemClock(),
        )

    async def ended(self, started):
        """The container once it has ended."""
        return await self.until(started, lambda seen: seen.phase == ports.ContainerPhase.EXITED)

    async def until(self, started, holds):
        async with asyncio.timeout(WITHIN_S):
            while True:
                seen = await self.runtime.observe_pod(started.pod.uid)
                if seen.containers and holds(seen.containers[0]):
                    return seen.containers[0]
                await asyncio.sleep(0.02)

    async def log(self, started, **options):
        parts = self.streams.log(started.log_directory, "main", link.LogOptions(**options))
        return b"".join([part async for part in parts]).decode()

    async def ask(self, started, *command):
        """What a command in the container prints."""
        peer = Peer()
        async with asyncio.timeout(WITHIN_S):
            await self.streams.exec(started.container_id, link.ExecOptions(command=command), peer)
        assert peer.status() == (0, ""), peer.sent
        return peer.output().decode()

    async def remove_all(self):
        for seen in await self.runtime.list_pods():
            for sandbox in seen.sandboxes:
                await self.runtime.stop_sandbox(sandbox.id)
                await self.runtime.remove_sandbox(sandbox.id)
            await self.network.remove_network(seen.pod_uid)
            await self.volumes.remove_volumes(seen.pod_uid)
            await self.cgroups.remove_cgroup(seen.pod_uid)
        await self.cgroups.remove_parent()

    def leftovers(self):
        """Whatever of a pod is still on the node."""
        links = [name for name in run("ip", "-o", "link").splitlines() if ": kv" in name]
        mounts = [
            line
            for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()
            if "/kcilet/pods/" in line
        ]
        folders_left = [str(path) for path in (self.where.kcilet / "pods").glob("*")]
        groups = [str(path) for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}/*")]
        return links + mounts + folders_left + groups


class Peer:
    """An exec's peer with what it sends prepared, and then it waits; a coroutine function in its place
    says when it leaves."""

    def __init__(self, *messages):
        self._messages = list(messages)
        self.sent = []
        self.changed = asyncio.Condition()

    async def send(self, message):
        async with self.changed:
            self.sent.append(channels.parse(message))
            self.changed.notify_all()

    async def receive(self):
        async with self.changed:
            await self.changed.wait_for(lambda: self._messages)
            message = self._messages.pop(0)
        return await message() if callable(message) else message

    async def push(self, message):
        async with self.changed:
            self._messages.append(message)
            self.changed.notify_all()

    async def until_output(self, text, channel=channels.Channel.STDOUT):
        async with asyncio.timeout(WITHIN_S), self.changed:
            await self.changed.wait_for(lambda: text in self.output(channel))

    def output(self, channel=channels.Channel.STDOUT):
        return b"".join(data for at, data in self.sent if at == channel)

    def status(self):
        channel, data = self.sent[-1]
        assert channel == channels.Channel.STATUS
        return channels.parse_status(data)


@contextlib.asynccontextmanager
async def open_machine():
    given = environment.read()
    where = layout.Layout(pathlib.Path(given["KCI_TEST_ROOT"]))
    async with (
        cri.open_runtime(str(where.containerd_socket)) as runtime,
        server.open_network(where.cni_socket, where.bridge) as network,
    ):
        machine = Machine(where, given["KCI_TEST_CGROUP"], runtime, network)
        try:
            yield machine
        finally:
            await machine.remove_all()
        assert machine.leftovers() == []


def make_pod(*containers, qos_class="Burstable", **spec):
    uid = str(uuid.uuid4())
    return models.Pod(
        metadata=models.ObjectMeta(name=f"pod-{uid[:8]}", namespace="default", uid=uid),
        spec=models.PodSpec(containers=containers, **spec),
        status=models.PodStatus(qos_class=qos_class),
    )


def with_command(pod, *command):
    (container,) = pod.spec.containers
    changed = msgspec.structs.replace(container, command=command)
    return msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, containers=(changed,)))


@contextlib.contextmanager
def process(*command):
    with subprocess.Popen(command) as started:
        try:
            yield started
        finally:
            started.kill()


def make_interface():
    number = next(_addresses)
    return link.Interface(
        address=f"10.88.0.{number}",
        prefix_length=PREFIX,
        gateway=GATEWAY,
        mac_address=f"02:00:0a:58:00:{number:02x}",
    )


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
