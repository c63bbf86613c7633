"""A kcilet that is a program of its own (node_kcilet.py), as seen by who starts it again when it ends; the
cluster is in memory here, and is told over its pipes.
"""

import asyncio
import contextlib
import json
import sys

import msgspec
import node_processes
import node_world
import pytest
from fakes import machine_world

from kci.kit import crashpoints, environment


class Kcilet:
    """One that is started again when it dies."""

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
            self.process = await asyncio.create_subprocess_exec(
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
                while line := await self.process.stdout.readline():
                    self._note(json.loads(line))
                self.crashes += 1
            finally:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()

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
            self.process.stdin.write(json.dumps(order).encode() + b"\n")

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


def processes_of(node, group):
    """The first process and its start time."""
    return node_processes.of_container(node.app(group).container_id.rpartition("/")[2])[0]
