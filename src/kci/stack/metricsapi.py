"""A cluster's side of metrics-server: what it may do, and the APIService by which the API server finds it.

Only in a cluster of our own. The Service has no selector and an EndpointSlice that leads to the gateway
address, so it needs no pod. An APIService that nobody answers would be in the way of every client and of each
namespace's end, so it goes when the stack starts without metrics-server.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Any

import structlog

from kci.kube import client as kube
from kci.kube import config, errors, resources
from kci.stack import clusterobjects, metricsserver

log = structlog.get_logger(__name__)
# Who metrics-server is to the cluster, and what it may do; the names are those of its own manifests.
USER = ROLE = "system:metrics-server"
READER = "system:aggregated-metrics-reader"
NAMESPACE, SERVICE = "kube-system", metricsserver.NAME
SLICE = f"{SERVICE}-kci"
GROUP, VERSION = "metrics.k8s.io", "v1beta1"
API_SERVICE = f"{VERSION}.{GROUP}"
# By which name the API server asks for its certificate.
SERVER_NAME = f"{SERVICE}.{NAMESPACE}.svc"
PORT, PORT_NAME = 443, "https"
TIMEOUT_S = 30.0


def role() -> dict[str, Any]:
    """Asking nodes, knowing nodes and pods, and asking whether a caller may ask."""
    reviews = {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["subjectaccessreviews"],
        "verbs": ["create"],
    }
    return {
        "metadata": {"name": ROLE, "labels": clusterobjects.OURS},
        "rules": [
            {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list", "watch"]},
            reviews,
        ],
    }


def reader() -> dict[str, Any]:
    """Who may view a namespace may see what its pods use."""
    aggregated = {f"{clusterobjects.RBAC}/aggregate-to-{one}": "true" for one in ("view", "edit", "admin")}
    return {
        "metadata": {"name": READER, "labels": {**clusterobjects.OURS, **aggregated}},
        "rules": [{"apiGroups": [GROUP], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]}],
    }


def service() -> dict[str, Any]:
    return {
        "metadata": {"name": SERVICE, "labels": {**clusterobjects.OURS, "k8s-app": SERVICE}},
        "spec": {"ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP", "appProtocol": "https"}]},
    }


def endpoint_slice(gateway: str, port: int) -> dict[str, Any]:
    ports = [{"name": PORT_NAME, "port": port, "protocol": "TCP", "appProtocol": "https"}]
    return clusterobjects.endpoint_slice(SLICE, service=SERVICE, address=gateway, ports=ports)


def api_service(authority_pem: str) -> dict[str, Any]:
    return {
        "metadata": {"name": API_SERVICE, "labels": {**clusterobjects.OURS, "k8s-app": SERVICE}},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "service": {"namespace": NAMESPACE, "name": SERVICE, "port": PORT},
            "caBundle": base64.b64encode(authority_pem.encode()).decode(),
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }


async def ensure(administrator: config.ClusterConfig, *, gateway: str, port: int) -> None:
    """Have all of it in the cluster. Metrics that somebody else serves are left as they are."""
    async with asyncio.timeout(TIMEOUT_S), kube.Client(administrator, user_agent="kci-stack") as client:
        found = await _find(client)
        if found is not None and not _is_ours(found):
            log.warning("the cluster has metrics of its own, left as they are", api_service=API_SERVICE)
            return
        await clusterobjects.apply(client, resources.CLUSTER_ROLES, role())
        await clusterobjects.apply(client, resources.CLUSTER_ROLE_BINDINGS, clusterobjects.bind(ROLE, USER))
        await clusterobjects.apply(client, resources.CLUSTER_ROLES, reader())
        await clusterobjects.apply(client, resources.SERVICES, service(), namespace=NAMESPACE)
        await clusterobjects.apply(
            client, resources.ENDPOINT_SLICES, endpoint_slice(gateway, port), namespace=NAMESPACE
        )
        await clusterobjects.apply(client, resources.API_SERVICES, api_service(administrator.ca_pem))


async def remove(administrator: config.ClusterConfig) -> None:
    """Take away what an earlier start has made."""
    async with asyncio.timeout(TIMEOUT_S), kube.Client(administrator, user_agent="kci-stack") as client:
        found = await _find(client)
        if found is None or not _is_ours(found):
            return
        await _delete(client, resources.ENDPOINT_SLICES, SLICE, namespace=NAMESPACE)
        await _delete(client, resources.SERVICES, SERVICE, namespace=NAMESPACE)
        await _delete(client, resources.CLUSTER_ROLES, READER)
        await _delete(client, resources.CLUSTER_ROLE_BINDINGS, ROLE)
        await _delete(client, resources.CLUSTER_ROLES, ROLE)
        # Last: whoever is stopped on the way begins anew by it.
        await _delete(client, resources.API_SERVICES, API_SERVICE)


async def _find(client: kube.Client) -> resources.Raw | None:
    try:
        return await client.get(resources.API_SERVICES, API_SERVICE)
    except errors.NotFoundError:
        return None


def _is_ours(found: resources.Raw) -> bool:
    return clusterobjects.is_ours(found["metadata"].get("labels") or {})


async def _delete(
    client: kube.Client, resource: resources.Resource[Any], name: str, *, namespace: str = ""
) -> None:
    with contextlib.suppress(errors.NotFoundError):
        await client.delete(resource, name, namespace=namespace)
