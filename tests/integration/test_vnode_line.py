"""The virtual node on a real API server, as a node under NodeRestriction, and a real KCI service."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import socket
import time

import aiohttp
import pytest
import service_world
from fakes import kubelet_peers

from kci.kit import channels, tasks
from kci.kit import errors as kit_errors
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import errors, models, resources, transport
from kci.provider import annotations, main, settings
from kci.vnode import node as node_module

pytestmark = pytest.mark.integration

WITHIN_S = 20
READY_WITHIN_S = 10


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclasses.dataclass
class Line:
    name: str
    service: service_world.World
    admin: clients.Client
    settings: settings.Settings
    config: object
    authority: kubelet_peers.Authority
    api_server: object

    @contextlib.asynccontextmanager
    async def running(self, settings=None):
        stop = asyncio.Event()
        async with tasks.Tasks() as group:
            program = group.spawn("virtual-kubelet", main.run(settings or self.settings, self.config, stop))
            try:
                yield
            finally:
                stop.set()
        assert program.result() == 0

    async def until(self, look, wanted):
        """Ask until the answer is as wanted; NotFound is the answer None."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    found = await look()
                except errors.NotFoundError:
                    found = None
                if wanted(found):
                    return found
                await asyncio.sleep(0.005)

    async def node(self):
        return await self.admin.get(resources.NODES, self.name)

    async def groups(self, count):
        return await self.until(self.service.alice.list_container_groups, lambda found: len(found) == count)

    async def until_running(self):
        await self.until(
            self.service.alice.list_container_groups,
            lambda found: [group.status for group in found] == ["Running"],
        )

    async def bind(self, namespace, name="web", **spec):
        container = {"name": "c", "image": "nginx:latest"}
        body = {
            "metadata": {"name": name},
            "spec": {"nodeName": self.name, "containers": [container], **spec},
        }
        return await self.admin.create(resources.PODS, body, namespace=namespace)

    def kubelet(self, config):
        context = transport.tls_context(config)
        context.load_verify_locations(cafile=str(self.authority.ca_file))
        return aiohttp.ClientSession(
            f"https://127.0.0.1:{self.settings.kubelet_port}", connector=aiohttp.TCPConnector(ssl=context)
        )


def is_ready(node):
    return node is not None and any(
        condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions
    )


@pytest.fixture
async def line(api_server, admin, tmp_path, request):
    name = f"vn-{time.time_ns()}"
    authority = kubelet_peers.Authority(tmp_path / "pki")
    certificate, key = authority.issue(name, "system:nodes", server_names=("127.0.0.1",), client=False)
    client_ca = tmp_path / "client-ca.crt"
    client_ca.write_text(api_server.ca_pem)
    async with service_world.running(pathlib.Path(tmp_path)) as service:
        found = settings.parse(
            [
                f"--nodename={name}",
                "--cluster-dns=198.18.0.10",
                f"--client-ca-file={client_ca}",
                f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={key}",
            ],
            {
                "VKUBELET_POD_IP": "127.0.0.1",
                "KUBELET_PORT": str(free_port()),
                "KCI_ACCESS_KEY": service_world.ALICE.access_key,
                "KCI_SECRET_KEY": service_world.ALICE.secret_key.reveal(),
                "KCI_REGION": service_world.REGION,
                "KCI_CLUSTER_ID": "c1",
                "KCI_SUBNET_ID": service_world.SUBNET_ID,
                "KCI_SECURITY_GROUP_IDS": service_world.SECURITY_GROUP_ID,
                "KCI_CLUSTER_SERVER": f"127.0.0.1:{api_server.port}",
                "KCI_ENDPOINT": f"http://{service.endpoint}",
                "KUBERNETES_SERVICE_HOST": "198.18.0.1",
            },
        )
        yield Line(name, service, admin, found, api_server.node(name), authority, api_server)
        with contextlib.suppress(errors.NotFoundError):
            await admin.delete(resources.NODES, name)


async def test_the_node_is_ready_soon_and_as_the_guide_shows_it(line, record_property):
    began = time.monotonic()
    async with line.running():
        node = await line.until(line.node, is_ready)
        record_property("ready_s", round(time.monotonic() - began, 3))
        assert time.monotonic() - began < READY_WITHIN_S
        assert node.metadata.labels["type"] == "virtual-kubelet"
        assert node.metadata.labels["kubernetes.io/hostname"] == line.name
        assert node.status.node_info["kubeletVersion"].endswith("-vk-v0.1.0")
        assert ("virtual-kubelet.io/provider", "NoSchedule") in {
            (taint.key, taint.effect) for taint in node.spec.taints
        }
        raw = await line.admin.request("GET", f"/api/v1/nodes/{line.name}")
        assert b"ExtendWebSocketsToKubelet" in raw
        lease = await line.until(
            lambda: line.admin.get(resources.LEASES, line.name, namespace="kube-node-lease"),
            lambda found: found is not None and found.metadata.owner_references,
        )
        assert lease.metadata.owner_references[0].uid == node.metadata.uid
        await line.admin.delete(resources.NODES, line.name)
        again = await line.until(line.node, is_ready)
        assert again.metadata.uid != node.metadata.uid


async def test_a_bound_pod_becomes_a_group_and_leaves_with_it(line, namespace):
    async with line.running():
        pod = await line.bind(namespace)
        (group,) = await line.groups(1)
        assert group.label("pod-uuid") == pod.uid
        await line.until_running()
        (wanted,) = line.service.kcilet.wanted.values()
        assert (wanted.namespace, wanted.pod_name) == (namespace, "web")
        assert f"https://127.0.0.1:{line.api_server.port}" in wanted.cluster.kubeconfig
        await line.admin.delete(resources.PODS, "web", namespace=namespace)
        await line.until(
            lambda: line.admin.get(resources.PODS, "web", namespace=namespace), lambda found: found is None
        )
        await line.groups(0)


@pytest.mark.requirement("R26")
async def test_of_two_copies_one_acts_and_the_other_takes_over_when_it_stops(line, namespace):
    async def lease():
        return (await line.admin.get(resources.LEASES, line.name, namespace="kube-node-lease")).spec

    first = dataclasses.replace(line.settings, identity="first")
    second = dataclasses.replace(line.settings, identity="second", kubelet_port=free_port())
    async with contextlib.AsyncExitStack() as stack:
        async with line.running(first):
            await line.until(lease, lambda found: found is not None and found.holder_identity == "first")
            await stack.enter_async_context(line.running(second))
            pod = await line.bind(namespace)
            (group,) = await line.groups(1)
            assert (await lease()).lease_transitions == 1
        found = await line.until(lease, lambda found: found.holder_identity == "second")
        assert found.lease_transitions == 2
        assert [one.container_group_id for one in await line.groups(1)] == [group.container_group_id]
        await line.admin.delete(resources.PODS, "web", namespace=namespace, uid=pod.uid)
        await line.groups(0)


async def test_a_restart_changes_nothing_and_finds_what_was_deleted_meanwhile(line, namespace):
    async with line.running():
        await line.bind(namespace, "kept")
        await line.bind(namespace, "leaving")
        before = await line.groups(2)
    await line.admin.delete(resources.PODS, "leaving", namespace=namespace, grace_period_s=0)
    async with line.running():
        (kept,) = await line.groups(1)
        assert kept.container_group_id in {group.container_group_id for group in before}
        assert kept.label("pod-name") == "kept"


async def test_a_refused_pod_stays_pending_and_says_why(line, namespace):
    async with line.running():
        await line.bind(namespace, hostNetwork=True)
        pod = await line.until(
            lambda: line.admin.get(resources.PODS, "web", namespace=namespace),
            lambda found: found.status.reason,
        )
        assert (pod.status.phase, pod.status.reason) == ("Pending", "HostNetworkNotSupported")
        assert "spec.hostNetwork" in pod.status.message
        listing = await line.until(
            lambda: line.admin.list_all(resources.EVENTS, namespace=namespace), lambda found: found.items
        )
        assert [event.reason for event in listing.items] == ["HostNetworkNotSupported"]
        await line.admin.delete(resources.PODS, "web", namespace=namespace)
        await line.until(
            lambda: line.admin.get(resources.PODS, "web", namespace=namespace), lambda found: found is None
        )
        assert await line.groups(0) == []


async def test_exec_goes_all_the_way_and_only_for_whom_the_cluster_allows(line, namespace):
    path = f"/exec/{namespace}/web/c?command=cat&input=1&output=1"
    async with line.running():
        await line.bind(namespace)
        await line.until_running()
        async with line.kubelet(line.api_server.user("stranger")) as session, session.get(path) as response:
            assert response.status == 403
        async with (
            line.kubelet(line.api_server.admin) as session,
            session.ws_connect(path, protocols=(channels.V5,)) as stream,
        ):
            await stream.send_bytes(channels.frame(channels.Channel.STDIN, b"hello"))
            await stream.send_bytes(channels.close_frame(channels.Channel.STDIN))
            async with asyncio.timeout(WITHIN_S):
                messages = [message.data async for message in stream]
        assert channels.frame(channels.Channel.STDOUT, b"hello") in messages
        assert channels.parse_status(messages[-1][1:])[0] == 0


@pytest.mark.guide("config taints", "config capacity", "config customLabels")
async def test_the_files_settings_show_on_the_node_and_other_taints_later_are_an_event(line):
    taint = models.Taint(key="example.com/only", value="mine", effect="NoSchedule")
    first = dataclasses.replace(
        line.settings,
        taints=(taint,),
        labels={"team": "a", "topology.kubernetes.io/zone": "z"},
        capacity={**line.settings.capacity, "pods": "7"},
    )
    async with line.running(first):
        node = await line.until(line.node, is_ready)
        assert taint in node.spec.taints
        assert (node.metadata.labels["team"], node.metadata.labels["topology.kubernetes.io/zone"]) == (
            "a",
            "z",
        )
        raw = json.loads(await line.admin.request("GET", f"/api/v1/nodes/{line.name}"))
        assert raw["status"]["capacity"]["pods"] == raw["status"]["allocatable"]["pods"] == "7"
    other = dataclasses.replace(first, taints=(node_module.DEFAULT_TAINT,), labels={"team": "b"})
    async with line.running(other):
        changed = await line.until(line.node, lambda found: found.metadata.labels["team"] == "b")
        # NodeRestriction lets no node change its own.
        assert taint in changed.spec.taints
        assert node_module.DEFAULT_TAINT not in changed.spec.taints
        told = await line.until(
            lambda: line.admin.request(
                "GET",
                f"/api/v1/events?fieldSelector=involvedObject.name={line.name},reason=TaintsDiffer",
            ),
            lambda found: found is not None and json.loads(found)["items"],
        )
        assert f"kubectl taint node {line.name} --overwrite virtual-kubelet.io/provider" in told.decode()


@pytest.mark.guide("flag --startup-timeout")
async def test_a_node_that_cannot_register_in_time_ends_the_program(line):
    limited = dataclasses.replace(line.settings, startup_timeout_s=1.0)
    nobody = dataclasses.replace(line.config, server=f"https://127.0.0.1:{free_port()}")
    with pytest.raises(kit_errors.UserError, match="it is not registered within --startup-timeout"):
        async with asyncio.timeout(WITHIN_S):
            await main.run(limited, nobody, asyncio.Event())
    # A copy that waits for the one that acts has started.
    first = dataclasses.replace(line.settings, identity="first")
    second = dataclasses.replace(limited, identity="second", kubelet_port=free_port())
    async with line.running(first):
        await line.until(line.node, is_ready)
        async with line.running(second):
            await asyncio.sleep(2 * limited.startup_timeout_s)


@pytest.mark.guide("config kciletKubeconfigPath", "config instanceSettings")
async def test_instances_get_the_files_kubeconfig_and_settings(line, namespace, tmp_path):
    others = configs.render(line.api_server.node(f"{line.name}-instances"))
    file = tmp_path / "kubeconfig"
    file.write_text(others)
    chosen = dataclasses.replace(
        line.settings,
        instance_kubeconfig=file,
        instance_settings={annotations.CPU: "4", annotations.MEMORY: "8"},
    )
    async with line.running(chosen):
        await line.bind(namespace)
        (group,) = await line.groups(1)
        assert (group.cpu, group.memory) == (4, 8)
        await line.until_running()
        (wanted,) = line.service.kcilet.wanted.values()
        given = configs.parse(wanted.cluster.kubeconfig)
        assert given.client_certificate_pem == configs.parse(others).client_certificate_pem
        assert given.server == f"https://127.0.0.1:{line.api_server.port}"
