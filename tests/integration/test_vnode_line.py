"""The virtual node on a real API server, as a node under NodeRestriction, and a real KCI service."""

import asyncio
import contextlib
import dataclasses
import time

import collector
import pytest
from vnode_fixture import WITHIN_S, free_port, is_ready

from kci.kit import channels
from kci.kube import resources
from kci.link import types as link

pytestmark = pytest.mark.integration

READY_WITHIN_S = 10


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


async def test_the_nodes_part_of_a_start_reaches_a_collector_and_its_trace_the_machine(
    line, namespace, monkeypatch
):
    with collector.Collector() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        async with line.running():
            pod = await line.bind(namespace)
            await line.until_running()
            (wanted,) = line.service.kcilet.wanted.values()
        # The node stopped before the pod ran, and tells what it has seen all the same.
        spans = {one.name: one for one in received.spans}
        root, create, call = (
            spans[name] for name in ("start pod", "create instance", "CreateContainerGroup")
        )
        assert (root.parent, root.attributes["k8s.pod.uid"]) == ("", pod.uid)
        assert root.attributes["error.type"] == "NodeStopped"
        assert create.parent == root.id
        assert spans["read kubeconfig"].parent == call.parent == create.id
        # The service of this line does not trace: it carries on what the call brought.
        assert wanted.traceparent.startswith(f"00-{root.trace}-{call.id}-")


async def test_what_pods_use_is_told_to_whom_the_api_server_allows(line, namespace):
    used = link.Usage(time_ns=1_700_000_000_000_000_000, cpu_core_ns=5, working_set_bytes=4096)
    async with asyncio.timeout(WITHIN_S), line.running(), contextlib.AsyncExitStack() as stack:
        await line.until(line.node, is_ready)
        pod = await line.bind(namespace)
        (group,) = await line.groups(1)
        await line.until_running()
        container = link.ContainerUsage(name=pod.spec.containers[0].name, started_at_ns=9, usage=used)
        line.service.kcilet.usages = link.Usages(
            groups=(
                link.GroupUsage(
                    group_id=group.container_group_id, started_at_ns=9, usage=used, containers=(container,)
                ),
            )
        )
        # The API server relays to no loopback address: asked as it asks itself.
        kubelet = await stack.enter_async_context(line.kubelet(line.api_server.admin))

        async def summary():
            async with kubelet.get("/stats/summary") as answer:
                return await answer.json()

        told = await line.until(summary, lambda told: told["pods"])
        (of_pod,) = told["pods"]
        assert of_pod["podRef"] == {"name": "web", "namespace": namespace, "uid": pod.uid}
        assert of_pod["memory"]["workingSetBytes"] == 4096
        assert told["node"]["nodeName"] == line.name
        async with kubelet.get("/metrics/resource") as answer:
            text = await answer.text()
        labels = f'{{namespace="{namespace}",pod="web"}}'
        assert f"pod_memory_working_set_bytes{labels} 4096 1700000000000\n" in text
        assert "resource_scrape_error 0\n" in text


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
