"""The kcilet as a node at a real API server: what it writes is taken, and leaves others' writes alone."""

import asyncio
import contextlib
import uuid

import msgspec
import pytest
from fakes import machine_world

from kci.kcilet.workers import agent, machine
from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import config, resources
from kci.link import types as link
from kci.source import cluster

WITHIN_S = 20
pytestmark = pytest.mark.integration


class Line:
    def __init__(self, admin, namespace, node, kubeconfig):
        self.admin = admin
        self.namespace = namespace
        self.node = node
        self.kubeconfig = kubeconfig
        self.runtime = machine_world.FakeRuntime()
        self.drivers = machine_world.drivers(self.runtime)
        self.agent = None

    async def add_pod(self, **spec):
        container = {"name": "app", "image": "app:1", "imagePullPolicy": "IfNotPresent"}
        body = {
            "metadata": {"name": "web"},
            "spec": {"nodeName": self.node, "containers": [container], **spec},
        }
        return await self.admin.create(resources.PODS, body, namespace=self.namespace)

    def group(self, pod):
        return msgspec.structs.replace(
            machine_world.group("web", pod.uid),
            cluster=link.Cluster(cluster_id="c", kubeconfig=self.kubeconfig),
            namespace=self.namespace,
            node_name=self.node,
        )

    async def pod(self):
        return await self.admin.get(resources.PODS, "web", namespace=self.namespace)

    async def until(self, holds):
        async with asyncio.timeout(WITHIN_S):
            while not holds(await self.pod()):  # noqa: ASYNC110  (the server is asked)
                await asyncio.sleep(0.01)
        return await self.pod()

    async def events(self):
        listing = await self.admin.list_all(resources.EVENTS, namespace=self.namespace)
        return [event.reason for event in listing.items]


class _End(Exception):  # noqa: N818  (no error: leaves the group of tasks)
    pass


@pytest.fixture
async def line(api_server, admin, namespace):
    node = f"vn-{uuid.uuid4().hex[:8]}"
    kubeconfig = config.render(api_server.node(node))
    async with clients.Client(api_server.node(node)) as own:
        addresses = [{"type": "InternalIP", "address": "192.168.0.1"}]
        await own.create(resources.NODES, {"metadata": {"name": node}, "status": {"addresses": addresses}})
    # Made by the controller manager, which is not here.
    ca = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "a certificate"}}
    await admin.create(resources.CONFIG_MAPS, ca, namespace=namespace)
    it = Line(admin, namespace, node, kubeconfig)
    with contextlib.suppress(_End):
        async with cluster.ClusterSources() as sources, tasks.Tasks() as group:
            ours = machine.Machine(it.drivers, clock=machine_world.LoopClock())
            it.agent = agent.Agent(ours, sources, group)
            group.run_forever("agent", it.agent.run())
            yield it
            raise _End
    it.runtime.close()


def is_ready(pod):
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions)


async def test_a_pods_whole_life_is_told_and_nothing_twice(line):
    pod = await line.add_pod()
    line.agent.sync((line.group(pod),))
    ready = await line.until(is_ready)
    # created: version 1; ours: one write.
    status = ready.status
    assert (status.phase, status.pod_ip, status.host_ip) == ("Running", "10.0.0.9", "192.168.0.1")
    assert status.qos_class == "BestEffort"
    assert ready.metadata.annotations["k8s.ksyun.com/kci-instance-id"] == "g-1"
    assert {one.type for one in status.conditions} == {
        "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled",
    }  # fmt: skip
    await asyncio.sleep(0.5)
    assert (await line.pod()).metadata.resource_version == ready.metadata.resource_version

    # Somebody else's condition stays, whatever we write later.
    gate = {"status": {"conditions": [{"type": "example.com/gate", "status": "True"}]}}
    await line.admin.patch(resources.PODS, "web", gate, namespace=line.namespace, subresource="status",
                           patch_type=clients.PatchType.STRATEGIC)  # fmt: skip
    line.runtime.exit("app", 1)
    restarted = await line.until(lambda one: one.status.container_statuses[0].restart_count == 1)
    assert any(one.type == "example.com/gate" for one in restarted.status.conditions)
    assert restarted.status.container_statuses[0].last_state.terminated.exit_code == 1
    await line.until(is_ready)

    await line.admin.delete(resources.PODS, "web", namespace=line.namespace)
    ended = await line.until(lambda one: one.status.phase in {"Succeeded", "Failed"})
    assert ended.status.container_statuses[0].state.terminated is not None
    known, report = 0, line.agent.reports.get("g-1")
    while report.phase is not link.Phase.GONE:
        known, reports = await line.agent.reports.after(known, timeout_s=WITHIN_S)
        report = reports[-1]
    # Events are told some time soon, by and by.
    async with asyncio.timeout(WITHIN_S):
        while not {"Pulled", "Created", "Started", "Killing"} <= set(await line.events()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_foreign_overwrite_is_put_right(line):
    pod = await line.add_pod()
    line.agent.sync((line.group(pod),))
    await line.until(is_ready)
    wrong = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    await line.admin.patch(resources.PODS, "web", wrong, namespace=line.namespace, subresource="status",
                           patch_type=clients.PatchType.STRATEGIC)  # fmt: skip
    await line.until(is_ready)


async def test_a_token_of_the_pods_service_account_is_its_own(line):
    pod = await line.add_pod()
    sources_pod = line.agent._sources.join(line.group(pod), lambda: None)
    token = await sources_pod.token(pod, audience="", expiration_s=3600)
    user = await line.admin.review_token(token)
    assert user.name == f"system:serviceaccount:{line.namespace}:default"
    sources_pod.leave()
