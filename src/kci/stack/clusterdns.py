"""A cluster's side of its DNS: what CoreDNS may read; the Service by which pods with kube-proxy reach it.

Only in a cluster of our own; another one is only asked which DNS it has. The Service has no selector and an
EndpointSlice that leads to the gateway address, so it needs no pod.
"""

from __future__ import annotations

from typing import Any

import structlog

from kci.kube import config, resources
from kci.kube import errors as kube_errors
from kci.stack import addresses, clusterobjects, coredns, errors

log = structlog.get_logger(__name__)
# Who CoreDNS is to the cluster; kubeadm's name for what it may do.
USER = ROLE = "system:coredns"
NAMESPACE, SERVICE = "kube-system", "kube-dns"
SLICE = "kube-dns-kci"
# Which of the service range's addresses is the DNS': kubeadm's.
NUMBER = 10


def role() -> dict[str, Any]:
    """Reading what names are made of, as kubeadm grants it."""
    verbs = ["list", "watch"]
    return {
        "metadata": {"name": ROLE, "labels": clusterobjects.OURS},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": verbs},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs},
        ],
    }


def binding() -> dict[str, Any]:
    return clusterobjects.bind(ROLE, USER)


def service(services: addresses.Network) -> dict[str, Any]:
    labels = {
        **clusterobjects.OURS,
        "k8s-app": "kube-dns",
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS",
    }
    return {
        "metadata": {"name": SERVICE, "labels": labels},
        "spec": {
            "clusterIP": str(services.network_address + NUMBER),
            "ports": [{**port, "targetPort": port["port"]} for port in _ports()],
        },
    }


def endpoint_slice(gateway: str) -> dict[str, Any]:
    return clusterobjects.endpoint_slice(SLICE, service=SERVICE, address=gateway, ports=_ports())


def _ports() -> list[dict[str, Any]]:
    return [
        {"name": "dns", "port": coredns.PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": coredns.PORT, "protocol": "TCP"},
    ]


async def ensure(administrator: config.ClusterConfig, *, services: addresses.Network, gateway: str) -> None:
    """Have all of it in the cluster. A Service of that name that somebody else made is left as it is."""
    async with clusterobjects.opened(administrator, "set up the cluster's DNS") as client:
        await clusterobjects.apply(client, resources.CLUSTER_ROLES, role())
        await clusterobjects.apply(client, resources.CLUSTER_ROLE_BINDINGS, binding())
        try:
            found = await client.get(resources.SERVICES, SERVICE, namespace=NAMESPACE)
        except kube_errors.NotFoundError:
            found = None
        if found is not None and not clusterobjects.is_ours(found.metadata.labels):
            log.warning("the cluster has a DNS service of its own, left as it is", service=SERVICE)
            return
        try:
            await clusterobjects.apply(client, resources.SERVICES, service(services), namespace=NAMESPACE)
        except kube_errors.InvalidError as error:
            raise errors.StackError(
                f"cannot make the Service {NAMESPACE}/{SERVICE}: {error}; "
                "if another Service has its address, give that one another"
            ) from error
        await clusterobjects.apply(
            client, resources.ENDPOINT_SLICES, endpoint_slice(gateway), namespace=NAMESPACE
        )


async def find(administrator: config.ClusterConfig) -> str:
    """The address of the cluster's DNS service; empty if it has none by the usual name."""
    try:
        async with clusterobjects.opened(administrator, "find the cluster's DNS") as client:
            found = await client.get(resources.SERVICES, SERVICE, namespace=NAMESPACE)
    except kube_errors.NotFoundError:
        return ""
    return "" if found.spec.cluster_ip == "None" else found.spec.cluster_ip
