"""A pod's network: how long the answer to the CNI plugin takes, and how long a changed security group.
`python bench/network.py` measures this alone; it needs root, and makes network namespaces of its own.

The kcilet's own driver answers on its own socket; what the plugin's process costs besides, and the runtime
around it, is not counted. A changed rule is measured from the change to the kernel's word that it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator

from kci.kcilet import ports
from kci.kcilet.drivers.network import server
from kci.kcilet.plan import firewall
from kci.kube import models
from kci.link import types as link

PODS = 200
ROWS = 20
CHANGES = 50
_HOLDER, _GATEWAY = "kcibench0", "10.9.0.1"
_INSIDE = "--inside"


def measure() -> dict[str, object]:
    """Milliseconds by percentile."""
    with _namespaces(1) as (machine,):
        for line in (
            f"-n {machine} link add {_HOLDER} type bridge",
            f"-n {machine} address add {_GATEWAY}/16 dev {_HOLDER}",
            f"-n {machine} link set {_HOLDER} up",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        argv = ["ip", "netns", "exec", machine, sys.executable, __file__, _INSIDE]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


async def _measure_inside() -> dict[str, object]:
    with _namespaces(PODS) as pods, tempfile.TemporaryDirectory() as folder:
        socket = pathlib.Path(folder, "cni.sock")
        async with server.open_network(socket, _HOLDER) as network:
            added, removed, wanted = [], [], []
            for number, pod in enumerate(pods):
                wanted.append(_wanted(number))
                uid, interface = models.PodUid(f"uid-{number}"), wanted[-1].group.interface
                network.expect(uid, interface, ports.NO_LIMITS)
                await network.guard(_plan(wanted, 443))
                added.append(await _ask(socket, "ADD", uid, pod))
            changed = []
            for number in range(CHANGES):
                began = time.perf_counter()
                await network.guard(_plan(wanted, 1000 + number))
                changed.append(time.perf_counter() - began)
            began = time.perf_counter()
            await network.guard(_plan(wanted[1:], 443))
            left = time.perf_counter() - began
            removed = [
                await _ask(socket, "DEL", models.PodUid(f"uid-{number}"), pod)
                for number, pod in enumerate(pods)
            ]
    return {
        "pods": PODS,
        "rows": ROWS,
        "add_ms": _percentiles(added),
        "add_of_last_ten_ms": _percentiles(added[-10:]),
        "delete_ms": _percentiles(removed),
        "changed_row_ms": _percentiles(changed),
        "one_member_less_ms": round(left * 1000, 1),
    }


def _plan(wanted: list[firewall.Wanted], port: int) -> ports.Firewall:
    rows = [
        link.SecurityGroupRule(
            direction=direction, protocol=link.Protocol.TCP, first_port=port + number, last_port=65535,
            cidr="10.0.0.0/8" if number % 2 else "", security_group_id="" if number % 2 else "sg",
        )
        for number in range(ROWS // 2)
        for direction in link.Direction
    ]  # fmt: skip
    return firewall.plan(wanted, [link.SecurityGroup(security_group_id="sg", rules=tuple(rows))])


def _wanted(number: int) -> firewall.Wanted:
    high, low = divmod(number + 2, 256)
    group = link.WantedGroup(
        group_id=f"g-{number}", generation=1, cluster=link.Cluster(cluster_id="c", kubeconfig=""),
        namespace="n", pod_name=f"p-{number}", security_group_ids=("sg",),
        interface=link.Interface(
            address=f"10.9.{high}.{low}", prefix_length=16, gateway=_GATEWAY,
            mac_address=f"02:00:00:00:{high:02x}:{low:02x}",
        ),
    )  # fmt: skip
    return firewall.Wanted(group, models.PodUid(f"uid-{number}"))


async def _ask(socket: pathlib.Path, command: str, uid: models.PodUid, netns: str) -> float:
    question = {
        "command": command, "container_id": f"box-{uid}", "netns": f"/run/netns/{netns}",
        "ifname": "eth0", "args": f"K8S_POD_UID={uid}",
    }  # fmt: skip
    began = time.perf_counter()
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(json.dumps(question).encode() + b"\n")
    answer = json.loads(await reader.readline())
    writer.close()
    assert "error" not in answer, answer
    return time.perf_counter() - began


@contextlib.contextmanager
def _namespaces(count: int) -> Iterator[list[str]]:
    names = [f"kci-bench-{uuid.uuid4().hex[:6]}" for _ in range(count)]
    with contextlib.ExitStack() as stack:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        yield names


def _percentiles(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 1) for name, share in ranks.items()
    }


if __name__ == "__main__":
    if _INSIDE in sys.argv:
        print(json.dumps(asyncio.run(_measure_inside())))
    else:
        print(json.dumps(measure(), indent=2))
