"""A machine without a machine: one double per driver port, and a source, all sharing one world.

The runtime keeps what containerd keeps: names are reserved (an attempt that exists is refused), records
stay until they are removed, a stopped sandbox stops its containers. A call whose caller dies is undone: what
was being made vanishes and its name is free only a second later, a start that was cut off is an exit without
a run. Programs are told what to do by `Program`: how long they run, with what code they end.
"""

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import itertools

import msgspec
from fakes import service_world

from kci.kcilet import ports
from kci.kcilet.plan import services
from kci.kcilet.workers import machine
from kci.kit import secret, tasks
from kci.kube import models
from kci.link import types as link
from kci.source import errors, port

Phase = ports.ContainerPhase
NS = 1_000_000_000
# What a dead caller asked for is undone, and the name free again, after about this time.
UNDONE_WITHIN_S = 1.0
EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class LoopClock:
    """A wall clock that goes with the loop's, which tests let jump."""

    def now(self):
        return EPOCH + datetime.timedelta(seconds=asyncio.get_running_loop().time())


def now_ns():
    return int(LoopClock().now().timestamp() * NS)


@dataclasses.dataclass
class Program:
    """What an image does: runs for `runs_s` (None: until stopped) and ends with `code`; after a stop it takes
    `stops_in_s`, or is killed with 137 when its grace period is over.
    """

    runs_s: float | None = None
    code: int = 0
    stops_in_s: float = 0.0
    stop_code: int = 0
    fails_to_start: bool = False


class FakeRuntime:
    """A ports.Runtime. `calls` is what was asked of it, `fail_next` makes calls fail by name."""

    def __init__(self, images=("app:1",)):
        self.images = set(images)
        self.registry = set(images)
        self.programs = collections.defaultdict(Program)
        self.sandboxes = {}
        self.containers = {}
        self.calls = []
        self.fail_next = collections.defaultdict(list)
        self.delays_s = collections.defaultdict(float)
        self.most_starts = 0
        self.most_live_sandboxes = 0
        self._starts = 0
        # Of containers that were made, in order.
        self.environments = []
        # Paths of logs; as containerd, it makes them and removes none.
        self.logs = set()
        self._log_directories = {}
        # Names of calls that are being undone.
        self._reserved = set()
        self._numbers = itertools.count(1)
        self._subscribers = set()
        self._timers = set()

    async def version(self):
        return ports.RuntimeVersion("containerd", "fake")

    async def list_pods(self):
        uids = {box.pod_uid for box in self.sandboxes.values()}
        return [self._pod(uid) for uid in sorted(uids)]

    async def observe_pod(self, pod_uid):
        await self._called("observe_pod", quiet=True)
        seen = self._pod(pod_uid)
        # An answer is as old as the list that it is made from.
        await self._called("observed_pod", quiet=True)
        return seen

    async def events(self):
        queue = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._subscribers.discard(queue)

    async def find_image(self, image):
        return ports.ImageRef(f"sha256:{image}", size_bytes=7) if image in self.images else None

    async def pull_image(self, image, auths):
        await self._called("pull_image", image)
        if image not in self.registry:
            raise ports.ImagePullError("ErrImagePull", f"cannot pull image {image!r}: not found")
        self.images.add(image)
        return ports.ImageRef(f"sha256:{image}", size_bytes=7)

    async def run_sandbox(self, spec):
        self._starts += 1
        self.most_starts = max(self.most_starts, self._starts)
        name = (spec.pod.uid, spec.attempt)
        try:
            async with self._reserving(name):
                await self._called("run_sandbox", spec.attempt)
        finally:
            self._starts -= 1
        if any((box.pod_uid, box.attempt) == name for box in self.sandboxes.values()):
            raise ports.UnavailableError(f"cannot make a sandbox yet: name {name} is reserved")
        box = ports.SeenSandbox(
            id=ports.SandboxId(f"box{next(self._numbers)}"),
            pod_uid=spec.pod.uid,
            namespace=spec.pod.metadata.namespace,
            name=spec.pod.metadata.name,
            attempt=spec.attempt,
            ready=True,
            created_at_ns=now_ns(),
            address="10.0.0.9",
            group_id=spec.group_id,
        )
        self.sandboxes[box.id] = box
        self._log_directories[box.id] = spec.log_directory
        live = sum(one.ready for one in self.sandboxes.values() if one.pod_uid == spec.pod.uid)
        self.most_live_sandboxes = max(self.most_live_sandboxes, live)
        self._tell(spec.pod.uid)
        return box.id

    async def stop_sandbox(self, sandbox_id):
        await self._called("stop_sandbox", sandbox_id)
        box = self.sandboxes.get(sandbox_id)
        if box is None:
            return
        for one in [c for c in self.containers.values() if c.sandbox_id == sandbox_id]:
            self._exit(one.id, 137)
        self.sandboxes[sandbox_id] = dataclasses.replace(box, ready=False)
        self._tell(box.pod_uid)

    async def remove_sandbox(self, sandbox_id):
        await self._called("remove_sandbox", sandbox_id)
        await self.stop_sandbox(sandbox_id)
        self.containers = {k: c for k, c in self.containers.items() if c.sandbox_id != sandbox_id}
        self.sandboxes.pop(sandbox_id, None)

    async def create_container(self, sandbox_id, spec):
        name = (spec.pod.uid, spec.container.name, spec.attempt)
        async with self._reserving(name):
            await self._called("create_container", spec.container.name, spec.attempt)
        assert self.sandboxes[sandbox_id].ready
        if name in {
            (self.sandboxes[c.sandbox_id].pod_uid, c.name, c.attempt) for c in self.containers.values()
        }:
            raise ports.UnavailableError(f"cannot make a container yet: name {name} is reserved")
        self.environments.append(spec.env)
        one = ports.SeenContainer(
            id=ports.ContainerId(f"c{next(self._numbers)}"),
            sandbox_id=sandbox_id,
            name=spec.container.name,
            attempt=spec.attempt,
            phase=Phase.CREATED,
            image=spec.container.image,
            image_id=spec.image_id,
            created_at_ns=now_ns(),
            log_path=f"{self._log_directories[sandbox_id]}/{spec.container.name}/{spec.attempt}.log",
        )
        self.containers[one.id] = one
        self._tell(spec.pod.uid)
        return one.id

    async def start_container(self, container_id):
        try:
            await self._called("start_container", container_id)
        except asyncio.CancelledError:
            cut_off = {"exit_code": 128, "reason": "StartError", "message": "context canceled"}
            self._set(self.containers[container_id], phase=Phase.EXITED, finished_at_ns=now_ns(), **cut_off)
            raise
        one = self.containers[container_id]
        self.logs.add(one.log_path)
        program = self.programs[one.image]
        if program.fails_to_start:
            self._set(one, phase=Phase.EXITED, exit_code=128, reason="StartError", finished_at_ns=now_ns())
            raise ports.ContainerError("RunContainerError", "cannot start: no such file")
        self._set(one, phase=Phase.RUNNING, started_at_ns=now_ns())
        if program.runs_s is not None:
            self._later(program.runs_s, container_id, program.code)

    async def stop_container(self, container_id, grace_s):
        await self._called("stop_container", container_id, grace_s)
        one = self.containers.get(container_id)
        if one is None or one.phase is not Phase.RUNNING:
            return
        program = self.programs[one.image]
        is_killed = program.stops_in_s > grace_s
        await asyncio.sleep(grace_s if is_killed else program.stops_in_s)
        self._exit(container_id, 137 if is_killed else program.stop_code)

    async def remove_container(self, container_id):
        await self._called("remove_container", container_id)
        self.containers.pop(container_id, None)

    # ---- what tests do ------------------------------------------------------------------------

    def exit(self, name, code, **changes):
        """Have the running container of this name end."""
        running = [c for c in self.containers.values() if c.name == name and c.phase is Phase.RUNNING]
        self._exit(running[0].id, code, **changes)

    def kill_sandbox(self, pod_uid):
        """Have the pause container end, as by a kill -9: the containers go on."""
        for box in self.sandboxes.values():
            if box.pod_uid == pod_uid and box.ready:
                self.sandboxes[box.id] = dataclasses.replace(box, ready=False)
        self._tell(pod_uid)

    def close(self):
        for timer in self._timers:
            timer.cancel()

    def begun(self):
        """The names of the containers that were made, in order."""
        return [call[1] for call in self.calls if call[0] == "create_container"]

    def names(self):
        """The calls' names, in order."""
        return [call[0] for call in self.calls]

    # ---- parts ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _reserving(self, name):
        if name in self._reserved:
            raise ports.UnavailableError(f"cannot make it yet: name {name} is reserved")
        self._reserved.add(name)
        try:
            yield
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(UNDONE_WITHIN_S, self._reserved.discard, name)
            raise
        except BaseException:
            self._reserved.discard(name)
            raise
        self._reserved.discard(name)

    async def _called(self, name, *arguments, quiet=False):
        if not quiet:
            self.calls.append((name, *arguments))
        await asyncio.sleep(self.delays_s[name])
        if self.fail_next[name]:
            raise self.fail_next[name].pop(0)

    def _pod(self, uid):
        boxes = [box for box in self.sandboxes.values() if box.pod_uid == uid]
        ids = {box.id for box in boxes}
        return ports.SeenPod(
            pod_uid=uid,
            sandboxes=tuple(sorted(boxes, key=lambda box: -box.attempt)),
            containers=tuple(c for c in self.containers.values() if c.sandbox_id in ids),
        )

    def _later(self, delay_s, container_id, code):
        loop = asyncio.get_running_loop()
        self._timers.add(loop.call_later(delay_s, self._exit, container_id, code))

    def _exit(self, container_id, code, **changes):
        one = self.containers.get(container_id)
        if one is not None and one.phase is Phase.RUNNING:
            reason = "Completed" if code == 0 else "Error"
            found = {"reason": reason, "exit_code": code, "finished_at_ns": now_ns(), **changes}
            self._set(one, phase=Phase.EXITED, **found)

    def _set(self, one, **changes):
        self.containers[one.id] = dataclasses.replace(one, **changes)
        self._tell(self.sandboxes[one.sandbox_id].pod_uid)

    def _tell(self, uid):
        for queue in self._subscribers:
            queue.put_nowait(ports.RuntimeEvent(uid))


class FakeVolumes:
    """A ports.Volumes."""

    def __init__(self):
        self.pods = collections.defaultdict(dict)

    async def ensure_volumes(self, pod_uid, volumes):
        for volume in volumes:
            self.pods[pod_uid][f"volume {volume.name}"] = volume

    async def ensure_file(self, pod_uid, name, content, *, mode=0o644):
        self.pods[pod_uid].setdefault(name, content)
        return f"/pods/{pod_uid}/{name}"

    def host_path(self, pod_uid, volume):
        return f"/pods/{pod_uid}/volumes/{volume}"

    async def ensure_sub_path(self, pod_uid, volume, sub_path):
        return f"/pods/{pod_uid}/volumes/{volume}/{sub_path}"

    async def read_file(self, pod_uid, name, *, limit):
        return self.pods[pod_uid].get(name, b"")[-limit:]

    async def remove_volumes(self, pod_uid):
        self.pods.pop(pod_uid, None)

    async def list_pods(self):
        return list(self.pods)


class FakeNetwork:
    """A ports.Network."""

    def __init__(self):
        self.links = {}
        self.limits = {}
        # By pod, and by outlook.
        self.outlooks = {}
        self.services = {}
        self.members = {}
        # What members were said to have.
        self.member_links = {}
        self.changes = []
        # Raised by the next changes of Services, in order.
        self.fail_next = []
        self.fail_forget = []
        self.guarded = tasks.Latest(ports.Firewall())
        self.meddled = asyncio.Event()

    def expect(self, pod_uid, interface, limits, *, outlook=""):
        self.links[pod_uid] = interface
        self.limits[pod_uid] = limits
        self.outlooks[pod_uid] = outlook

    async def change_services(self, outlook, change, members):
        self.changes.append(change)
        if self.fail_next:
            _ = self.services.pop(outlook, None)
            raise self.fail_next.pop(0)
        if not change.is_whole and outlook not in self.services:
            raise ports.DriverError("cannot change the rules for Services: a whole table is needed")
        self.services[outlook] = services.apply(change, self.services.get(outlook, {}))
        self.members[outlook] = set(members)
        self.member_links |= members

    async def forget_services(self, outlook):
        if self.fail_forget:
            raise self.fail_forget.pop(0)
        self.services.pop(outlook, None)

    async def own_addresses(self):
        return frozenset({"10.0.0.1"})

    async def until_meddled(self):
        await self.meddled.wait()
        self.meddled.clear()

    async def guard(self, firewall):
        self.guarded.set(firewall)

    async def limit_traffic(self, pod_uid, limits):
        if pod_uid in self.links:
            self.limits[pod_uid] = limits

    async def remove_network(self, pod_uid):
        self.links.pop(pod_uid, None)
        self.outlooks.pop(pod_uid, None)


class FakeCgroups:
    """A ports.Cgroups. `dead` are containers without processes."""

    def __init__(self):
        self.pods = {}
        self.dead = set()

    async def ensure_cgroup(self, pod_uid, *, cpu_milli, memory_mib, pids):
        self.pods[pod_uid] = (cpu_milli, memory_mib, pids)
        return f"/kci/pod{pod_uid}"

    async def list_dead(self, containers):
        return self.dead & containers.keys()

    async def remove_cgroup(self, pod_uid):
        self.pods.pop(pod_uid, None)


class FakeLogs:
    """A ports.LogFolders; `files` is what the runtime makes."""

    def __init__(self, files):
        self.pods = set()
        self.files = files

    def log_directory(self, pod):
        self.pods.add(pod.uid)
        return f"/logs/{pod.uid}"

    async def remove_log(self, log_path):
        self.files.discard(log_path)

    async def remove_logs(self, pod_uid):
        self.pods.discard(pod_uid)
        self.files -= {path for path in self.files if path.startswith(f"/logs/{pod_uid}/")}

    async def list_pods(self):
        return list(self.pods)


class FakeStreams:
    """A ports.Streams: whatever is opened echoes what it is sent; `opened` tells what that was."""

    def __init__(self):
        self.logs = {}
        self.opened = []
        # Why no log can be read.
        self.error = None

    async def exec(self, container_id, options, peer):
        await self._echo(("exec", container_id, options), peer)

    async def attach(self, container_id, options, peer):
        await self._echo(("attach", container_id, options), peer)

    async def forward(self, sandbox_id, port, peer):
        await self._echo(("forward", sandbox_id, port), peer)

    async def _echo(self, what, peer):
        self.opened.append(what)
        while (message := await peer.receive()) is not None:
            await peer.send(message)

    async def log(self, log_directory, container_name, options, *, attempt=None):
        if self.error is not None:
            raise self.error
        if container_name not in self.logs:
            raise ports.NotFoundError(f"cannot find a log of {container_name!r}")
        yield b""
        for line in self.logs[container_name]:
            yield line


class FakeProbes:
    """A ports.Probes: what `answers` says by command, path or port, else success. `checks` is what was asked,
    and when; `left` are the sandboxes that were left.
    """

    def __init__(self):
        self.answers = {}
        self.delays_s = collections.defaultdict(float)
        self.checks = []
        self.left = set()
        # By key.
        self.most_at_once = collections.Counter()
        self._now = collections.Counter()

    async def check(self, check, *, timeout_s):
        self.checks.append((asyncio.get_running_loop().time(), check))
        key = self.key(check)
        self._now[key] += 1
        self.most_at_once[key] = max(self.most_at_once[key], self._now[key])
        try:
            await asyncio.sleep(self.delays_s[key])
        finally:
            self._now[key] -= 1
        answer = self.answers.get(key, True)
        if isinstance(answer, Exception):
            raise answer
        return ports.CheckResult(answer, "" if answer else "no")

    def leave(self, sandbox_id):
        self.left.add(sandbox_id)

    def times(self, key):
        return [at_s for at_s, check in self.checks if self.key(check) == key]

    def key(self, check):
        match check:
            case ports.ExecCheck():
                return check.command[0]
            case ports.HttpCheck():
                return check.target
            case _:
                return check.port


class FakeStats:
    """A ports.Stats: a pod has used as much CPU as its containers, each of which the same. `asked` is of
    what.
    """

    def __init__(self):
        self.asked = []
        self.error = None

    async def read_usage(self, pods):
        self.asked.append(dict(pods))
        if self.error:
            raise self.error
        one = link.Usage(time_ns=now_ns(), cpu_core_ns=NS, memory_bytes=2048, working_set_bytes=1024)
        return {
            uid: ports.PodUsage(
                msgspec.structs.replace(one, cpu_core_ns=NS * len(containers)),
                link.Traffic(received_bytes=7),
                dict.fromkeys(containers, one),
            )
            for uid, containers in pods.items()
        }


class FakeCluster:
    """An API server and the Sources in front of it. `is_away` makes every call fail."""

    def __init__(self):
        self.pods = {}
        self.config_maps = {}
        self.secrets = {}
        # Services by their ClusterIP.
        self.services = {}
        self.events = []
        self.patches = []
        self.is_away = False
        self.is_synced = True
        self.followers = set()
        # Why a group cannot be followed.
        self.refusal = ""
        # As pods with kube-proxy reach them.
        self.proxied = service_world.Services()
        self._versions = itertools.count(1)

    def put(self, pod):
        meta = msgspec.structs.replace(pod.metadata, resource_version=str(next(self._versions)))
        self.pods[pod.uid] = msgspec.structs.replace(pod, metadata=meta)
        self._tell()
        return self.pods[pod.uid]

    def put_config_map(self, name, data):
        """Write it as somebody else does: who keeps it hears of it. With None as data it is removed."""
        if data is None:
            del self.config_maps[name]
        else:
            self.config_maps[name] = models.ConfigMap(data=data)
        for follower in [one for one in self.followers if name in one.kept[0]]:
            follower.content += 1
            follower.on_change()

    def delete(self, uid, grace_s):
        pod = self.pods[uid]
        meta = msgspec.structs.replace(
            pod.metadata, deletion_timestamp="2026-01-01T00:00:00Z", deletion_grace_period_seconds=grace_s
        )
        self.put(msgspec.structs.replace(pod, metadata=meta))

    def remove(self, uid):
        del self.pods[uid]
        self._tell()

    def status(self, uid):
        return self.pods[uid].status

    def reasons(self):
        return [reason for _, reason, _ in self.events]

    def join(self, group, on_change):
        if self.refusal:
            raise errors.RefusedError(self.refusal)
        return FakePod(self, group, on_change)

    def check(self):
        if self.is_away:
            raise errors.SourceError("cannot reach the cluster")

    def _tell(self):
        for follower in list(self.followers):
            follower.on_change()


class FakePod:
    """A port.PodSource."""

    def __init__(self, cluster, group, on_change):
        self.on_change = on_change
        self.host_ip = "192.168.0.1"
        self.endpoint = port.Endpoint("10.0.0.1", 6443)
        self.content = 1
        # What is kept: names of ConfigMaps, and of Secrets.
        self.kept = ((), ())
        self._cluster = cluster
        self._group = group
        self._is_absent = False
        cluster.followers.add(self)

    @property
    def view(self):
        pod = self._find() if self._cluster.is_synced else None
        if pod is None:
            return port.View(port.Sight.ABSENT if self._is_absent else port.Sight.UNKNOWN)
        return port.View(port.Sight.PRESENT, pod)

    @property
    def services(self):
        return self._cluster.proxied

    async def confirm(self):
        self._cluster.check()
        pod = self._find()
        self._is_absent = pod is None
        return port.View(port.Sight.PRESENT, pod) if pod else port.View(port.Sight.ABSENT)

    def keep(self, config_maps, secrets):
        self.kept = (config_maps, secrets)

    async def config_map(self, name):
        self._cluster.check()
        return self._cluster.config_maps.get(name)

    async def secret(self, name):
        self._cluster.check()
        return self._cluster.secrets.get(name)

    async def token(self, pod, *, audience, expiration_s):
        self._cluster.check()
        return secret.Secret("token")

    async def patch_status(self, pod, patch):
        self._cluster.check()
        known = self._cluster.pods.get(pod.uid)
        if known is None:
            raise errors.GoneError("cannot patch: no such pod")
        self._cluster.patches.append(patch)
        self._cluster.put(apply(known, patch))

    def record_event(self, pod, *, container, kind, reason, message):
        self._cluster.events.append((kind, reason, message))

    def name_service(self, address, tell):
        if address in self._cluster.services:
            tell(self._cluster.services[address])

    def leave(self):
        self._cluster.followers.discard(self)

    def _find(self):
        key = (self._group.namespace, self._group.pod_name)
        for pod in self._cluster.pods.values():
            is_named = (pod.metadata.namespace, pod.metadata.name) == key
            if is_named and self._group.pod_uid in {"", pod.uid}:
                return pod
        return None


def apply(pod, patch):
    """A strategic merge patch of a pod's status and annotations, as an API server would."""
    changes = dict(patch.get("status", {}))
    status = models.to_json_types(pod.status)
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    for one in changes.pop("conditions", []):
        merged = {**conditions.get(one["type"], {}), **one}
        conditions[one["type"]] = {key: value for key, value in merged.items() if value is not None}
    status = {**status, **changes, "conditions": list(conditions.values())}
    status = {key: value for key, value in status.items() if value is not None}
    annotations = {**pod.metadata.annotations, **patch["metadata"].get("annotations", {})}
    return msgspec.structs.replace(
        pod,
        status=msgspec.convert(status, models.PodStatus),
        metadata=msgspec.structs.replace(pod.metadata, annotations=annotations),
    )


class FakeServed:
    """As the file is: kept over restarts."""

    place = "/kcilet/served-store"

    def __init__(self):
        self.store_id = ""

    async def get_store(self):
        return self.store_id

    async def ensure_store(self, store_id):
        self.store_id = store_id


def drivers(runtime):
    return machine.Drivers(
        runtime=runtime,
        volumes=FakeVolumes(),
        network=FakeNetwork(),
        cgroups=FakeCgroups(),
        logs=FakeLogs(runtime.logs),
        streams=FakeStreams(),
        probes=FakeProbes(),
        stats=FakeStats(),
    )


def pod(
    name="web", uid="uid-1", containers=("app",), image="app:1", policy="Always", init=(), sidecars=(), **spec
):
    """`init` are the init containers in their order, each with the image of its name; `sidecars` those that
    run on.
    """
    return models.Pod(
        metadata=models.ObjectMeta(name=name, namespace="default", uid=uid, generation=1),
        spec=models.PodSpec(
            node_name="vn1",
            containers=tuple(
                models.Container(name=one, image=image, image_pull_policy="IfNotPresent")
                for one in containers
            ),
            init_containers=tuple(
                models.Container(
                    name=one,
                    image=f"{one}:1",
                    image_pull_policy="IfNotPresent",
                    restart_policy="Always" if one in sidecars else None,
                )
                for one in init
            ),
            restart_policy=policy,
            **spec,
        ),
        status=models.PodStatus(phase="Pending", qos_class="BestEffort"),
    )


def group(pod_name="web", pod_uid="uid-1", group_id="g-1", generation=1):
    return link.WantedGroup(
        group_id=group_id,
        generation=generation,
        cluster=link.Cluster(cluster_id="c-1", kubeconfig="kc"),
        namespace="default",
        pod_name=pod_name,
        pod_uid=pod_uid,
        node_name="vn1",
        cpu_milli=1000,
        memory_mib=512,
        cluster_dns=("10.96.0.10",),
        interface=link.Interface(
            address="10.0.0.9", prefix_length=16, gateway="10.0.0.1", mac_address="02:00:00:00:00:01"
        ),
    )
