"""What `kci explain` gathers of a real API server, with an administrator's rights and with few."""

import asyncio
import contextlib

import pytest

from kci.cli.explanation import facts, gather, reasons
from kci.kit import errors, tasks
from kci.kube import client as clients
from kci.kube import events, resources, signing_requests

pytestmark = pytest.mark.integration

NODE = "explained"


@contextlib.asynccontextmanager
async def bound_pod(admin, namespace):
    """Bound to the node, with an Event; the node is there and says nothing of itself."""
    body = {
        "metadata": {"name": "web"},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "busybox"}]},
    }
    node = {"metadata": {"name": NODE, "labels": {"type": "virtual-kubelet"}}}
    await admin.create(resources.NODES, node)
    pod = await admin.create(resources.PODS, body, namespace=namespace)
    recorder = events.EventRecorder(admin, component="test", host="test")
    try:
        async with tasks.background("events", recorder.run()):
            recorder.record(
                events.of_pod(pod),
                type="Normal",
                reason="InstanceCreated",
                message="Created instance g in 5ms",
            )
            async with asyncio.timeout(10):
                while not (await admin.list_all(resources.EVENTS, namespace=namespace)).items:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        yield pod
    finally:
        await admin.delete(resources.PODS, "web", namespace=namespace, grace_period_s=0)
        await admin.delete(resources.NODES, NODE)


async def test_pod_events_node_and_waiting_requests_are_gathered(admin, namespace, api_server):
    _, serving = signing_requests.plan(NODE, "10.0.0.1")
    sent = signing_requests.request_pem(signing_requests.new_key(), serving)
    async with bound_pod(admin, namespace) as pod, clients.Client(api_server.node(NODE)) as kubelet:
        asked = signing_requests.to_object(f"{namespace}-serving", serving, sent)
        await kubelet.create(resources.CERTIFICATE_SIGNING_REQUESTS, asked)
        try:
            known = await gather.of_cluster(api_server.admin, namespace, "web")
        finally:
            await admin.delete(resources.CERTIFICATE_SIGNING_REQUESTS, f"{namespace}-serving")
    assert known.pod.metadata.uid == pod.metadata.uid
    assert known.unknown == ()
    assert [event.reason for event in known.events] == ["InstanceCreated"]
    # To the microsecond: the first of that second is told in the name alone.
    assert facts.moment_s(known.events[0]) != facts.seconds(known.events[0].first_timestamp)
    assert known.node is not None
    found = [one.reason for one in reasons.explain(known)]
    assert found[:2] == ["NodeNotReady", "CertificateWaits"]


@contextlib.asynccontextmanager
async def unbound_pod(admin, namespace):
    """For which a scheduler has found nothing, in a cluster with this ordinary node."""
    body = {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main", "image": "busybox"}]}}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    await admin.create(resources.PODS, body, namespace=namespace)
    await admin.create(resources.NODES, {"metadata": {"name": f"{namespace}-ordinary"}})
    try:
        status = {"status": {"conditions": [unscheduled]}}
        yield await admin.patch(resources.PODS, "web", status, namespace=namespace, subresource="status")
    finally:
        await admin.delete(resources.PODS, "web", namespace=namespace, grace_period_s=0)
        await admin.delete(resources.NODES, f"{namespace}-ordinary")


@contextlib.asynccontextmanager
async def asked_for(admin, node_name):
    """A request for the identity of a node that nobody has approved."""
    identity, _ = signing_requests.plan(node_name, "10.0.0.1")
    sent = signing_requests.request_pem(signing_requests.new_key(), identity)
    await admin.create(
        resources.CERTIFICATE_SIGNING_REQUESTS, signing_requests.to_object(f"{node_name}-csr", identity, sent)
    )
    try:
        yield f"{node_name}-csr"
    finally:
        await admin.delete(resources.CERTIFICATE_SIGNING_REQUESTS, f"{node_name}-csr")


async def test_a_pod_without_a_node_is_told_of_a_virtual_node_that_waits_for_its_identity(
    admin, namespace, api_server
):
    async with (
        unbound_pod(admin, namespace),
        asked_for(admin, f"{namespace}-virtual") as name,
        # The request of a node that is there is none of what the pod waits for.
        asked_for(admin, f"{namespace}-ordinary"),
    ):
        known = await gather.of_cluster(api_server.admin, namespace, "web")
    assert (known.unknown, known.nodes) == ((), ())
    assert [one.metadata.name for one in known.requests] == [name]
    assert [one.reason for one in reasons.explain(known)] == ["Unschedulable", "CertificateWaits"]


async def test_a_pod_without_a_node_is_told_of_the_requests_of_virtual_nodes_that_there_are(
    admin, namespace, api_server
):
    node = {"metadata": {"name": NODE, "labels": {"type": "virtual-kubelet"}}}
    async with unbound_pod(admin, namespace):
        await admin.create(resources.NODES, node)
        try:
            async with asked_for(admin, NODE) as name, asked_for(admin, f"{namespace}-other"):
                known = await gather.of_cluster(api_server.admin, namespace, "web")
        finally:
            await admin.delete(resources.NODES, NODE)
    assert [one.metadata.name for one in known.requests] == [name]
    found = [one.reason for one in reasons.explain(known)]
    assert found == ["Unschedulable", "NodeNotReady", "CertificateWaits"]


async def test_who_may_not_see_nodes_is_told_so_and_the_rest(admin, namespace, api_server):
    role = {
        "metadata": {"name": f"{namespace}-reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list"]}],
    }
    binding = {
        "metadata": {"name": f"{namespace}-reader"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": f"{namespace}-reader",
        },
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"{namespace}-user"}],
    }
    await admin.create(resources.CLUSTER_ROLES, role)
    await admin.create(resources.CLUSTER_ROLE_BINDINGS, binding)
    async with bound_pod(admin, namespace):
        known = await gather.of_cluster(api_server.user(f"{namespace}-user"), namespace, "web")
    assert len(known.unknown) == 2
    assert [one.reason for one in reasons.explain(known)] == ["Starting"]


async def test_a_pod_that_is_not_there_and_a_stranger_are_errors_in_words(namespace, api_server):
    with pytest.raises(errors.UserError, match="cannot find the pod"):
        await gather.of_cluster(api_server.admin, namespace, "web")
    with pytest.raises(errors.UserError, match="cannot ask the cluster"):
        await gather.of_cluster(api_server.user("stranger"), namespace, "web")
