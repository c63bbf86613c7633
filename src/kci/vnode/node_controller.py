"""Keeps the node object there and true: created or adopted, its status renewed, made again if deleted.

Only while this copy holds the node's Lease. Never touches a pod: those whose node object vanished keep
running; the control plane decides on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from kci.kit import backoff as backoffs
from kci.kit import clock as clocks
from kci.kit import crashpoints, tasks
from kci.kit import errors as kit_errors
from kci.kube import client as clients
from kci.kube import errors, models, reasons, reflector, resources
from kci.vnode import leadership, node

log = structlog.get_logger(__name__)

FIELD_MANAGER = "virtual-kubelet"
# The kubelet's nodeStatusReportFrequency: between them the Lease is the heartbeat.
STATUS_INTERVAL_S = 290.0
MIN_INTERVAL_S = 1.0
TAINTS_DIFFER: Final = "TaintsDiffer"


class _Version(msgspec.Struct, frozen=True):
    gitVersion: str  # noqa: N815  (the API's name)


class NodeController:
    """`on_registered` is told of the node object whenever it was created or adopted, `on_trouble` (reason,
    message) of what an administrator should mend.
    """

    def __init__(
        self,
        client: clients.Client,
        settings: node.NodeSettings,
        *,
        right: leadership.Right,
        status_interval_s: float = STATUS_INTERVAL_S,
        on_registered: Callable[[models.Node], None],
        on_trouble: Callable[[reasons.OfNode, str], None],
    ) -> None:
        self._client = client
        self._settings = settings
        self._right = right
        self._status_interval_s = status_interval_s
        self._on_registered = on_registered
        self._on_trouble = on_trouble
        self._clock = clocks.SystemClock()
        self._backoff = backoffs.Backoff(initial_s=0.2, cap_s=10.0)
        self._wake = asyncio.Event()
        self._node: models.Node | None = None
        self._cluster_version = ""

    async def run(self) -> None:
        """Until cancelled; UserError if the node's name belongs to a node that is not ours."""
        await self._until_done(self._register)
        watch = reflector.Reflector(
            self._client,
            resources.NODES,
            field_selector=f"metadata.name={self._settings.name}",
            on_change=self._on_change,
        )
        async with tasks.Tasks() as group:
            group.run_forever("node watch", watch.run())
            group.run_forever("node status", self._keep_true())

    def _on_change(self, change: reflector.Change[models.Node]) -> None:
        seen = None if change.kind is reflector.ChangeKind.DELETED else change.object
        if seen is None and self._node is not None and self._node.metadata.uid != change.object.metadata.uid:
            return
        self._node = seen
        if seen is None or not node.is_current(self._settings, self._cluster_version, seen):
            self._wake.set()

    async def _keep_true(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                # Spread, so that many nodes do not report together.
                async with asyncio.timeout(self._status_interval_s * random.uniform(0.9, 1.0)):  # noqa: S311
                    await self._wake.wait()
            self._wake.clear()
            await self._until_done(self._refresh)
            # Whoever disagrees with us on the node's status gets an answer, not a duel.
            await asyncio.sleep(MIN_INTERVAL_S)

    async def _refresh(self) -> None:
        seen = self._node
        if seen is None:
            log.warning("the node object was deleted, creating it again", node=self._settings.name)
            await self._register()
            return
        try:
            await self._add_labels(seen)
            await self._patch_status(seen)
        except errors.NotFoundError:
            self._node = None
            await self._register()

    async def _register(self) -> None:
        self._cluster_version = await self._ask_version()
        body = node.to_node(self._settings, self._cluster_version, self._clock.now())
        self._right.require()
        crashpoints.reached("vnode.create_node.before")
        try:
            self._node = await self._client.create(resources.NODES, body)
            crashpoints.reached("vnode.create_node.after")
            log.info("node created", node=self._settings.name)
        except errors.AlreadyExistsError:
            self._node = await self._adopt()
        self._on_registered(self._node)

    async def _ask_version(self) -> str:
        answer = await self._client.request("GET", "/version")
        try:
            return msgspec.json.decode(answer, type=_Version).gitVersion
        except msgspec.DecodeError as error:
            raise errors.UnreachableError(
                f"cannot read the cluster's version: the answer is not as expected: {error}"
            ) from error

    async def _adopt(self) -> models.Node:
        seen = await self._client.get(resources.NODES, self._settings.name)
        if not node.is_ours(seen):
            raise kit_errors.UserError(
                f"cannot be the node {self._settings.name!r}: a node of that name exists and is no virtual "
                "node; choose another --nodename"
            )
        warning = node.taint_warning(self._settings, seen)
        if warning is not None:
            log.warning("the node's taints differ from the settings", remedy=warning)
            self._on_trouble(TAINTS_DIFFER, warning)
        await self._add_labels(seen)
        log.info("node adopted", node=self._settings.name)
        return await self._patch_status(seen)

    async def _add_labels(self, seen: models.Node) -> None:
        labels = node.missing_labels(self._settings, seen)
        if labels:
            self._right.require()
            crashpoints.reached("vnode.patch_node_labels.before")
            await self._client.patch(
                resources.NODES,
                self._settings.name,
                {"metadata": {"uid": seen.metadata.uid, "labels": labels}},
                field_manager=FIELD_MANAGER,
            )
            crashpoints.reached("vnode.patch_node_labels.after")

    async def _patch_status(self, seen: models.Node) -> models.Node:
        status = node.to_status(self._settings, self._cluster_version, self._clock.now(), seen=seen)
        self._right.require()
        crashpoints.reached("vnode.patch_node_status.before")
        self._node = await self._client.patch(
            resources.NODES,
            self._settings.name,
            {"metadata": {"uid": seen.metadata.uid}, "status": status},
            subresource="status",
            patch_type=clients.PatchType.STRATEGIC,
            field_manager=FIELD_MANAGER,
        )
        crashpoints.reached("vnode.patch_node_status.after")
        return self._node

    async def _until_done(self, step: Callable[[], Awaitable[object]]) -> None:
        failures = 0
        while True:
            try:
                await step()
            except (errors.KubeError, leadership.NotLeaderError) as error:
                failures += 1
                delay_s = self._backoff.delay_s(failures)
                log.warning(
                    "cannot keep the node object, trying again",
                    node=self._settings.name,
                    next_try_s=round(delay_s, 2),
                    error=str(error),
                )
                await asyncio.sleep(delay_s)
            else:
                return
