"""The program `virtual-kubelet`: settings read, everything wired, run until told to stop.

Order of a start: the kubelet API listens, then node, lease and pods begin together. Order of a stop: no
new work, streams closed, connections closed; pods and their instances are left exactly as they are.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Mapping

import structlog

import kci
from kci.client import client as kci_clients
from kci.client import credentials
from kci.contract import signing
from kci.kit import environment, errors, logs, tasks
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import events, models, reflector, resources
from kci.provider import cloud, kubeconfig
from kci.provider import settings as settings_module
from kci.provider.plan import group
from kci.vnode import auth, lease, node, node_controller, pod_api, pod_controller, provider, server

log = structlog.get_logger(__name__)

USER_AGENT = f"virtual-kubelet/{kci.__version__}"
# Without a Lease the node's status is the heartbeat.
STATUS_HEARTBEAT_S = 10.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main() -> None:
    """The entry point; exits with 0 after an orderly stop, with 1 and one sentence if it cannot run."""
    try:
        settings = settings_module.parse(sys.argv[1:], environment.read())
        logs.configure(settings.log_level)
        config = _cluster_config(settings)
        kubeconfig.check_identity(config)
        sys.exit(tasks.run_program(lambda stop: run(settings, config, stop)))
    except errors.UserError as error:
        sys.exit(f"virtual-kubelet: {error}")


def _cluster_config(settings: settings_module.Settings) -> configs.ClusterConfig:
    return configs.load(settings.kubeconfig) if settings.kubeconfig else configs.in_cluster()


async def run(settings: settings_module.Settings, config: configs.ClusterConfig, stop: asyncio.Event) -> int:
    """Until `stop` is set."""
    keys = credentials.Static(signing.Credentials(settings.access_key, settings.secret_key))
    async with (
        clients.Client(config, user_agent=USER_AGENT) as client,
        # Of its own: no other call may hold up the heartbeat.
        clients.Client(config, user_agent=USER_AGENT, timeout_s=lease.CALL_TIMEOUT_S) as lease_client,
        kci_clients.KciClient(settings.endpoint, region=settings.region, credentials=keys) as kci_client,
    ):
        program = _Program(settings, client, lease_client, kci_client)
        async with program.server.running():
            log.info(
                "started",
                node=settings.node_name,
                version=kci.__version__,
                kubelet_port=settings.kubelet_port,
            )
            await tasks.first_of(stop.wait(), program.work(), name="virtual-kubelet")
        log.info("stopped")
    return 0


class _Program:
    """Everything, wired."""

    def __init__(
        self,
        settings: settings_module.Settings,
        client: clients.Client,
        lease_client: clients.Client,
        kci_client: kci_clients.KciClient,
    ) -> None:
        self._settings = settings
        self._cloud = cloud.KingsoftCloud(
            kci_client,
            _defaults(settings),
            find_kubeconfig=lambda: kubeconfig.find_kubeconfig(
                client, cluster_server=settings.cluster_server, service_host=settings.service_host
            ),
        )
        self._recorder = events.EventRecorder(client, component="virtual-kubelet", host=settings.node_name)
        self._pods = pod_controller.PodController(
            pod_provider=self._cloud,
            api=pod_api.ClusterPodApi(client, node_name=settings.node_name),
            events=pod_api.RecordedEvents(self._recorder),
        )
        self._reflector = reflector.Reflector(
            client,
            resources.PODS,
            field_selector=pod_api.pod_selector(settings.node_name),
            on_change=self._pods.on_change,
        )
        self._pods.watch(self._reflector.objects, self._reflector.synced)
        self._lease = lease.LeaseKeeper(lease_client)
        self._node = node_controller.NodeController(
            client,
            _node_settings(settings),
            status_interval_s=(
                node_controller.STATUS_INTERVAL_S if settings.node_lease else STATUS_HEARTBEAT_S
            ),
            on_registered=self._lease.hold_for,
        )
        self.server = server.Server(
            _server_settings(settings),
            gate=auth.Gate(client, node_name=settings.node_name),
            streams=self._cloud,
            pods=_Pods(self._reflector.objects, self._pods),
        )

    async def work(self) -> None:
        async with tasks.Tasks() as group_of_tasks:
            spawn = group_of_tasks.run_forever
            spawn("node", self._node.run())
            if self._settings.node_lease:
                spawn("lease", self._lease.run())
            spawn("pod watch", self._reflector.run())
            spawn("pods", self._pods.run())
            spawn("provider", self._cloud.run())
            spawn("events", self._recorder.run())


class _Pods:
    """server.Pods."""

    def __init__(self, objects: Mapping[str, models.Pod], controller: pod_controller.PodController) -> None:
        self._objects = objects
        self._controller = controller

    def all(self) -> Mapping[str, models.Pod]:
        return self._objects

    def instance_of(self, uid: models.PodUid) -> provider.Instance | None:
        return self._controller.instance_of(uid)


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
    )


def _node_settings(settings: settings_module.Settings) -> node.NodeSettings:
    return node.NodeSettings(
        name=settings.node_name,
        address=settings.node_address,
        kubelet_port=settings.kubelet_port,
        version=kci.__version__,
        taint=node.DEFAULT_TAINT if settings.taint else None,
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
    )


def _server_settings(settings: settings_module.Settings) -> server.ServerSettings:
    return server.ServerSettings(
        address=settings.node_address,
        port=settings.kubelet_port,
        client_ca_file=settings.client_ca_file,
        certificate_file=settings.tls_cert_file,
        private_key_file=settings.tls_private_key_file,
    )


if __name__ == "__main__":
    main()
