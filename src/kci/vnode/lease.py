"""The node's heartbeat: its Lease in kube-node-lease, renewed by a task with a client of its own.

Nothing else may slow it down: not the provider's troubles, not a full queue, not a shared connection.
Source: component-helpers apimachinery/lease/controller.go and kubelet's nodeLease settings (1.36.3):
40 s, renewed each quarter of that; fast retries first.
"""

from __future__ import annotations

import asyncio
import datetime
from typing import Any, Protocol

import structlog

from kci.kit import backoff as backoffs
from kci.kit import clock as clocks
from kci.kit import tasks
from kci.kube import errors, models, resources

log = structlog.get_logger(__name__)

NAMESPACE = "kube-node-lease"
DURATION_S = 40
INTERVAL_S = 10.0
CALL_TIMEOUT_S = 5.0


class Api(Protocol):
    """What the lease needs of a client."""

    async def get(
        self, resource: resources.Resource[models.Lease], name: str, *, namespace: str = ""
    ) -> models.Lease: ...

    async def create(
        self, resource: resources.Resource[models.Lease], body: object, *, namespace: str = ""
    ) -> models.Lease: ...

    async def patch(
        self, resource: resources.Resource[models.Lease], name: str, patch: object, *, namespace: str = ""
    ) -> models.Lease: ...


def to_lease(node: models.Node, renewed_at: datetime.datetime) -> dict[str, Any]:
    """The lease's content: held by the node, gone with the node."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": node.metadata.name, "uid": node.metadata.uid}
    return {
        "metadata": {"name": node.metadata.name, "ownerReferences": [owner]},
        "spec": {
            "holderIdentity": node.metadata.name,
            "leaseDurationSeconds": DURATION_S,
            "renewTime": clocks.to_rfc3339_micro(renewed_at),
        },
    }


def next_renewal(now: datetime.datetime, last: datetime.datetime | None) -> datetime.datetime:
    """A clock that was set back must not make the renewal look old: the time always grows."""
    if last is None:
        return now
    return max(now, last + datetime.timedelta(milliseconds=1))


class LeaseKeeper:
    """`hold_for` says for which node object; `run` renews from then on until cancelled."""

    def __init__(self, client: Api, clock: clocks.Clock | None = None) -> None:
        self._client = client
        self._clock = clock or clocks.SystemClock()
        self._backoff = backoffs.Backoff(initial_s=0.2, cap_s=5.0)
        self._node: tasks.Latest[models.Node | None] = tasks.Latest(None)
        self._last: datetime.datetime | None = None

    def hold_for(self, node: models.Node) -> None:
        self._node.set(node)

    async def run(self) -> None:
        async for node in self._node.changes():
            if node is not None:
                break
        failures = 0
        while True:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await self._renew()
            except (errors.KubeError, TimeoutError) as error:
                failures += 1
                delay_s = self._backoff.delay_s(failures)
                log.warning("cannot renew the node's lease", next_try_s=round(delay_s, 2), error=repr(error))
                await asyncio.sleep(delay_s)
            else:
                failures = 0
                await asyncio.sleep(INTERVAL_S)

    async def _renew(self) -> None:
        node = self._node.value
        if node is None:
            return
        if self._last is None:
            self._last = await self._read_last(node)
        renewed_at = next_renewal(self._clock.now(), self._last)
        body = to_lease(node, renewed_at)
        try:
            await self._client.patch(resources.LEASES, node.metadata.name, body, namespace=NAMESPACE)
        except errors.NotFoundError:
            await self._client.create(resources.LEASES, body, namespace=NAMESPACE)
        self._last = renewed_at

    async def _read_last(self, node: models.Node) -> datetime.datetime | None:
        """What an earlier process wrote, perhaps by another clock."""
        try:
            lease = await self._client.get(resources.LEASES, node.metadata.name, namespace=NAMESPACE)
        except errors.NotFoundError:
            return None
        return datetime.datetime.fromisoformat(lease.spec.renew_time) if lease.spec.renew_time else None
