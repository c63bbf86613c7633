"""The provider `kingsoftcloud`: the virtual node's port, answered by KCI.

What it must know before the first create (what the service can do, and which kubeconfig instances get) is
found out by `run`, in the background and for ever: so the node is Ready at once, whatever KCI does, and a
create waits for it a little, then is asked to come again.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

import structlog

from kci.client import client as clients
from kci.client import errors
from kci.contract import capabilities, ids
from kci.kit import backoff as backoffs
from kci.kit import secret
from kci.kube import errors as kube_errors
from kci.kube import models
from kci.provider import faults, streams, watcher
from kci.provider.plan import group
from kci.vnode import provider

log = structlog.get_logger(__name__)

# Nobody knows how long Kingsoft's listings lag behind; a service that tells its changes does not lag.
CONSISTENCY_WINDOW_S = 120.0
READY_TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True)
class _Prepared:
    capabilities: capabilities.Capabilities
    kubeconfig: secret.Secret


class KingsoftCloud:
    """provider.Provider, LogProvider and ExecProvider."""

    def __init__(
        self,
        client: clients.KciClient,
        defaults: group.Defaults,
        *,
        find_kubeconfig: Callable[[], Awaitable[secret.Secret]],
    ) -> None:
        self._client = client
        self._defaults = defaults
        self._find_kubeconfig = find_kubeconfig
        self._watcher = watcher.Watcher(client, cluster_id=defaults.cluster_id, node_name=defaults.node_name)
        self._backoff = backoffs.Backoff(initial_s=0.2, cap_s=30.0)
        self._prepared: _Prepared | None = None
        self._ready = asyncio.Event()
        self._trouble = "no answer yet"

    async def run(self) -> None:
        """Find out what is needed, until it is known; UserError where only a person can help."""
        failures = 0
        while self._prepared is None:
            try:
                kubeconfig = await self._find_kubeconfig()
                offered = await self._client.describe_capabilities()
            except (errors.KciError, kube_errors.KubeError) as error:
                failures += 1
                self._trouble = str(error)
                delay_s = self._backoff.delay_s(failures)
                log.warning("cannot prepare for creates", next_try_s=round(delay_s, 2), error=str(error))
                await asyncio.sleep(delay_s)
                continue
            self._prepared = _Prepared(offered, kubeconfig)
            log.info("ready for creates", capabilities=sorted(offered.names))
            self._ready.set()
        await asyncio.Event().wait()

    # ---- provider.Provider ---------------------------------------------------------------------

    @property
    def consistency_window_s(self) -> float:
        watched = self._prepared is not None and self._prepared.capabilities.has(capabilities.GROUP_WATCH)
        return 0.0 if watched else CONSISTENCY_WINDOW_S

    def refusals(self, pod: models.Pod) -> Sequence[provider.Refusal]:
        return group.find_refusals(pod, self._defaults)

    async def create_instance(self, pod: models.Pod) -> provider.InstanceId:
        prepared = await self._wait_prepared()
        request = group.to_group(
            pod,
            self._defaults,
            kubeconfig=prepared.kubeconfig,
            with_pod_uuid=prepared.capabilities.has(capabilities.LABEL_POD_UUID),
        )
        self._watcher.expect_change()
        try:
            return provider.InstanceId(await self._client.create_container_group(request))
        except errors.NotFoundError as error:
            # What the request names is missing: a subnet, a security group.
            raise provider.RefusedError(error.code or "NotFound", str(error)) from error
        except errors.KciError as error:
            raise faults.to_provider_error(error) from error

    async def remove_instance(self, instance_id: provider.InstanceId) -> None:
        self._watcher.expect_change()
        try:
            with faults.translated():
                await self._client.delete_container_group(ids.GroupId(instance_id))
        except provider.NotFoundError:
            log.info("instance was gone already", instance=instance_id)

    async def list_instances(self) -> provider.Listing:
        return await self._watcher.list_now()

    async def changes(self) -> AsyncIterator[provider.Change]:
        await self._ready.wait()
        by_stream = (await self._wait_prepared()).capabilities.has(capabilities.GROUP_WATCH)
        async for change in self._watcher.changes(by_stream=by_stream):
            yield change

    # ---- streams -------------------------------------------------------------------------------

    async def open_log(
        self, target: provider.Target, options: models.PodLogOptions
    ) -> AsyncGenerator[bytes, None]:
        prepared = await self._wait_prepared()
        can_stream = prepared.capabilities.has(capabilities.LOG_STREAM)
        opener = streams.open_log_stream if can_stream else streams.open_log_tail
        return await opener(self._client, ids.GroupId(target.instance_id), target.container, options)

    async def open_exec(self, target: provider.Target, options: models.PodExecOptions) -> provider.ExecStream:
        return await streams.open_exec(
            self._client, ids.GroupId(target.instance_id), target.container, options
        )

    async def _wait_prepared(self) -> _Prepared:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise provider.TryLaterError(
                "ProviderNotReady", f"cannot use the container instance service yet: {self._trouble}"
            ) from error
        assert self._prepared is not None
        return self._prepared
