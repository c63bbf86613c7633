"""The provider `kingsoftcloud`: the virtual node's port, answered by KCI.

What it must know before the first create (what the service can do, and which kubeconfig instances get) is
found out by `run`, in the background and for ever: so the node is Ready at once, whatever KCI does, and a
create waits for it a little, then is asked to come again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence

import structlog

from kci.client import client as clients
from kci.client import errors
from kci.contract import capabilities, groups, ids, packages
from kci.contract import errors as catalogue
from kci.kit import backoff as backoffs
from kci.kit import crashpoints, observing, secret
from kci.kube import errors as kube_errors
from kci.kube import models, reasons
from kci.provider import annotations as pod_annotations
from kci.provider import faults, guarded, streams, usages, watcher
from kci.provider.plan import group
from kci.vnode import leadership, provider

log = structlog.get_logger(__name__)

# Nobody knows how long Kingsoft's listings lag behind; a service that tells its changes does not lag.
CONSISTENCY_WINDOW_S = 120.0
READY_TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True)
class _Prepared:
    capabilities: capabilities.Capabilities
    table: packages.Table


class KingsoftCloud:
    """provider.Provider, UsageProvider, and the stream protocols: logs, commands, attachments, ports."""

    def __init__(
        self,
        client: clients.KciClient,
        defaults: group.Defaults,
        *,
        right: leadership.Right,
        find_kubeconfig: Callable[[], Awaitable[secret.Secret]],
        on_watch_restart: observing.OnCount = observing.no_count,
    ) -> None:
        self._client = client
        self._api = guarded.GuardedApi(client)
        self._defaults = defaults
        self._right = right
        self._find_kubeconfig = find_kubeconfig
        self._watcher = watcher.Watcher(
            self._api,
            cluster_id=defaults.cluster_id,
            node_name=defaults.node_name,
            on_restart=on_watch_restart,
        )
        self._backoff = backoffs.Backoff(initial_s=0.2, cap_s=10.0)
        self._prepared: _Prepared | None = None
        self._ready = asyncio.Event()
        self._trouble = "no answer yet"

    async def run(self) -> None:
        """Find out what is needed, until it is known; UserError where only a person can help."""
        failures = 0
        while self._prepared is None:
            try:
                _ = await self._find_kubeconfig()
                offered = await self._api.describe_capabilities()
                table = await self._find_table()
            except (errors.KciError, provider.ProviderError, kube_errors.KubeError) as error:
                failures += 1
                self._trouble = str(error)
                delay_s = self._backoff.delay_s(failures)
                log.warning("cannot prepare for creates", next_try_s=round(delay_s, 2), error=str(error))
                await asyncio.sleep(delay_s)
                continue
            self._prepared = _Prepared(offered, table)
            log.info("ready for creates", capabilities=sorted(offered.names))
            self._ready.set()
        await asyncio.Event().wait()

    async def _find_table(self) -> packages.Table:
        """The service's sizes; those of the documentation if it does not tell them."""
        if self._defaults.table is not None:
            return self._defaults.table
        try:
            return await self._api.describe_kci_packages()
        except (errors.TryLaterError, errors.UnreachableError):
            raise
        except errors.KciError as error:
            log.warning("the service tells no sizes, taking those of the documentation", error=str(error))
            return packages.STANDARD

    # ---- provider.Provider ---------------------------------------------------------------------

    @property
    def consistency_window_s(self) -> float:
        watched = self._prepared is not None and self._prepared.capabilities.has(capabilities.GROUP_WATCH)
        return 0.0 if watched else CONSISTENCY_WINDOW_S

    def refusals(self, pod: models.Pod) -> Sequence[provider.Refusal]:
        decision = self._decide(pod)
        found = decision.refusals
        prepared = self._prepared
        if prepared is not None:
            with_pod_uuid = prepared.capabilities.has(capabilities.LABEL_POD_UUID)
            unsupported = group.retain_ip_refusal(decision, with_pod_uuid=with_pod_uuid)
            found = (*found, *([unsupported] if unsupported else []))
        if not found:
            return found
        # What is missing may well be there, under a name with a slip in it.
        slips = [notice.message for notice in pod_annotations.unknown(pod.metadata.annotations)]
        first = dataclasses.replace(found[0], message="; ".join((found[0].message, *slips)))
        return (first, *found[1:])

    def notices(self, pod: models.Pod) -> Sequence[provider.Notice]:
        return self._decide(pod).notices

    def _decide(self, pod: models.Pod) -> group.Decision:
        return group.decide(pod, self._defaults, self._offered())

    def _offered(self) -> packages.Table | None:
        return None if self._prepared is None else self._prepared.table

    async def create_instance(self, pod: models.Pod) -> provider.InstanceId:
        prepared = await self._wait_prepared()
        refusals = self.refusals(pod)
        if refusals:
            # The create was decided on when the sizes were not known yet.
            raise provider.RefusedError(refusals[0].reason, refusals[0].message)
        with observing.step("read kubeconfig"):
            # Of this moment: the node's identity is renewed from time to time.
            kubeconfig = await self._find_kubeconfig()
        request = group.to_group(
            pod,
            self._defaults,
            kubeconfig=kubeconfig,
            with_pod_uuid=prepared.capabilities.has(capabilities.LABEL_POD_UUID),
            with_bandwidth=prepared.capabilities.has(capabilities.BANDWIDTH),
            offered=prepared.table,
            fence=self._fence(),
        )
        self._watcher.expect_change()
        crashpoints.reached("provider.create_instance.before")
        try:
            with self._fenced(request.fence):
                group_id = await self._api.create_container_group(request)
        except errors.NotFoundError as error:
            # What the request names is missing: a subnet, a security group.
            raise provider.RefusedError(reasons.of_error(error.code or "NotFound"), str(error)) from error
        except errors.KciError as error:
            raise faults.to_provider_error(error) from error
        crashpoints.reached("provider.create_instance.after")
        return provider.InstanceId(group_id)

    async def remove_instance(self, instance_id: provider.InstanceId) -> None:
        # Before it is known what the service can do, a delete would go without its epoch.
        _ = await self._wait_prepared()
        fence = self._fence()
        self._watcher.expect_change()
        crashpoints.reached("provider.remove_instance.before")
        try:
            with faults.translated(), self._fenced(fence):
                await self._api.delete_container_group(ids.GroupId(instance_id), fence=fence)
        except provider.NotFoundError:
            log.info("instance was gone already", instance=instance_id)
        crashpoints.reached("provider.remove_instance.after")

    def _fence(self) -> groups.Fence | None:
        """Under which right to write, for a service that understands it; NotLeaderError if there is none."""
        epoch = self._right.require()
        prepared = self._prepared
        if epoch is None or prepared is None or not prepared.capabilities.has(capabilities.FENCED_WRITES):
            return None
        return groups.Fence(holder=f"{self._defaults.cluster_id}/{self._defaults.node_name}", epoch=epoch)

    @contextlib.contextmanager
    def _fenced(self, fence: groups.Fence | None) -> Iterator[None]:
        try:
            yield
        except errors.ConflictError as error:
            if fence is None or error.code != catalogue.STALE_EPOCH.code:
                raise
            self._right.refused(fence.epoch)
            raise leadership.NotLeaderError(str(error)) from error

    async def list_instances(self) -> provider.Listing:
        return await self._watcher.list_now()

    async def changes(self) -> AsyncIterator[provider.Change]:
        await self._ready.wait()
        by_stream = (await self._wait_prepared()).capabilities.has(capabilities.GROUP_WATCH)
        async for change in self._watcher.changes(by_stream=by_stream):
            yield change

    # ---- usage ----------------------------------------------------------------------------------

    async def read_usage(self) -> Sequence[provider.PodUsage] | None:
        """Sent past the endpoint's circuit: that nobody can say what pods use must keep no pod waiting."""
        prepared = await self._wait_prepared()
        if not prepared.capabilities.has(capabilities.GROUP_USAGE):
            return None
        with faults.translated():
            found = await self._client.describe_container_group_usage(
                cluster_id=self._defaults.cluster_id, node_name=self._defaults.node_name
            )
        return usages.to_pods(found)

    # ---- streams -------------------------------------------------------------------------------

    async def open_log(
        self, target: provider.Target, options: models.PodLogOptions, *, has_ended: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        prepared = await self._wait_prepared()
        group_id, container = ids.GroupId(target.instance_id), target.container
        if prepared.capabilities.has(capabilities.LOG_STREAM):
            # The service knows itself when there is nothing more to come.
            return await streams.open_log_stream(self._client, group_id, container, options)
        return await streams.open_log_tail(self._client, group_id, container, options, has_ended=has_ended)

    async def open_exec(self, target: provider.Target, options: models.PodExecOptions) -> provider.ExecStream:
        return await streams.open_exec(
            self._client, ids.GroupId(target.instance_id), target.container, options
        )

    async def open_attach(
        self, target: provider.Target, options: models.PodAttachOptions
    ) -> provider.ExecStream:
        await self._demand(capabilities.ATTACH, "attach to a container")
        return await streams.open_attach(
            self._client, ids.GroupId(target.instance_id), target.container, options
        )

    async def open_port(self, target: provider.PodTarget, port: int) -> provider.ExecStream:
        await self._demand(capabilities.PORT_FORWARD, "forward a port")
        return await streams.open_port(self._client, ids.GroupId(target.instance_id), port)

    async def _demand(self, capability: str, what: str) -> None:
        prepared = await self._wait_prepared()
        if not prepared.capabilities.has(capability):
            raise provider.RefusedError(
                "NotSupported", f"cannot {what}: the container instance service at hand does not offer it"
            )

    async def _wait_prepared(self) -> _Prepared:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise provider.UnavailableError(
                "ProviderNotReady", f"cannot use the container instance service yet: {self._trouble}"
            ) from error
        assert self._prepared is not None
        return self._prepared
