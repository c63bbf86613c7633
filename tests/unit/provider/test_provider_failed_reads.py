"""A read that fails, however it fails, is followed by no write (R09): real clients, servers on loopback.

One pod, and the group that runs it, from before this process: as long as both reads work there is nothing to
do, and when one does not, there is nothing that may be done.
"""

import asyncio
import contextlib
import itertools
import json

import pytest
from aiohttp import test_utils, web
from fakes import vnode_world

from kci.client import client as kci_clients
from kci.client import credentials
from kci.contract import capabilities, signing
from kci.kit import backoff, secret, tasks
from kci.kube import client as clients
from kci.kube import config, models, reflector, resources
from kci.provider import cloud
from kci.provider.plan import group
from kci.vnode import leadership, node, node_controller, pod_api, pod_controller

UID = "6f0c1a2b-0000-4000-8000-123456789abc"
# How long a client waits for an answer: on a busy machine the reads that are whole must not run into it, and
# the one that stalls must, soon.
LIMIT_S, STALLED_LIMIT_S = 5.0, 1.0
# From the failed read on: long enough for what a failure leads to.
LONG_ENOUGH_S = 1.2
ASKED_WITHIN_S = 60.0  # the world's own wait: what is not asked by then fails the test
AT_ONCE = 8
SOON = backoff.Backoff(initial_s=0.05, cap_s=0.1)
ALWAYS = {"capabilities", "watch groups", "list pods", "watch pods"}
READS = ("capabilities", "packages", "watch groups", "list groups", "list pods", "watch pods", "version")


async def _stalled(_request):
    await asyncio.sleep(60)


async def _reset(request):
    request.transport.abort()
    return web.Response()


async def _cut(request):
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"RequestId": "r", "items": [')
    request.transport.close()
    return response


async def _huge(request):
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            await response.write(b" " * 2**20)
    return response


def _says(status, body, **headers):
    async def answer(_request):
        return web.Response(status=status, text=body, headers=headers, content_type="application/json")

    return answer


FAULTS = {
    "stalled": _stalled,
    "reset": _reset,
    "cut": _cut,
    "200 MB": _huge,
    "401": _says(401, '{"kind": "Status", "code": 401, "reason": "Unauthorized"}'),
    "403": _says(
        403, '{"kind": "Status", "code": 403, "reason": "Forbidden", "Error": {"Code": "AccessDenied"}}'
    ),
    "404 of a proxy": _says(404, "<html>"),
    "429": _says(429, "{}", **{"Retry-After": "1"}),
    "500": _says(500, '{"RequestId": "r", "Error": {"Code": "InternalError", "Message": "x"}}'),
    "502": _says(502, "<html>"),
    "no JSON": _says(200, '{"items": [,]}'),
    "wrong types": _says(
        200, '{"RequestId": 5, "items": "none", "ContainerGroups": 7, "metadata": [], "kind": {}}'
    ),
}


class World:
    """Both servers; one of the reads answers with the fault, and writes are only noted."""

    def __init__(self, read, fault, **pod_changes):
        self._read, self._fault, self._pod_changes = read, fault, pod_changes
        self._limit_s = STALLED_LIMIT_S if fault is _stalled else LIMIT_S
        self.asked, self.writes = set(), []

    async def kci(self, request):
        form = await request.post()
        action = form["Action"]
        name = {
            "DescribeCapabilities": "capabilities",
            "DescribeKciPackages": "packages",
            "WatchContainerGroups": "watch groups",
            "DescribeContainerGroup": "list groups",
        }.get(action)
        if name is None:
            self.writes.append(action)
            return web.json_response({"RequestId": "r", "ContainerGroupId": "another"})
        labels = {"cluster-id": "c", "node-name": "vn", "pod-uuid": UID}
        found = {
            "ContainerGroupId": "g",
            "Status": "Running",
            "Labels": [{"Key": key, "Value": value} for key, value in labels.items()],
        }
        match name:
            case "capabilities":
                body = {"RequestId": "r", "Capabilities": list(capabilities.ALL)}
            case "packages":
                body = {"RequestId": "r", "Packages": [{"Cpu": 2, "Mem": [4]}]}
            case "list groups":
                body = {"RequestId": "r", "ContainerGroups": [found], "TotalCount": 1, "Marker": 0}
            case _:
                return await self._answer(name, request, [found, {"Synced": True}])
        return await self._answer(name, request, body)

    async def kube(self, request):
        if request.method != "GET":
            self.writes.append(f"{request.method} {request.path}")
            return web.json_response({"metadata": {"name": "web", "uid": UID}})
        if request.path == "/version":
            return await self._answer("version", request, {"gitVersion": "v1.36.3"})
        if request.query.get("watch"):
            bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "6"}}}
            return await self._answer("watch pods", request, [bookmark])
        pod = models.to_json_types(vnode_world.pod(UID)) | self._pod_changes
        return await self._answer(
            "list pods", request, {"metadata": {"resourceVersion": "5"}, "items": [pod]}
        )

    async def _answer(self, name, request, body):
        self.asked.add(name)
        if name == self._read:
            return await self._fault(request)
        if not isinstance(body, list):
            return web.json_response(body)
        response = web.StreamResponse()
        await response.prepare(request)
        for line in body:
            await response.write(json.dumps(line).encode() + b"\n")
        await asyncio.sleep(60)
        return response

    async def run(self):
        async with contextlib.AsyncExitStack() as stack:
            servers = []
            for handler in (self.kci, self.kube):
                server = test_utils.RawTestServer(handler, handler_cancellation=True)
                servers.append(await stack.enter_async_context(server))
            kci_url, kube_url = (f"http://127.0.0.1:{server.port}" for server in servers)
            keys = credentials.Static(signing.Credentials("key", secret.Secret("secret")))
            kci = await stack.enter_async_context(
                kci_clients.KciClient(
                    kci_url, region="r", credentials=keys, timeout_s=self._limit_s, read_attempts=1
                )
            )
            kube = await stack.enter_async_context(
                clients.Client(
                    config.ClusterConfig(server=kube_url),
                    timeout_s=self._limit_s,
                    watch_stall_s=self._limit_s,
                )
            )
            await self._run(kci, kube)

    async def _run(self, kci, kube):
        async def find_kubeconfig():
            return secret.Secret("k")

        right = leadership.Always()
        defaults = group.Defaults(cluster_id="c", node_name="vn", subnet_id="s", security_group_ids=("g",))
        made = cloud.KingsoftCloud(kci, defaults, right=right, find_kubeconfig=find_kubeconfig)
        controller = pod_controller.PodController(
            pod_provider=made,
            api=pod_api.ClusterPodApi(kube, node_name="vn", right=right),
            events=vnode_world.Cluster(),
            backoff=SOON,
        )
        pods = reflector.Reflector(kube, resources.PODS, on_change=controller.on_change, backoff=SOON)
        controller.watch(pods.objects, pods.synced)
        settings = node.NodeSettings(name="vn", address="127.0.0.1", kubelet_port=1, version="0")
        nodes = node_controller.NodeController(
            kube, settings, right=right, on_registered=lambda _: None, on_trouble=lambda *_: None
        )
        async with contextlib.AsyncExitStack() as stack:
            work = {"provider": made.run(), "pods": controller.run(), "pod watch": pods.run()}
            if self._read == "version":
                work["node"] = nodes.run()
            for name, coroutine in work.items():
                await stack.enter_async_context(tasks.background(name, coroutine))
            async with asyncio.timeout(ASKED_WITHIN_S):
                while not ({self._read} if self._read else ALWAYS) <= self.asked:  # noqa: ASYNC110  (a server's notes)
                    await asyncio.sleep(0.01)
            await asyncio.sleep(LONG_ENOUGH_S + (self._limit_s if self._fault is _stalled else 0))


@pytest.mark.requirement("R09", runs=len(READS) * len(FAULTS))
async def test_no_read_that_fails_leads_to_a_write():
    cases = list(itertools.product(READS, FAULTS))
    worlds = [World(read, FAULTS[fault]) for read, fault in cases]
    await tasks.wait_all((world.run() for world in worlds), name="world", limit=AT_ONCE)
    for (read, fault), world in zip(cases, worlds, strict=True):
        assert read in world.asked, (read, fault)
        assert world.writes == [], (read, fault)


async def test_the_same_world_without_a_fault_asks_all_that_is_always_asked_and_writes_nothing_either():
    world = World("", _reset)
    await world.run()
    assert world.writes == []


async def test_a_pod_that_cannot_be_read_is_not_gone_and_nothing_is_done_to_what_runs_it():
    world = World("", _reset, spec={"containers": "none"})
    await world.run()
    assert world.writes == []
