"""Measure the line on this machine: `make bench`. Nothing here is a test; nothing timed is asserted.

One run starts a stack of its own in a network namespace of its own, and measures in that order:

    up            `kci up --detach`, warm cache, until it says ready (and the node's start -> Ready)
    floor         the same pods on a node that only writes the status: scheduler + API server alone
    start         create -> Ready on a watch, one pod at a time at random phases, default pod (token volume)
    exit          SIGKILL of the container's process -> `state.terminated` on a watch, and the final phase
    delete        delete with default grace -> object gone (the process exits at once on TERM)
    burst         50 pods at once until all are Ready
    streams       kubectl exec, cp both ways and port-forward (bench/streams.py)
    bandwidth     how much of a limit of its traffic a pod gets (bench/bandwidth.py)
    network       a pod's network through the CNI socket, and a changed security group (bench/network.py)
    probes        1000 probes a second, HTTP and TCP: how late, and what one costs (bench/probes.py)
    services      1000 Services x 3 endpoints: first rules, and a change in the kernel (bench/services.py)
    sizes         what it costs to choose a pod's size, in microseconds (bench/sizes.py)
    running       memory with 200 pods, their adoption by a restarted kcilet, and how soon a restarted node is
                  Ready (bench/restart.py)
    crowd         the start of a pod with kube-proxy on among 1000 Services, and the row above with 200 such
                  pods (bench/crowd.py)
    memory        resident memory and CPU of our own programs, idle
    kubelet       with --kubelet: start to streams again, on a node with a real one (bench/kubelet.py)

Milliseconds; nearest-rank percentiles. The result is a JSON file in bench/results and a table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import datetime
import functools
import json
import math
import os
import pathlib
import platform
import random
import signal
import sys
import tempfile
import time
import uuid

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "harness"))

import bandwidth  # noqa: E402
import crowd  # noqa: E402
import kubelet  # noqa: E402
import line as lines  # noqa: E402
import network  # noqa: E402
import probes  # noqa: E402
import restart  # noqa: E402
import services  # noqa: E402
import sizes  # noqa: E402
import streams  # noqa: E402

from kci.kit import tasks  # noqa: E402
from kci.kube import client as kube_client  # noqa: E402
from kci.kube import config as kube_config  # noqa: E402
from kci.kube import errors as kube_errors  # noqa: E402
from kci.kube import resources  # noqa: E402

CLONE_NEWNET = 0x40000000
FLOOR_NODE = "bench-floor"
SERVICES, RUNNING = 1000, 200
FINAL = frozenset({"Succeeded", "Failed"})
ON_FLOOR = {"nodeSelector": {"bench": "floor"}, "tolerations": [{"operator": "Exists"}]}
# Ends at once when it is told to.
PROMPT = {"command": ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]}


def percentiles(samples_ms: list[float]) -> dict[str, float]:
    ordered = sorted(samples_ms)

    def rank(share: float) -> float:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)

    return {
        "n": len(ordered),
        "p50": rank(0.5),
        "p90": rank(0.9),
        "p99": rank(0.99),
        "max": round(ordered[-1], 1),
    }


class Watcher:
    """All pods of the default namespace, as a user's watch sees them, with the time of each sight."""

    def __init__(self, client: kube_client.Client) -> None:
        self._client = client
        self._changed = asyncio.Event()
        self.pods: dict[str, object] = {}
        # Writes to each pod from being bound to being Ready, as the watch shows them.
        self.writes: dict[str, int] = {}
        # The phase of each pod in the first event that shows one of its containers terminated.
        self.phase_at_exit: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled: a watch that ends would make everything look stuck."""
        while True:
            await self._watch()

    async def _watch(self) -> None:
        listing = await self._client.list_all(resources.PODS, namespace="default")
        async for event in self._client.watch(
            resources.PODS, namespace="default", resource_version=listing.resource_version, timeout_s=3000
        ):
            if not isinstance(event, kube_client.WatchEvent):
                continue
            name = event.object.metadata.name
            if event.kind is kube_client.EventKind.DELETED:
                self.pods.pop(name, None)
            else:
                if event.object.spec.node_name and not is_ready(self.pods, name):
                    self.writes[name] = self.writes.get(name, -1) + 1
                self.pods[name] = event.object
                if is_terminated(self.pods, name):
                    self.phase_at_exit.setdefault(name, event.object.status.phase)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def until(self, look, *, timeout_s: float = 60.0) -> float:
        """Wait until `look(pods)` holds; the monotonic time of that moment."""
        try:
            async with asyncio.timeout(timeout_s):
                while not look(self.pods):
                    await self._changed.wait()
        except TimeoutError:
            waiting = {name: pod.status for name, pod in self.pods.items() if not is_ready(self.pods, name)}
            raise SystemExit(f"not within {timeout_s} s; pods that are not ready: {waiting}") from None
        return time.monotonic()


def is_ready(pods, name: str) -> bool:
    pod = pods.get(name)
    return pod is not None and any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def is_terminated(pods, name: str) -> bool:
    pod = pods.get(name)
    return pod is not None and any(s.state.terminated for s in pod.status.container_statuses)


def has_ended(pods, name: str) -> bool:
    return name in pods and pods[name].status.phase in FINAL


async def create(client, body) -> float:
    started = time.monotonic()
    await client.create(resources.PODS, body, namespace="default")
    return started


async def bench_start(
    client, watcher, *, count: int, pod, prefix: str = "start"
) -> tuple[list[float], list[float]]:
    """Start times and delete times of pods made one at a time, at random phases of any clock."""
    starts, deletes = [], []
    for number in range(count):
        name = f"{prefix}-{uuid.uuid4().hex[:6]}-{number}"
        await asyncio.sleep(random.random())  # the phase
        began = await create(client, pod(name, container=PROMPT))
        starts.append((await watcher.until(lambda pods, name=name: is_ready(pods, name)) - began) * 1000)
        await asyncio.sleep(random.random() / 2)
        began = time.monotonic()
        await client.delete(resources.PODS, name, namespace="default")
        deletes.append((await watcher.until(lambda pods, name=name: name not in pods) - began) * 1000)
    return starts, deletes


def find_process(mark: str) -> int:
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
            except OSError:
                continue
    raise LookupError(mark)


async def bench_exit(client, watcher, *, count: int, pod) -> dict[str, object]:
    """A process that the bench's own pod runs is killed; how long until a watch shows that the container is
    terminated, how long until it shows the pod's final phase, and how often one event brought both.
    """
    times, phases, together = [], [], 0
    for number in range(count):
        name, mark = f"exit-{uuid.uuid4().hex[:6]}-{number}", str(random.randint(10**6, 10**7))
        await create(client, pod(name, container={"command": ["sleep", mark]}, restartPolicy="Never"))
        await watcher.until(lambda pods, name=name: is_ready(pods, name))
        await asyncio.sleep(random.random())
        pid = await asyncio.to_thread(find_process, mark)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        times.append((await watcher.until(lambda pods, name=name: is_terminated(pods, name)) - began) * 1000)
        phases.append((await watcher.until(lambda pods, name=name: has_ended(pods, name)) - began) * 1000)
        together += watcher.phase_at_exit[name] in FINAL
        await client.delete(resources.PODS, name, namespace="default")
        await watcher.until(lambda pods, name=name: name not in pods)
    return {
        "exit_ms": percentiles(times),
        "exit_phase_ms": percentiles(phases),
        "exit_phase_in_same_write": {"n": count, "same": together},
    }


async def bench_burst(client, watcher, *, count: int, pod) -> dict[str, float]:
    names = [f"burst-{uuid.uuid4().hex[:6]}-{number}" for number in range(count)]
    began = time.monotonic()
    await tasks.wait_all(
        [create(client, pod(name, container=PROMPT)) for name in names],
        name="burst",
    )
    times = []
    for done in range(1, count + 1):
        moment = await watcher.until(
            lambda pods, done=done: sum(is_ready(pods, n) for n in names) >= done, timeout_s=180
        )
        times.append((moment - began) * 1000)
    for name in names:
        await client.delete(resources.PODS, name, namespace="default", grace_period_s=1)
    gone = await watcher.until(lambda pods: not any(n in pods for n in names), timeout_s=180)
    return {
        **percentiles(times),
        "all_ready_ms": round(times[-1], 1),
        "pods_per_s": round(count / times[-1] * 1000, 1),
        "until_gone_s": round(gone - began, 1),
    }


async def floor_node(client) -> None:
    """A node that does nothing but write the status of its pods once: what no node can beat."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {
        "type": "Ready",
        "status": "True",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
        "reason": "Bench",
        "message": "",
    }
    resources_of_node = {"cpu": "100", "memory": "100Gi", "pods": "1000"}
    await client.create(
        resources.NODES,
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": FLOOR_NODE, "labels": {"bench": "floor"}},
            "status": {
                "conditions": [ready],
                "capacity": resources_of_node,
                "allocatable": resources_of_node,
            },
        },
    )
    listing = await client.list_all(resources.PODS, field_selector=f"spec.nodeName={FLOOR_NODE}")
    async for event in client.watch(
        resources.PODS,
        field_selector=f"spec.nodeName={FLOOR_NODE}",
        resource_version=listing.resource_version,
        timeout_s=3000,
    ):
        if not isinstance(event, kube_client.WatchEvent):
            continue
        pod = event.object
        if event.kind is kube_client.EventKind.DELETED:
            continue
        meta = pod.metadata
        if meta.deletion_timestamp is not None:
            with contextlib.suppress(kube_errors.NotFoundError):  # one more event of a deleted pod
                await client.delete(resources.PODS, meta.name, namespace=meta.namespace, grace_period_s=0)
        elif pod.status.phase != "Running":
            condition = {"status": "True", "lastTransitionTime": now}
            patch = {
                "metadata": {"uid": meta.uid},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", **condition}, {"type": "PodScheduled", **condition}],
                },
            }
            await client.patch(
                resources.PODS, meta.name, patch, namespace=meta.namespace, subresource="status"
            )


def memory_of(status: dict) -> dict[str, dict[str, float]]:
    """Resident MiB, and share of a core over five idle seconds, of each part with a process."""
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu_s(pid: int) -> float:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    parts = {part["name"]: part["pid"] for part in status["parts"] if part.get("pid")}
    before = {name: cpu_s(pid) for name, pid in parts.items()}
    time.sleep(5)
    result = {}
    for name, pid in parts.items():
        rss = next(
            int(row.split()[1])
            for row in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            if row.startswith("VmRSS")
        )
        result[name] = {
            "rss_mib": round(rss / 1024, 1),
            "cpu_percent": round((cpu_s(pid) - before[name]) / 5 * 100, 1),
        }
    return result


@contextlib.asynccontextmanager
async def watching(stack: lines.Line):
    async with kube_client.Client(kube_config.load(stack.kubeconfig)) as client:
        watcher = Watcher(client)
        async with tasks.background("watch", watcher.run()):
            await asyncio.sleep(1)
            yield client, watcher


async def measure_node(stack: lines.Line, client, watcher, *, count: int, pod) -> dict:
    """What any node can be asked for; `pod` makes a pod for it, as lines.pod does for the virtual node."""
    await bench_start(client, watcher, count=3, pod=pod, prefix="warm")
    starts, deletes = await bench_start(client, watcher, count=count, pod=pod)
    exits = await bench_exit(client, watcher, count=max(10, count // 2), pod=pod)
    writes = [found for name, found in watcher.writes.items() if name.startswith("start-")]
    burst = await bench_burst(client, watcher, count=50, pod=pod)
    streamed = await asyncio.to_thread(streams.measure, stack, execs=max(10, count // 4), pod=pod)
    return {
        "start_ms": percentiles(starts),
        **exits,
        "delete_ms": percentiles(deletes),
        "burst_50": burst,
        "status_writes": {"n": len(writes), "mean": round(sum(writes) / len(writes), 2), "max": max(writes)},
        "exec_ms": percentiles(streamed.pop("exec_ms")),
        **streamed,
    }


async def bench_crowd(stack, client, watcher, *, services: int, pods: int, starts: int) -> dict:
    """Pods that reach Services: one at a time, and many that a restarted kcilet and node find again."""
    began = time.monotonic()
    async with crowd.services(client, services):
        made_s = round(time.monotonic() - began, 1)
        await bench_start(client, watcher, count=3, pod=crowd.pod, prefix="warm")
        times, _ = await bench_start(client, watcher, count=starts, pod=crowd.pod, prefix="proxied")
        running = await restart.measure(stack, client, watcher, count=pods, container=PROMPT, pod=crowd.pod)
    return {
        "start_proxied_ms": percentiles(times),
        "running_proxied": {"services": services, "services_made_s": made_s, **running},
    }


async def measure(stack: lines.Line, count: int) -> dict:
    async with watching(stack) as (client, watcher), tasks.background("floor", floor_node(client)):
        on_floor = functools.partial(lines.pod, **ON_FLOOR)
        await bench_start(client, watcher, count=3, pod=on_floor, prefix="warm")
        floor, _ = await bench_start(client, watcher, count=count // 2, pod=on_floor, prefix="floor")
        ours = await measure_node(stack, client, watcher, count=count, pod=lines.pod)
        running = await restart.measure(stack, client, watcher, count=RUNNING, container=PROMPT)
        crowded = await bench_crowd(stack, client, watcher, services=SERVICES, pods=RUNNING, starts=count)
        await client.delete(resources.NODES, FLOOR_NODE)
    floor_ms = percentiles(floor)
    return {
        "floor_ms": floor_ms,
        "start_over_floor": round(ours["start_ms"]["p50"] / floor_ms["p50"], 2),
        **ours,
        "running": running,
        **crowded,
    }


async def measure_kubelet(stack: lines.Line, count: int) -> dict:
    async with watching(stack) as (client, watcher):
        return await measure_node(stack, client, watcher, count=count, pod=kubelet.pod)


def show(result: dict) -> None:
    print(f"\nstack up {result['up_s']} s; {result['machine']}")
    print(f"{'':20}{'n':>5}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}  ms")
    measured = {"": result} | ({", kubelet": result["kubelet"]} if "kubelet" in result else {})
    for name in (
        "floor_ms",
        "start_ms",
        "start_proxied_ms",
        "exit_ms",
        "exit_phase_ms",
        "delete_ms",
        "exec_ms",
        "burst_50",
    ):
        for whose, figures in measured.items():
            if name in figures:
                row = "".join(f"{figures[name][column]:>9}" for column in ("p50", "p90", "p99", "max"))
                print(f"{name.removesuffix('_ms') + whose:20}{figures[name]['n']:>5}{row}")
    print(f"start / floor (p50): {result['start_over_floor']}")
    for whose, figures in measured.items():
        print(f"burst{whose}: {figures['burst_50']['pods_per_s']} pods/s")
        print(f"phase in the write that tells the exit{whose}: {figures['exit_phase_in_same_write']}")
        print(f"status writes from bound to Ready{whose}: {figures['status_writes']}")
        for name in ("cp_to_pod_mb_s", "cp_from_pod_mb_s", "port_forward_mb_s"):
            print(f"{name.removesuffix('_mb_s').replace('_', ' ')}{whose}: {figures[name]} MB/s")
    print(f"running: {result['running']}")
    print(f"running, with kube-proxy: {result['running_proxied']}")
    for figures in result["probes"]:
        print(f"probes: {figures}")
    for row in result["bandwidth"]["share_of_limit"]:
        print(f"limit of {row['limit'] / 1e6:g} Mbit/s, share got: in {row['in']:.1%}, out {row['out']:.1%}")
    print(f"network: {result['network']}")
    print(f"services: {result['services']}")
    print(f"choosing a size, us a pod: {result['size_us']}")
    for name, row in result["idle"].items():
        print(f"  {name:26}{row['rss_mib']:>8} MiB {row['cpu_percent']:>6} %")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50, help="pods started one at a time")
    parser.add_argument(
        "--kubelet", action="store_true", help="a real kubelet too, after ours; built once, in minutes"
    )
    parser.add_argument("--audit", action="store_true", help="with the audit log, to see what it costs")
    arguments = parser.parse_args()
    programs = kubelet.fetch() if arguments.kubelet else None
    name = f"kci-bench-{uuid.uuid4().hex[:6]}"
    stack = lines.Line(netns=name, state_dir=pathlib.Path(tempfile.gettempdir()) / name)
    try:
        stack.kci("up", "--detach", "--netns", name, timeout_s=1800)  # builds what is missing
        stack.kci("down")
        began = time.monotonic()
        stack.kci("up", "--detach", "--netns", name, *(["--audit"] if arguments.audit else []))
        up_s = round(time.monotonic() - began, 1)
        status = json.loads(stack.kci("status", "-o", "json"))
        with pathlib.Path(f"/run/netns/{name}").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        result = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.platform()}",
            "audit": arguments.audit,
            "up_s": up_s,
            "parts": {part["name"]: part.get("started_in_s") for part in status["parts"]},
            **asyncio.run(measure(stack, arguments.count)),
            "probes": [probes.measure(kind) for kind in ("http", "tcp")],
            "bandwidth": bandwidth.measure(),
            "network": network.measure(),
            "services": services.measure(),
            "size_us": sizes.measure(),
            # Asked again: the kcilet is another process since.
            "idle": memory_of(json.loads(stack.kci("status", "-o", "json"))),
        }
        if programs:
            with kubelet.node(stack, programs):
                result["kubelet"] = asyncio.run(measure_kubelet(stack, arguments.count))
    finally:
        stack.kci("down", "--purge", check=False)
    folder = REPOSITORY / "bench" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['at'].replace(':', '')}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    print(f"written: {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
