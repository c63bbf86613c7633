"""What many running pods cost, and how soon a restarted kcilet knows them all again and a restarted node is
Ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import time
import uuid

import aiohttp
import line as lines

from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import resources

WITHIN_S = 120
NODE = "virtual-kubelet"


async def measure(
    stack: lines.Line, client: clients.Client, watcher, *, count: int, container, pod=lines.pod
) -> dict:
    """Resident MiB of our programs with `count` pods; seconds from SIGKILL of the kcilet until it has
    reported all of them as running again; what it takes to ask what they use; seconds from the start of a
    virtual node's process, the one before it killed, until its node object is renewed and Ready; how many
    pods were written because of both.
    """
    names = [f"run-{uuid.uuid4().hex[:6]}-{number}" for number in range(count)]
    for name in names:
        await client.create(resources.PODS, pod(name, container=container), namespace="default")
    for done in range(1, count + 1, 10):
        await watcher.until(lambda pods, done=done: _ready(pods, names) >= done, timeout_s=300)
    await watcher.until(lambda pods: _ready(pods, names) == count, timeout_s=300)
    memory = {part: _rss_mib(stack, part) for part in ("virtual-kubelet", "kci-service", "kcilet")}
    usage = await _usage(client)
    before = {name: watcher.pods[name].metadata.resource_version for name in names}
    began = time.monotonic()
    stack.kill("kcilet")
    await _all_reported(stack, count)
    adopted_s = round(time.monotonic() - began, 2)
    node_ready_s = await _node_ready_s(stack, client)
    await asyncio.sleep(5)
    written = sum(watcher.pods[name].metadata.resource_version != before[name] for name in names)
    for name in names:
        await client.delete(resources.PODS, name, namespace="default", grace_period_s=1)
    await watcher.until(lambda pods: not any(name in pods for name in names), timeout_s=300)
    return {
        "pods": count,
        "rss_mib": memory,
        "usage": usage,
        "adopted_s": adopted_s,
        "node_ready_s": node_ready_s,
        "status_writes_by_restarts": written,
    }


async def _usage(client: clients.Client) -> dict:
    """How long /stats/summary takes through the API server, read anew and out of what is kept."""
    path = f"/api/v1/nodes/{NODE}/proxy/stats/summary"
    read_ms, kept_ms, body = [], [], b""
    for _ in range(5):
        # Longer than all on the way keep it (vnode/usage/keeper.py and those behind it).
        await asyncio.sleep(8)
        for took_ms in (read_ms, kept_ms):
            began = time.monotonic()
            body = await client.request("GET", path)
            took_ms.append(round(1000 * (time.monotonic() - began), 1))
    pods = len(json.loads(body)["pods"])
    return {"pods": pods, "kib": len(body) >> 10, "read_ms": sorted(read_ms), "kept_ms": sorted(kept_ms)}


async def _node_ready_s(stack: lines.Line, client: clients.Client) -> float:
    listing = await client.list_all(resources.NODES, field_selector=f"metadata.name={NODE}")
    watch = client.watch(
        resources.NODES,
        field_selector=f"metadata.name={NODE}",
        resource_version=listing.resource_version,
        timeout_s=WITHIN_S,
    )
    killed = await tasks.in_thread(stack.kill, "virtual-kubelet")
    async for event in watch:
        if not isinstance(event, clients.WatchEvent):
            continue
        # A node that was killed writes no more, so this is the new one's first word.
        if any(one.type == "Ready" and one.status == "True" for one in event.object.status.conditions):
            now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            process = await tasks.in_thread(stack.wait_back, "virtual-kubelet", killed)
            return round(now_s - process.start_ticks / os.sysconf("SC_CLK_TCK"), 2)
    raise SystemExit("the node was not Ready again")


def _ready(pods, names) -> int:
    return sum(
        any(one.type == "Ready" and one.status == "True" for one in pods[name].status.conditions)
        for name in names
        if name in pods
    )


def _rss_mib(stack: lines.Line, part: str) -> float:
    rows = pathlib.Path(f"/proc/{stack.process(part).pid}/status").read_text().splitlines()
    return round(next(int(row.split()[1]) for row in rows if row.startswith("VmRSS")) / 1024, 1)


async def _all_reported(stack: lines.Line, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                running = set()
                connector = aiohttp.UnixConnector(str(stack.where.kcilet_socket))
                async with (
                    aiohttp.ClientSession(connector=connector) as session,
                    session.get("http://kcilet/v1/reports") as answer,
                ):
                    async for row in answer.content:
                        report = json.loads(row) if row.strip() else {}
                        if report.get("phase") == "Running":
                            running.add(report["group_id"])
                        if len(running) >= count:
                            return
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.05)
