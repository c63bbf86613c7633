"""The program `virtual-kubelet`: settings read, everything wired, run until told to stop.

Order of a start: the node has its identity, for which it may have to wait; the kubelet API listens; once this
copy holds the node's Lease, node and pods begin together and end with it (a term). Order of a stop: no new
work, the Lease released, streams and connections closed; pods and their instances are left exactly as they
are.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Callable, Mapping

import structlog

import kci
from kci.client import client as kci_clients
from kci.kit import clock, crashpoints, environment, errors, logs, tasks, tracing
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import events, models, reasons, reflector, resources
from kci.provider import (
    cloud,
    identity,
    instruments,
    kubeconfig,
    node_access,
    node_identity,
    role,
    service_access,
    signing_keys,
)
from kci.provider import settings as settings_module
from kci.provider.plan import group
from kci.vnode import (
    auth,
    leadership,
    lease,
    node,
    node_controller,
    observers,
    pod_api,
    pod_controller,
    provider,
    server,
)
from kci.vnode.streaming import handlers
from kci.vnode.usage import handlers as usage_handlers
from kci.vnode.usage import keeper as usage_keeper

log = structlog.get_logger(__name__)

USER_AGENT = f"virtual-kubelet/{kci.__version__}"
# Without a Lease the node's status is the heartbeat.
STATUS_HEARTBEAT_S = 10.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main() -> None:
    """The entry point; exits with 0 after an orderly stop, with 1 and one sentence if it cannot run."""
    try:
        variables = environment.read()
        settings = settings_module.parse(sys.argv[1:], variables)
        logs.configure(settings.log_level)
        crashpoints.arm(variables.get(crashpoints.ENVIRONMENT, ""))
        for warning in settings.warnings:
            log.warning("a setting does not do what it may seem to", warning=warning)
        config = _cluster_config(settings)
        node_identity.check_client_ca(
            config, settings.node_name, is_named=settings.client_ca_file is not None
        )
        sys.exit(tasks.run_program(lambda stop: run(settings, config, stop)))
    except errors.UserError as error:
        sys.exit(f"virtual-kubelet: {error}")


def _cluster_config(settings: settings_module.Settings) -> configs.ClusterConfig:
    return configs.load(settings.kubeconfig) if settings.kubeconfig else configs.in_cluster()


async def run(settings: settings_module.Settings, config: configs.ClusterConfig, stop: asyncio.Event) -> int:
    """Until `stop` is set."""
    programs: list[_Program] = []
    measured = instruments.make(queue_depth=lambda: sum(one.queue_depth for one in programs))
    async with (
        measured.registry.served(settings.metrics_address),
        tracing.opened("virtual-kubelet", kci.__version__, environment.read()) as tracer,
        node_access.opened(
            settings, config, stop, user_agent=USER_AGENT, on_call=measured.on_kube_call
        ) as access,
    ):
        if access is not None:
            with identity.claimed(settings.identity, settings.identity_file) as copy:
                await _run(settings, access, copy, measured.traced_by(tracer), programs, stop)
    log.info("stopped")
    return 0


async def _run(
    settings: settings_module.Settings,
    access: node_access.Access,
    copy: str,
    measured: instruments.Instruments,
    programs: list[_Program],
    stop: asyncio.Event,
) -> None:
    async with (
        signing_keys.followed(settings.keys, access.account, node_name=settings.node_name) as keys,
        kci_clients.KciClient(
            settings.endpoint,
            region=settings.region,
            credentials=keys,
            # Whoever calls comes again by itself, and knows when the endpoint is down.
            read_attempts=1,
            on_call=measured.on_kci_call,
        ) as kci_client,
    ):
        program = _Program(settings, copy, access, kci_client, measured.node)
        programs.append(program)
        async with program.server.running():
            log.info(
                "started",
                node=settings.node_name,
                copy=copy,
                version=kci.__version__,
                endpoint=settings.endpoint,
                kubelet_port=settings.kubelet_port,
            )
            await tasks.first_of(stop.wait(), program.work(), name="virtual-kubelet")
            if program.lease is not None:
                await program.lease.release()


class _Program:
    """Everything, wired: what lasts as long as the program, and a term whenever this copy may act."""

    def __init__(
        self,
        settings: settings_module.Settings,
        copy: str,
        access: node_access.Access,
        kci_client: kci_clients.KciClient,
        observed: observers.Observers,
    ) -> None:
        self._settings = settings
        self._access = access
        self._observed = observed
        self._registered = asyncio.Event()
        self._node: tasks.Latest[models.Node | None] = tasks.Latest(None)
        # None: no Lease, so there must be no other copy.
        self.lease = (
            lease.LeaseKeeper(access.lease, node_name=settings.node_name, identity=copy)
            if settings.node_lease
            else None
        )
        self._right: leadership.Right = self.lease or leadership.Always()
        self._term: _Term | None = None
        self._cloud = cloud.KingsoftCloud(
            kci_client,
            _defaults(settings),
            right=self._right,
            find_kubeconfig=kubeconfig.Handed(
                access.account,
                access.handed_on,
                cluster_server=settings.cluster_server,
                service_host=settings.service_host,
            ).find,
            on_watch_restart=observed.watch_restart,
        )
        pods = _Pods(self._right, lambda: self._term)
        self.server = server.Server(
            _server_settings(settings),
            tls=access.tls,
            gate=auth.Gate(access.node, node_name=settings.node_name),
            streams=self._cloud,
            pods=pods,
            usage=usage_handlers.Handlers(
                usage_keeper.UsageKeeper(self._cloud, pods=pods.all, clock=clock.SystemClock()),
                node_name=settings.node_name,
            ),
        )

    @property
    def queue_depth(self) -> int:
        return 0 if self._term is None else self._term.controller.depth

    async def work(self) -> None:
        async with tasks.Tasks() as group_of_tasks:
            spawn = group_of_tasks.run_forever
            spawn("provider", self._cloud.run())
            group_of_tasks.start(
                "services",
                service_access.ensure(
                    self._access.account, self._access.handed_on(), is_needed=self._settings.kube_proxy
                ),
            )
            spawn("access", self._access.keep())
            if self._access.has_account:
                spawn("role", role.keep(self._access.account, self._node.changes()))
            if self._settings.startup_timeout_s:
                spawn("startup", self._limit_start(self._settings.startup_timeout_s))
            if self.lease is None:
                spawn("term", self._act())
            else:
                spawn("lease", self.lease.run())
                spawn("terms", self.lease.run_terms(self._act))

    async def _act(self) -> None:
        """One term. It begins as a start of the program does: nothing is known, all is looked at."""
        self._term = _Term(
            self._settings, self._access.node, self._right, self._cloud, self._on_registered, self._observed
        )
        try:
            await self._term.work()
        finally:
            self._term = None

    def _on_registered(self, seen: models.Node) -> None:
        self._registered.set()
        self._node.set(seen)
        if self.lease is not None:
            self.lease.hold_for(seen)

    async def _limit_start(self, timeout_s: float) -> None:
        """UserError unless the node is registered in time, or another copy acts for it."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._registered.wait()
        except TimeoutError:
            if self.lease is None or not self.lease.is_anothers:
                raise errors.UserError(
                    f"cannot start the node {self._settings.node_name}: it is not registered within "
                    f"--startup-timeout ({timeout_s:g} s); the warnings before this say why"
                ) from None
        await asyncio.Event().wait()


class _Term:
    """Everything that acts, and what it knows."""

    def __init__(
        self,
        settings: settings_module.Settings,
        client: clients.Client,
        right: leadership.Right,
        pod_provider: provider.Provider,
        on_registered: Callable[[models.Node], None],
        observed: observers.Observers,
    ) -> None:
        self._name = settings.node_name
        self._recorder = events.EventRecorder(client, component="virtual-kubelet", host=settings.node_name)
        self.controller = pod_controller.PodController(
            pod_provider=pod_provider,
            api=pod_api.ClusterPodApi(client, node_name=settings.node_name, right=right),
            events=pod_api.RecordedEvents(self._recorder),
            workers=settings.pod_sync_workers,
            sweep_interval_s=settings.full_resync_s,
            observed=observed,
        )
        self.reflector = reflector.Reflector(
            client,
            resources.PODS,
            field_selector=pod_api.pod_selector(settings.node_name),
            on_change=self.controller.on_change,
            on_restart=observed.watch_restart,
        )
        self.controller.watch(self.reflector.objects, self.reflector.synced)
        self._node = node_controller.NodeController(
            client,
            _node_settings(settings),
            right=right,
            status_interval_s=(
                node_controller.STATUS_INTERVAL_S if settings.node_lease else STATUS_HEARTBEAT_S
            ),
            on_registered=on_registered,
            on_trouble=self._tell_of_node,
        )

    def _tell_of_node(self, reason: reasons.OfNode, message: str) -> None:
        about = events.of_node(self._name)
        self._recorder.record(about, type=events.WARNING, reason=reason, message=message)

    async def work(self) -> None:
        async with tasks.Tasks() as group_of_tasks:
            spawn = group_of_tasks.run_forever
            spawn("node", self._node.run())
            spawn("pod watch", self.reflector.run())
            spawn("pods", self.controller.run())
            spawn("events", self._recorder.run())


class _Pods:
    """server.Pods: what this copy knows, while it may speak for the node."""

    def __init__(self, right: leadership.Right, term: Callable[[], _Term | None]) -> None:
        self._right = right
        self._term = term

    def all(self) -> Mapping[str, models.Pod]:
        return self._current().controller.all_pods()

    def instance_of(self, uid: models.PodUid) -> provider.Instance | None:
        return self._current().controller.instance_of(uid)

    def _current(self) -> _Term:
        self._right.require()
        term = self._term()
        if term is None:
            raise leadership.NotLeaderError("cannot say anything of the node's pods: the term only begins")
        return term


def _defaults(settings: settings_module.Settings) -> group.Defaults:
    return group.Defaults(
        cluster_id=settings.cluster_id,
        node_name=settings.node_name,
        cluster_domain=settings.cluster_domain,
        cluster_dns=settings.cluster_dns,
        node_dns=settings.node_dns,
        subnet_id=settings.subnet_id,
        security_group_ids=settings.security_group_ids,
        kube_proxy=settings.kube_proxy,
        instance_settings=settings.instance_settings,
        table=settings.table,
        strict_sizes=settings.strict_sizes,
        sum_containers_only=settings.sum_containers_only,
    )


def _node_settings(settings: settings_module.Settings) -> node.NodeSettings:
    return node.NodeSettings(
        name=settings.node_name,
        address=settings.node_address,
        kubelet_port=settings.kubelet_port,
        version=kci.__version__,
        taints=settings.taints,
        labels=settings.labels,
        capacity=settings.capacity,
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
    )


def _server_settings(settings: settings_module.Settings) -> server.ServerSettings:
    return server.ServerSettings(
        address=settings.node_address,
        port=settings.kubelet_port,
        streams=handlers.StreamSettings(
            creation_timeout_s=settings.stream_creation_s, idle_timeout_s=settings.stream_idle_s
        ),
    )


if __name__ == "__main__":
    main()
