"""The kcilet is killed, as by kill -9, at each of its crash points, on a real containerd."""

import asyncio
import contextlib
import json
import sys

import crash_points
import msgspec
import node_processes
import node_world
import pytest
from fakes import machine_world

from kci.kit import crashpoints, environment

KINDLY = {"Pulling", "Pulled", "Created", "Started", "Killing", "SandboxChanged"}
# Two records are kept, so that removing one takes a third run.
RESTARTS = 2
CRASHES = "sleep 0.5; exit 1"


class Kcilet:
    """One that is started again when it dies. The cluster is ours; it is told over the kcilet's pipes."""

    def __init__(self, folder):
        self.node = node_world.Node(None, None)
        self.groups = []
        self.phases = {}
        self.crashes = 0
        self._file = folder / "points"
        self._deleted = {}

    def arm(self, point, hit):
        self._file.write_text(f"{point} {hit}\n")

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.get_running_loop().create_task(self._run_again_and_again())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run_again_and_again(self):
        while True:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "node_kcilet",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
                env={
                    **environment.read(),
                    "PYTHONPATH": ":".join(sys.path),
                    crashpoints.ENVIRONMENT: str(self._file),
                },
            )  # fmt: skip
            try:
                self.tell_all()
                while line := await self._process.stdout.readline():
                    self._note(json.loads(line))
                self.crashes += 1
            finally:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    def _note(self, told):
        match told:
            case {"patch": {"uid": uid, "patch": patch}}:
                cluster = self.node.cluster
                cluster.patches.append(patch)
                cluster.put(machine_world.apply(cluster.pods[uid], patch))
            case {"event": reason}:
                self.node.cluster.events.append(("", reason, ""))
            case {"report": [group_id, phase]}:
                self.phases[group_id] = phase

    def tell_all(self):
        for pod in self.node.cluster.pods.values():
            self._tell({"pod": msgspec.to_builtins(pod)})
        self._tell({"sync": [msgspec.to_builtins(group) for group in self.groups]})
        for uid, grace_s in self._deleted.items():
            self._tell({"delete": uid, "grace_s": grace_s})

    def delete(self, group):
        self._deleted[group.pod_uid] = 2
        self._tell({"delete": group.pod_uid, "grace_s": 2})

    def _tell(self, order):
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def add(self, script, **spec):
        self.groups.append(self.node.add(script, **spec))
        return self.groups[-1]

    def want(self):
        self.tell_all()


@pytest.fixture
async def kcilet(tmp_path):
    it = Kcilet(tmp_path)
    yield it
    async with node_world.opened() as node:
        await node_world.remove_all(node)


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


def processes_of(node, group):
    """The first process and its start time."""
    return node_processes.of_container(node.app(group).container_id.rpartition("/")[2])[0]
