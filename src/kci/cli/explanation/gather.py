"""What a pod's explanation is made from, asked of the cluster and of the KCI service, a few calls each."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import pathlib
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from kci.cli import access
from kci.cli.explanation import facts
from kci.client import client as kci
from kci.client import errors as kci_errors
from kci.contract import capabilities, groups, ids, starts
from kci.kit import errors
from kci.kube import client as kube
from kci.kube import config as configs
from kci.kube import errors as kube_errors
from kci.kube import models, resources, signing_requests

T = TypeVar("T")
INSTANCE_ID = "k8s.ksyun.com/kci-instance-id"
LOG_LINES = 10
_LOG_BYTES = 4096
# Who explains waits for nobody: what is away is a fact, too.
_ANSWERS_WITHIN_S = 5.0


def facts_of(
    namespace: str, name: str, *, kubeconfig: pathlib.Path, state_dir: pathlib.Path | None
) -> facts.Facts:
    """UserError if there is no such pod, or the cluster cannot be asked."""
    known = asyncio.run(of_cluster(configs.load(kubeconfig), namespace, name))
    try:
        group, start = access.ask(state_dir, lambda service: of_service(service, known.pod))
    except errors.UserError as error:
        # The service is only asked for more: most is known by Kubernetes.
        return dataclasses.replace(known, unknown=(*known.unknown, f"KCI was not asked: {error}"))
    except TimeoutError:
        text = f"KCI was asked, and did not answer within {_ANSWERS_WITHIN_S:g} s"
        return dataclasses.replace(known, unknown=(*known.unknown, text))
    return dataclasses.replace(known, is_service_known=True, group=group, start=start)


async def of_cluster(config: configs.ClusterConfig, namespace: str, name: str) -> facts.Facts:
    try:
        async with kube.Client(config, user_agent="kci-explain", timeout_s=_ANSWERS_WITHIN_S) as client:
            pod = await client.get(resources.PODS, name, namespace=namespace)
            return await _about(client, pod)
    except kube_errors.NotFoundError as error:
        raise errors.UserError(
            f"cannot find the pod {namespace}/{name}: look with `kubectl get pods -A`, and give its "
            "namespace with -n"
        ) from error
    except kube_errors.KubeError as error:
        raise errors.UserError(f"cannot ask the cluster: {error}") from error


async def _about(client: kube.Client, pod: models.Pod) -> facts.Facts:
    unknown: list[str] = []
    namespace, node_name = pod.metadata.namespace, pod.spec.node_name
    events = await _told(
        unknown,
        "the pod's events",
        client.list_all(
            resources.EVENTS, namespace=namespace, field_selector=f"involvedObject.uid={pod.metadata.uid}"
        ),
    )
    node: models.Node | None = None
    nodes: tuple[models.Node, ...] | None = ()
    if node_name:
        node = await _node(unknown, client, node_name)
    else:
        listed = await _told(
            unknown,
            "virtual nodes",
            client.list_all(resources.NODES, label_selector=f"{facts.VIRTUAL_LABEL}={facts.VIRTUAL}"),
        )
        nodes = listed.items if listed else None
    found = sorted(events.items if events else (), key=lambda event: facts.moment_s(event) or 0.0)
    return facts.Facts(
        pod=pod,
        now=datetime.datetime.now(datetime.UTC),
        events=tuple(found),
        node=node,
        nodes=nodes,
        requests=await _requests(unknown, client, node_name, nodes),
        logs=await _logs(client, pod),
        unknown=tuple(unknown),
    )


async def _node(unknown: list[str], client: kube.Client, name: str) -> models.Node | None:
    try:
        return await client.get(resources.NODES, name)
    except kube_errors.NotFoundError:
        return None
    except kube_errors.KubeError as error:
        unknown.append(f"the node {name} could not be looked at: {error}")
        return None


async def _requests(
    unknown: list[str], client: kube.Client, node_name: str, nodes: tuple[models.Node, ...] | None
) -> tuple[models.CertificateSigningRequest, ...]:
    """Those that wait, of the nodes that the pod is on or may come to."""
    listed = await _told(unknown, "signing requests", client.list_all(resources.CERTIFICATE_SIGNING_REQUESTS))
    waiting = [
        (name, one)
        for one in (listed.items if listed else ())
        if (name := signing_requests.node_of(one))
        and signing_requests.outlook(one)[0] is signing_requests.Outlook.WAITS
    ]
    wanted = {node_name} if node_name else {node.metadata.name for node in nodes or ()}
    if nodes == () and not node_name:
        # The virtual node may be one that waits for its identity.
        wanted = {name for name in {name for name, _ in waiting} if await _is_absent(client, name)}
    return tuple(one for name, one in waiting if name in wanted)


async def _is_absent(client: kube.Client, node_name: str) -> bool:
    try:
        _ = await client.get(resources.NODES, node_name)
    except kube_errors.NotFoundError:
        return True
    except kube_errors.KubeError:
        # Then it was not told that there is no virtual node, either.
        return False
    return False


async def _told(unknown: list[str], what: str, question: Awaitable[T]) -> T | None:
    try:
        return await question
    except kube_errors.KubeError as error:
        unknown.append(f"{what} could not be listed: {error}")
        return None


async def _logs(client: kube.Client, pod: models.Pod) -> Mapping[str, tuple[str, ...]]:
    """What troubled containers said last; nothing of those that cannot be asked."""
    found: dict[str, tuple[str, ...]] = {}
    for container, is_previous in facts.troubled_containers(pod):
        path = resources.PODS.object_path(pod.metadata.name, pod.metadata.namespace, "log")
        query = {
            "container": container,
            "tailLines": str(LOG_LINES),
            "limitBytes": str(_LOG_BYTES),
            **({"previous": "true"} if is_previous else {}),
        }
        try:
            text = await client.request("GET", path, query=query)
        except kube_errors.KubeError:
            continue
        found[container] = tuple(text.decode(errors="replace").splitlines())
    return found


async def of_service(
    service: kci.KciClient, pod: models.Pod
) -> tuple[groups.ContainerGroup | None, starts.GroupStart | None]:
    async with asyncio.timeout(_ANSWERS_WITHIN_S):
        group = await _find_group(service, pod)
        if group is None:
            return None, None
        offered = await service.describe_capabilities()
        if not offered.has(capabilities.GROUP_START):
            return group, None
        try:
            return group, await service.describe_container_group_start(group.container_group_id)
        except kci_errors.NotFoundError:
            return None, None


async def _find_group(service: kci.KciClient, pod: models.Pod) -> groups.ContainerGroup | None:
    """By the id that stands on the pod; else by the labels that the node gave it."""
    known = pod.metadata.annotations.get(INSTANCE_ID)
    chosen = (ids.GroupId(known),) if known else ()
    for group in await service.list_container_groups(ids=chosen):
        named = (group.label(groups.NAMESPACE), group.label(groups.POD_NAME))
        uid = group.label(groups.POD_UUID)
        if named == (pod.metadata.namespace, pod.metadata.name) and uid in {"", pod.metadata.uid}:
            return group
    return None
