"""Probes as the kcilet runs them, against real listeners in network namespaces: how late they are, and what
one costs. `python bench/probes.py` measures this alone; it needs root and no stack.

There are as many pods as it takes for the wanted rate with two probes each a second. Their listeners share a
few namespaces, each a process of its own, so that the CPU time counted is the prober's alone. A probe is late
by as much as it begins after its time on the grid of its period.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any, cast

import uvloop

from kci.kcilet import ports
from kci.kcilet.drivers.probes import driver
from kci.kcilet.workers import machine, prober
from kci.kit import clock, logs, netns, tasks
from kci.kube import models

RATE = 1000
SECONDS = 20
NAMESPACES = 8
PROBES_OF_A_POD = 2
# Until all are under way.
WARM_UP_S = 2.0
PORT = 8080
# The other drivers.
_NO_PART = ("runtime", "volumes", "network", "cgroups", "logs", "streams", "stats")
_SERVER = """
import asyncio
class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
        self.transport.close()
async def main():
    server = await asyncio.get_running_loop().create_server(Answer, "0.0.0.0", %d, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()
import uvloop
uvloop.run(main())
"""


class _Timed:
    """The driver, and when it was asked for what."""

    def __init__(self, probes: ports.Probes) -> None:
        self._probes = probes
        self.begun: dict[ports.Check, list[float]] = {}
        self.failures = 0

    async def check(self, check: ports.Check, *, timeout_s: float) -> ports.CheckResult:
        self.begun.setdefault(check, []).append(time.monotonic())
        result = await self._probes.check(check, timeout_s=timeout_s)
        self.failures += not result.succeeded
        return result

    def leave(self, sandbox_id: ports.SandboxId) -> None:
        self._probes.leave(sandbox_id)


def measure(kind: str, *, rate: int = RATE, seconds: float = SECONDS) -> dict[str, object]:
    """`kind` is http or tcp. Milliseconds late, and CPU time of one probe in microseconds."""
    # Else each pod that becomes ready is told.
    logs.configure("warning")
    with _listeners() as namespaces:
        return uvloop.run(_measure(kind, namespaces, rate, seconds))


async def _measure(kind: str, namespaces: list[str], rate: int, seconds: float) -> dict[str, object]:
    async def open_network(sandbox_id: ports.SandboxId) -> netns.Namespace:
        return netns.Namespace(f"/run/netns/{namespaces[int(sandbox_id) % len(namespaces)]}")

    async def run_command(*_: object, timeout_s: float) -> ports.CommandResult:
        raise NotImplementedError

    timed = _Timed(driver.MachineProbes(run_command=run_command, open_network=open_network))
    drivers = machine.Drivers(probes=timed, **dict.fromkeys(_NO_PART, cast("Any", None)))
    ours = machine.Machine(drivers, clock=clock.SystemClock())
    async with tasks.Tasks() as group:
        pods = [_Pod(group, ours, number, kind) for number in range(rate // PROBES_OF_A_POD)]
        await asyncio.sleep(WARM_UP_S)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        for pod in pods:
            pod.prober.close()
    late_ms = []
    for times in timed.begun.values():
        # The grid is where the most punctual one was.
        lags_s = [at_s - number for number, at_s in enumerate(times)]
        in_time = [began_s <= at_s < began_s + took_s for at_s in times]
        late_ms += [
            (lag_s - min(lags_s)) * 1000 for lag_s, is_in in zip(lags_s, in_time, strict=True) if is_in
        ]
    done = len(late_ms)
    return {
        "kind": kind,
        "wanted_a_second": rate,
        "run_a_second": round(done / took_s, 1),
        "failures": timed.failures,
        "cpu_us_each": round(cpu_s / done * 1e6),
        "share_of_a_core": round(cpu_s / took_s, 2),
        "late_ms": _percentiles(late_ms),
        "periods_missed": sum(one >= 1000 for one in late_ms),
    }


class _Pod:
    def __init__(self, group: tasks.Tasks, ours: machine.Machine, number: int, kind: str) -> None:
        # Two probes that differ, so that each is found again.
        port = str(PORT)
        actions = [
            models.Probe(
                http_get=models.HTTPGetAction(path=f"/{number}/{which}", port=port, host="127.0.0.1"),
                period_seconds=1,
            )
            if kind == "http"
            else models.Probe(
                tcp_socket=models.TCPSocketAction(port=port, host=f"127.0.0.{which}"), period_seconds=1
            )
            for which in range(1, PROBES_OF_A_POD + 1)
        ]
        container = models.Container(name="app", readiness_probe=actions[0], liveness_probe=actions[1])
        pod = models.Pod(spec=models.PodSpec(containers=(container,)))
        record = ports.SeenContainer(
            ports.ContainerId(f"c{number}"),
            ports.SandboxId(str(number)),
            "app",
            0,
            ports.ContainerPhase.RUNNING,
            # From before our start: then the first probes are spread over their period.
            started_at_ns=1,
        )
        seen = ports.SeenPod(models.PodUid(str(number)), containers=(record,))
        self.prober = prober.Prober(group, ours, on_change=lambda: None, tell=lambda _: None)
        self.prober.follow(pod, seen, "127.0.0.1", is_ending=False)


@contextlib.contextmanager
def _listeners() -> Iterator[list[str]]:
    names = [f"kci-bench-{uuid.uuid4().hex[:6]}" for _ in range(NAMESPACES)]
    with contextlib.ExitStack() as stack:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
            argv = ["ip", "netns", "exec", name, sys.executable, "-c", _SERVER % PORT]
            server = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            stack.callback(server.kill)
            assert server.stdout is not None
            _ = server.stdout.readline()
        yield names


def _percentiles(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[math.ceil(share * len(ordered)) - 1], 1) for name, share in ranks.items()}


if __name__ == "__main__":
    logs.configure("warning")
    for each in ("http", "tcp"):
        print(json.dumps(measure(each)))
