"""The node's Lease in kube-node-lease: its heartbeat, and the right of this copy to act (leadership.py).

Renewed by a task with a client of its own. Nothing else may slow it down: not the provider's troubles, not a
full queue, not a shared connection. Source of the times: component-helpers apimachinery/lease/controller.go
and kubelet's nodeLease settings (1.36.3): 40 s, renewed each quarter of that; fast retries first.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import structlog

from kci.kit import backoff as backoffs
from kci.kit import clock as clocks
from kci.kit import crashpoints, tasks
from kci.kube import errors, models, resources
from kci.vnode import leadership

log = structlog.get_logger(__name__)

NAMESPACE = "kube-node-lease"
CALL_TIMEOUT_S = 5.0
RELEASE_TIMEOUT_S = 2.0


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


def steady_s() -> float:
    """Seconds by a clock that nobody sets, and that goes on while this program or its machine is paused.
    The loop's clock will not do: uvloop's stands still within one turn of the loop.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def next_renewal(now: datetime.datetime, last: str) -> datetime.datetime:
    """A clock that was set back must not make the renewal look old: the time always grows."""
    if not last:
        return now
    return max(now, datetime.datetime.fromisoformat(last) + datetime.timedelta(milliseconds=1))


class LeaseKeeper:
    """`run` gets the Lease and keeps it until cancelled; a leadership.Right."""

    def __init__(
        self,
        client: Api,
        *,
        node_name: str,
        identity: str,
        clock: clocks.Clock | None = None,
        now_s: Callable[[], float] = steady_s,
    ) -> None:
        self._client = client
        self._name = node_name
        self._clock = clock or clocks.SystemClock()
        self._now_s = now_s
        self._backoff = backoffs.Backoff(initial_s=0.2, cap_s=5.0)
        self._standing = leadership.Standing(identity)
        self._must_read = True
        self._owner: models.Node | None = None
        self._hurry = asyncio.Event()
        # The epoch of the term that lasts; 0 while there is none.
        self._term: tasks.Latest[int] = tasks.Latest(0)

    def hold_for(self, node: models.Node) -> None:
        """The Lease goes with this node object from now on."""
        self._owner = node
        self._hurry.set()

    @property
    def is_anothers(self) -> bool:
        """Whether another copy was seen to hold it."""
        claim = self._standing.claim
        return claim is not None and claim.holder not in {"", self._standing.identity}

    # ---- leadership.Right -----------------------------------------------------------------------

    def require(self) -> int:
        if not leadership.may_act(self._standing, self._now_s()):
            raise leadership.NotLeaderError(
                f"cannot act for the node {self._name}: this copy does not hold its Lease"
            )
        return self._standing.epoch

    def refused(self, epoch: int) -> None:
        log.warning("the service has seen a later epoch of this node", node=self._name, epoch=epoch)
        self._set(leadership.was_refused(self._standing, epoch))
        self._hurry.set()

    # ---- terms ----------------------------------------------------------------------------------

    async def run_terms(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work` whenever this copy may act, and cancel it when it may not any more. Each term starts
        afresh: what an earlier one knew may be long out of date.
        """
        async for epoch in self._term.changes():
            if epoch:
                await tasks.first_of(work(), self._ended(epoch), name=f"term {epoch}")

    async def _ended(self, epoch: int) -> None:
        async for now in self._term.changes():
            if now != epoch:
                return

    # ---- the Lease ------------------------------------------------------------------------------

    async def run(self) -> None:
        failures = 0
        while True:
            self._hurry.clear()
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    pause_s = await self._step()
                failures = 0
            except (errors.KubeError, TimeoutError) as error:
                failures += 1
                pause_s = self._backoff.delay_s(failures)
                log.warning("cannot renew the node's lease", next_try_s=round(pause_s, 2), error=repr(error))
            self._set(self._standing)
            await self._pause(pause_s)

    async def release(self) -> None:
        """Let another copy take over at once, if one waits. Call it when nothing acts any more."""
        claim, held = self._standing.claim, self._standing.epoch
        self._set(leadership.released(self._standing))
        if claim is None or not held:
            return
        body = {"metadata": {"resourceVersion": claim.version}, "spec": {"holderIdentity": None}}
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                crashpoints.reached("vnode.lease.release.before")
                await self._client.patch(resources.LEASES, self._name, body, namespace=NAMESPACE)
                crashpoints.reached("vnode.lease.release.after")
        except (errors.KubeError, TimeoutError) as error:
            log.warning("cannot release the node's lease, it runs out by itself", error=repr(error))

    async def _step(self) -> float:
        """One look or write; how long to pause then."""
        if self._must_read or not self._standing.epoch:
            claim = await self._read()
            self._standing = leadership.see(self._standing, claim, self._now_s())
            self._must_read = False
        match leadership.decide(self._standing, self._now_s()):
            case leadership.Wait(until_s):
                return max(0.0, until_s - self._now_s())
            case leadership.TakeOver(epoch, version):
                await self._write(epoch, version)
            case leadership.Renew(version):
                await self._write(self._standing.epoch, version)
        return leadership.RENEW_S

    async def _read(self) -> leadership.Claim | None:
        try:
            return _to_claim(await self._client.get(resources.LEASES, self._name, namespace=NAMESPACE))
        except errors.NotFoundError:
            return None

    async def _write(self, epoch: int, version: str) -> None:
        # Whatever becomes of this write, the next step must not build on what was seen before it.
        self._must_read = True
        began_s, claim = self._now_s(), self._standing.claim
        renewed_at = next_renewal(self._clock.now(), claim.renewed_at if claim is not None else "")
        body = _to_lease(self._name, self._standing.identity, epoch, renewed_at, self._owner, version)
        crashpoints.reached("vnode.lease.write.before")
        if version:
            lease = await self._client.patch(resources.LEASES, self._name, body, namespace=NAMESPACE)
        else:
            lease = await self._client.create(resources.LEASES, body, namespace=NAMESPACE)
        crashpoints.reached("vnode.lease.write.after")
        self._standing = leadership.wrote(
            self._standing, _to_claim(lease), began_s=began_s, now_s=self._now_s()
        )
        self._must_read = False

    def _set(self, standing: leadership.Standing) -> None:
        self._standing = standing
        term = standing.epoch if leadership.may_act(standing, self._now_s()) else 0
        if term != self._term.value:
            log.info("term begins" if term else "term ended", node=self._name, epoch=term or standing.epoch)
            self._term.set(term)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return


def _to_claim(lease: models.Lease) -> leadership.Claim:
    spec = lease.spec
    return leadership.Claim(
        holder=spec.holder_identity or "",
        epoch=spec.lease_transitions or 0,
        renewed_at=spec.renew_time or "",
        version=lease.metadata.resource_version,
        duration_s=spec.lease_duration_seconds or leadership.DURATION_S,
    )


def _to_lease(
    name: str,
    identity: str,
    epoch: int,
    renewed_at: datetime.datetime,
    owner: models.Node | None,
    version: str,
) -> dict[str, Any]:
    """The Lease's content, as a merge patch too; it is gone with the node object once that is there."""
    metadata: dict[str, Any] = {"name": name}
    if version:
        metadata["resourceVersion"] = version
    if owner is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner.metadata.uid}
        ]
    return {
        "metadata": metadata,
        "spec": {
            "holderIdentity": identity,
            "leaseDurationSeconds": leadership.DURATION_S,
            "leaseTransitions": epoch,
            "renewTime": clocks.to_rfc3339_micro(renewed_at),
        },
    }
