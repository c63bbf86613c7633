"""A kcilet as a program of its own, to be killed at its crash points: real drivers, and the cluster of who
started it. Lines of JSON: what to do comes in, what it told the cluster and the service goes out.
"""

import asyncio
import json
import pathlib
import sys

import msgspec
import node_world
from fakes import machine_world

from kci.kcilet.drivers.cgroups import pods as cgroups
from kci.kcilet.drivers.network import server as network
from kci.kcilet.drivers.runtime import cri
from kci.kcilet.workers import agent, machine
from kci.kit import clock, crashpoints, environment, logs, tasks
from kci.kube import models
from kci.link import types as link
from kci.stack import layout


def say(kind, what):
    print(json.dumps({kind: what}), flush=True)


class ToldCluster(machine_world.FakeCluster):
    """What it is told, it passes on."""

    def join(self, group, on_change):
        return ToldPod(self, group, on_change)


class ToldPod(machine_world.FakePod):
    async def patch_status(self, pod, patch):
        say("patch", {"uid": pod.uid, "patch": patch})
        await super().patch_status(pod, patch)

    def record_event(self, pod, *, container, kind, reason, message):
        say("event", reason)
        super().record_event(pod, container=container, kind=kind, reason=reason, message=message)


async def run():
    variables = environment.read()
    crashpoints.arm(variables.get(crashpoints.ENVIRONMENT, ""))
    logs.configure("warning")
    where = layout.Layout(pathlib.Path(variables["KCI_TEST_ROOT"]))
    parent = cgroups.PodCgroups(variables["KCI_TEST_CGROUP"])
    cluster = ToldCluster()
    cluster.config_maps["kube-root-ca.crt"] = models.ConfigMap(data={"ca.crt": "a certificate"})
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with (
        cri.open_runtime(str(where.containerd_socket)) as runtime,
        network.open_network(where.cni_socket, where.bridge) as wires,
        tasks.Tasks() as group,
    ):
        drivers = node_world.make_drivers(where, runtime, wires, parent)
        hired = agent.Agent(machine.Machine(drivers, clock=clock.SystemClock()), cluster, group)
        group.run_forever("agent", hired.run())
        group.run_forever("reports", _report(hired))
        while line := await lines.readline():
            _obey(json.loads(line), hired, cluster)


def _obey(order, hired, cluster):
    match order:
        case {"pod": pod}:
            cluster.put(msgspec.convert(pod, models.Pod))
        case {"sync": groups}:
            hired.sync(tuple(msgspec.convert(group, link.WantedGroup) for group in groups))
        case {"delete": uid, "grace_s": grace_s}:
            cluster.delete(uid, grace_s)


async def _report(hired):
    known = 0
    while True:
        known, reports = await hired.reports.after(known, timeout_s=60)
        for report in reports:
            say("report", [report.group_id, report.phase])


if __name__ == "__main__":
    asyncio.run(run())
