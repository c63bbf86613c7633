"""Objects that a stack makes in a cluster of its own: applied at each start, and marked as its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kci.kube import client as kube
from kci.kube import config, resources
from kci.kube import errors as kube_errors
from kci.stack import errors

MANAGER = "kci-stack"
MANAGED_BY = "app.kubernetes.io/managed-by"
OURS: Mapping[str, str] = {MANAGED_BY: MANAGER}
RBAC = "rbac.authorization.k8s.io"
INTERVAL_S = 0.05
TIMEOUT_S = 30.0


def is_ours(labels: Mapping[str, str]) -> bool:
    return labels.get(MANAGED_BY) == MANAGER


def labels_of(found: Any) -> Mapping[str, str]:
    """Of an object of any type that a client gives."""
    labels = found["metadata"].get("labels") if isinstance(found, dict) else found.metadata.labels
    return labels or {}


def bind(role: str, user: str) -> dict[str, Any]:
    """The binding, under the role's name, of a user to a ClusterRole."""
    return {
        "metadata": {"name": role, "labels": OURS},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    }


def endpoint_slice(name: str, *, service: str, address: str, ports: list[dict[str, Any]]) -> dict[str, Any]:
    """Leads a Service without a selector to an address of the machine's."""
    return {
        "metadata": {
            "name": name,
            "labels": {
                **OURS,
                "kubernetes.io/service-name": service,
                # Not the controllers': they leave it alone.
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": ports,
    }


@contextlib.asynccontextmanager
async def opened(
    administrator: config.ClusterConfig, what: str, *, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[kube.Client]:
    """A client for what is done in the cluster at a start; StackError that names it if it takes too long."""
    try:
        async with asyncio.timeout(timeout_s), kube.Client(administrator, user_agent="kci-stack") as client:
            yield client
    except TimeoutError as error:
        raise errors.StackError(
            f"cannot {what} within {timeout_s:g} s: the API server {administrator.server} answers too "
            "slowly; see its log and whether the machine is busy, and start again"
        ) from error


async def apply(
    client: kube.Client, resource: resources.Resource[Any], body: Mapping[str, Any], *, namespace: str = ""
) -> None:
    """Have the object as it is here. Waits for the namespace: the API server makes its own ones a moment
    after it is ready.
    """
    while True:
        try:
            _ = await client.patch(
                resource,
                body["metadata"]["name"],
                {"apiVersion": resource.api_version, "kind": resource.kind, **body},
                namespace=namespace,
                patch_type=kube.PatchType.APPLY,
                field_manager=MANAGER,
                force=True,
            )
        except kube_errors.NotFoundError:
            if not namespace:
                raise
            await asyncio.sleep(INTERVAL_S)
        else:
            return
