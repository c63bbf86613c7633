"""A cluster's side of metrics-server: what it may do, and the APIService by which the API server finds it.

Only in a cluster of our own. The Service has no selector and an EndpointSlice that leads to the gateway
address, so it needs no pod. An APIService that nobody answers would be in the way of every client and of each
namespace's end, so it goes when the stack starts without metrics-server.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import enum
from typing import Any

import structlog

from kci.kube import client as kube
from kci.kube import config, resources
from kci.kube import errors as kube_errors
from kci.stack import clusterobjects, errors, metricsserver

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
    """Have all of it in the cluster. If somebody else has made any of it, nothing is touched."""
    async with clusterobjects.opened(administrator, "make metrics-server known to the cluster") as client:
        if theirs := [str(one) for one in OBJECTS if await one.owner(client) is _Owner.OTHERS]:
            log.warning("the cluster has metrics of its own, left as they are", objects=theirs)
            return
        bodies = (
            api_service(administrator.ca_pem),
            service(),
            endpoint_slice(gateway, port),
            clusterobjects.bind(ROLE, USER),
            role(),
            reader(),
        )
        # The APIService last: it is of use once it leads somewhere.
        for one, body in reversed(list(zip(OBJECTS, bodies, strict=True))):
            await clusterobjects.apply(client, one.resource, body, namespace=one.namespace)


async def remove(administrator: config.ClusterConfig) -> None:
    """Take away what earlier starts have made, or the part of it that they came to. If that fails it is told,
    no more: nobody asked for metrics.
    """
    try:
        async with clusterobjects.opened(administrator, "take metrics-server from the cluster") as client:
            for one in OBJECTS:
                if await one.owner(client) is _Owner.US:
                    await one.delete(client)
    except (kube_errors.KubeError, errors.StackError) as error:
        log.warning("what leads to metrics-server is left in the cluster", error=str(error))


class _Owner(enum.Enum):
    NOBODY = "nobody"
    US = "us"
    OTHERS = "others"


@dataclasses.dataclass(frozen=True)
class _Object:
    resource: resources.Resource[Any]
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.name}"

    async def owner(self, client: kube.Client) -> _Owner:
        try:
            found = await client.get(self.resource, self.name, namespace=self.namespace)
        except kube_errors.NotFoundError:
            return _Owner.NOBODY
        is_ours = clusterobjects.is_ours(clusterobjects.labels_of(found))
        return _Owner.US if is_ours else _Owner.OTHERS

    async def delete(self, client: kube.Client) -> None:
        with contextlib.suppress(kube_errors.NotFoundError):
            await client.delete(self.resource, self.name, namespace=self.namespace)


# The APIService first: one that nobody answers is in everybody's way.
OBJECTS = (
    _Object(resources.API_SERVICES, API_SERVICE),
    _Object(resources.SERVICES, SERVICE, NAMESPACE),
    _Object(resources.ENDPOINT_SLICES, SLICE, NAMESPACE),
    _Object(resources.CLUSTER_ROLE_BINDINGS, ROLE),
    _Object(resources.CLUSTER_ROLES, ROLE),
    _Object(resources.CLUSTER_ROLES, READER),
)
