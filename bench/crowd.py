"""A cluster with many Services, and pods that reach them. Their EndpointSlices are written by hand, and they
are in a namespace of their own, so that no pod finds them in its environment. Nobody answers behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import line as lines

from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import resources

NAMESPACE, ENDPOINTS = "bench-crowd", 3
WITHIN_S = 300
AT_ONCE = 16
PROXIED = {"annotations": {"k8s.ksyun.com/kci-kube-proxy-enabled": "true"}}


def pod(name: str, command: str = "", **spec: object) -> dict[str, object]:
    """As lines.pod, with kube-proxy on."""
    return lines.pod(name, command, **spec, metadata=PROXIED)


@contextlib.asynccontextmanager
async def services(client: clients.Client, count: int) -> AsyncIterator[None]:
    """So many are there until the block ends."""
    await client.create(resources.NAMESPACES, {"metadata": {"name": NAMESPACE}})
    async with asyncio.timeout(WITHIN_S):
        made = (client.create(kind, body, namespace=NAMESPACE) for kind, body in _objects(count))
        await tasks.wait_all(made, name="services", limit=AT_ONCE)
    try:
        yield
    finally:
        async with asyncio.timeout(WITHIN_S):
            gone = (
                client.delete(kind, body["metadata"]["name"], namespace=NAMESPACE)
                for kind, body in _objects(count)
                # Whose slices go with them.
                if kind is resources.SERVICES
            )
            await tasks.wait_all(gone, name="services gone", limit=AT_ONCE)
            await client.delete(resources.NAMESPACES, NAMESPACE)


def _objects(count: int) -> Iterator[tuple[resources.Resource, dict]]:
    for number in range(count):
        name = f"service-{number}"
        yield (
            resources.SERVICES,
            {"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}},
        )
        first = number * ENDPOINTS
        addresses = [f"10.200.{one // 250}.{one % 250 + 1}" for one in range(first, first + ENDPOINTS)]
        yield (
            resources.ENDPOINT_SLICES,
            {
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in addresses],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            },
        )
