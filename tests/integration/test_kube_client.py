"""The client against a real API server."""

import contextlib
import dataclasses
import datetime

import pytest

from kci.kit import secret
from kci.kube import access, errors, resources
from kci.kube import client as clients

pytestmark = pytest.mark.integration


def pod_body(name, *, node="", labels=None):
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
    }


async def test_an_object_is_created_read_patched_listed_and_deleted(admin, namespace):
    made = await admin.create(
        resources.CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}}, namespace=namespace
    )
    patched = await admin.patch(resources.CONFIG_MAPS, "a", {"data": {"y": "2"}}, namespace=namespace)
    assert patched.data == {"x": "1", "y": "2"}
    assert await admin.get(resources.CONFIG_MAPS, "a", namespace=namespace) == patched
    listing = await admin.list_all(resources.CONFIG_MAPS, namespace=namespace)
    assert [item.metadata.uid for item in listing.items] == [made.metadata.uid]
    await admin.delete(resources.CONFIG_MAPS, "a", namespace=namespace, uid=made.metadata.uid)
    with pytest.raises(errors.NotFoundError, match=f"configmaps {namespace}/a"):
        await admin.get(resources.CONFIG_MAPS, "a", namespace=namespace)


async def test_every_refusal_has_its_type(admin, namespace, api_server):
    body = {"metadata": {"name": "a"}}
    made = await admin.create(resources.CONFIG_MAPS, body, namespace=namespace)
    with pytest.raises(errors.AlreadyExistsError):
        await admin.create(resources.CONFIG_MAPS, body, namespace=namespace)
    with pytest.raises(errors.ConflictError):
        await admin.delete(resources.CONFIG_MAPS, "a", namespace=namespace, uid="another")
    with pytest.raises(errors.ConflictError):
        old = {"metadata": {"resourceVersion": "1"}, "data": {"x": "1"}}
        await admin.patch(resources.CONFIG_MAPS, made.metadata.name, old, namespace=namespace)
    with pytest.raises(errors.InvalidError):
        await admin.patch(resources.CONFIG_MAPS, "a", {"data": {"bad key": "1"}}, namespace=namespace)
    with pytest.raises(errors.UnreachableError):
        # An API server does not know this path at all: that is not "the object is gone".
        await admin.request("GET", "/apis/nobody/v1/things")
    async with clients.Client(api_server.user("stranger")) as stranger:
        with pytest.raises(errors.ForbiddenError):
            await stranger.get(resources.CONFIG_MAPS, "a", namespace=namespace)
    nobody = dataclasses.replace(
        api_server.admin, client_certificate_pem="", token=secret.Secret("no token of yours")
    )
    async with clients.Client(nobody) as client:
        with pytest.raises(errors.UnauthorizedError):
            await client.get(resources.CONFIG_MAPS, "a", namespace=namespace)


async def test_a_status_patch_for_another_uid_changes_nothing(admin, namespace):
    pod = await admin.create(resources.PODS, pod_body("p", node="n1"), namespace=namespace)
    status = {"status": {"phase": "Running"}, "metadata": {"uid": pod.uid, "annotations": {"a": "b"}}}
    patched = await admin.patch(resources.PODS, "p", status, namespace=namespace, subresource="status")
    assert (patched.status.phase, patched.metadata.annotations) == ("Running", {"a": "b"})
    wrong = {"status": {"phase": "Failed"}, "metadata": {"uid": "another"}}
    with pytest.raises(errors.ConflictError):
        await admin.patch(resources.PODS, "p", wrong, namespace=namespace, subresource="status")
    assert (await admin.get(resources.PODS, "p", namespace=namespace)).status.phase == "Running"


async def test_apply_and_strategic_patches_reach_the_server_as_such(admin, namespace):
    await admin.create(resources.PODS, pod_body("p"), namespace=namespace)
    strategic = {"spec": {"containers": [{"name": "main", "image": "nginx"}]}}
    patched = await admin.patch(
        resources.PODS, "p", strategic, namespace=namespace, patch_type=clients.PatchType.STRATEGIC
    )
    assert [(c.name, c.image) for c in patched.spec.containers] == [("main", "nginx")]
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "b"}}
    made = await admin.patch(
        resources.CONFIG_MAPS,
        "applied",
        applied,
        namespace=namespace,
        patch_type=clients.PatchType.APPLY,
        field_manager="tests",
    )
    assert made.data == {"a": "b"}


async def test_a_delete_with_a_grace_period_marks_a_bound_pod(admin, namespace):
    pod = await admin.create(resources.PODS, pod_body("p", node="n1"), namespace=namespace)
    await admin.delete(resources.PODS, "p", namespace=namespace, uid=pod.uid, grace_period_s=7)
    marked = await admin.get(resources.PODS, "p", namespace=namespace)
    assert marked.metadata.deletion_timestamp
    assert marked.metadata.deletion_grace_period_seconds == 7
    await admin.delete(resources.PODS, "p", namespace=namespace, uid=pod.uid, grace_period_s=0)
    with pytest.raises(errors.NotFoundError):
        await admin.get(resources.PODS, "p", namespace=namespace)


async def test_a_list_is_whole_over_its_pages(admin, namespace):
    for number in range(3):
        await admin.create(resources.CONFIG_MAPS, {"metadata": {"name": f"c{number}"}}, namespace=namespace)
    async with clients.Client(admin.config, page_size=2) as client:
        listing = await client.list_all(resources.CONFIG_MAPS, namespace=namespace)
    assert [item.metadata.name for item in listing.items] == ["c0", "c1", "c2"]


async def test_a_watch_tells_each_change(admin, namespace):
    start = await admin.list_all(resources.CONFIG_MAPS, namespace=namespace)
    await admin.create(resources.CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace=namespace)
    await admin.patch(resources.CONFIG_MAPS, "a", {"data": {"x": "1"}}, namespace=namespace)
    await admin.delete(resources.CONFIG_MAPS, "a", namespace=namespace)
    seen = []
    watch = admin.watch(resources.CONFIG_MAPS, namespace=namespace, resource_version=start.resource_version)
    async with contextlib.aclosing(watch) as events:
        async for event in events:
            if isinstance(event, clients.WatchEvent):
                seen.append((event.kind.name, event.object.metadata.name))
            if len(seen) == 3:
                break
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_a_node_sees_its_own_pods_only_and_gets_tokens_for_them(admin, api_server, namespace):
    mine = await admin.create(resources.PODS, pod_body("mine", node="vn1"), namespace=namespace)
    other = await admin.create(resources.PODS, pod_body("other", node="vn2"), namespace=namespace)
    async with clients.Client(api_server.node("vn1")) as node:
        listing = await node.list_all(resources.PODS, field_selector="spec.nodeName=vn1")
        assert mine.uid in {pod.uid for pod in listing.items}
        assert other.uid not in {pod.uid for pod in listing.items}
        with pytest.raises(errors.ForbiddenError):
            await node.list_all(resources.PODS)
        issued = await node.create_token(mine, service_account="default", expiration_s=3600)
        assert issued.expires_at > datetime.datetime.now(datetime.UTC)
        with pytest.raises(errors.ForbiddenError):
            await node.create_token(other, service_account="default")
        user = await node.review_token(issued.token)
        assert user.name == f"system:serviceaccount:{namespace}:default"
        assert user.extra["authentication.kubernetes.io/pod-uid"] == (mine.uid,)
        assert await node.review_token(secret.Secret("not.a.token")) is None


async def test_access_is_what_the_api_server_grants(admin):
    get_logs = access.Attributes(verb="get", resource="nodes", subresource="proxy", name="vn1")
    assert await admin.review_access(access.User(name="a", groups=("system:masters",)), get_logs)
    assert not await admin.review_access(access.User(name="a", groups=("system:authenticated",)), get_logs)
    healthz = access.Attributes(verb="get", path="/healthz")
    assert await admin.review_access(access.User(name="a", groups=("system:authenticated",)), healthz)


async def test_a_server_that_is_not_there_is_unreachable():
    config = clients.configs.ClusterConfig(server="http://127.0.0.1:9")
    async with clients.Client(config) as client:
        with pytest.raises(errors.UnreachableError, match=r"cannot reach http://127\.0\.0\.1:9"):
            await client.get(resources.NODES, "a")
