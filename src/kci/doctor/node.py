"""The questions about the virtual node as its cluster sees it, and about what its pods reach."""

from __future__ import annotations

import dataclasses
import urllib.parse

from cryptography import x509

import kci
from kci.doctor import examination, threads
from kci.doctor import subject as subjects
from kci.doctor.facts import cluster as facts
from kci.doctor.facts import connection as connections
from kci.doctor.facts import dns as dns_facts
from kci.doctor.findings import connection, dns, finding
from kci.doctor.findings import node as findings
from kci.kit import clock, pki
from kci.kit import errors as kit_errors
from kci.kube import config as configs
from kci.kube import errors, models, resources
from kci.provider import kubeconfig
from kci.stack import clusterdns
from kci.vnode import lease
from kci.vnode import node as nodes

AREA = "node"
WHAT = "the API server, as instances reach it, at"


@dataclasses.dataclass(frozen=True)
class Questions:
    cluster: facts.Cluster
    node: subjects.Node
    # Whether what the API server and instances reach is reached from here as well.
    is_here: bool

    @property
    def name(self) -> str:
        return self.node.settings.node_name

    async def settings(self) -> examination.Found:
        """The virtual node's flags and variables."""
        if not self.node.is_told:
            raise finding.NotAtHandError(subjects.NOT_TOLD)
        found = findings.judge_settings(self.node.problems, self.node.settings.warnings)
        if self.node.unread_config:
            found.append(finding.unseen(f"--provider-config={self.node.unread_config} is not here"))
        return found

    async def ready(self) -> examination.Found:
        """The Node object is there, is a virtual node's, and is Ready; its other conditions."""
        return findings.judge_node(await self._get_node(), self.name, self.node.place, log=self.node.log)

    async def heartbeat(self) -> examination.Found:
        """Its Lease is fresh, and somebody holds it."""
        if not self.node.settings.node_lease:
            raise finding.NotAtHandError("--enable-node-lease=false: the node's status is its heartbeat")
        found = await self.cluster.get(resources.LEASES, self.name, namespace=lease.NAMESPACE)
        return findings.judge_lease(found, self.name, clock.SystemClock().now(), log=self.node.log)

    async def taints(self) -> examination.Found:
        """Its taints are those that it was told."""
        settings, seen = self.node.settings, await self._get_node()
        if seen is None:
            raise finding.NotAtHandError(f"there is no node {self.name}")
        if not self.node.is_told:
            raise finding.NotAtHandError(subjects.NOT_TOLD)
        if self.node.unread_config:
            raise finding.NotAtHandError(
                f"--provider-config={self.node.unread_config} is not here, and may name them"
            )
        wanted = nodes.NodeSettings(
            name=self.name,
            address=settings.node_address,
            kubelet_port=settings.kubelet_port,
            version=kci.__version__,
            taints=settings.taints,
        )
        return findings.judge_taints(seen, wanted, self.node.place)

    async def kubelet_api(self) -> examination.Found:
        """The API server reaches its port 10250."""
        if await self._get_node() is None:
            raise finding.NotAtHandError(f"there is no node {self.name}")
        answer, problem = await self.cluster.healthz_of_node(self.name)
        return findings.judge_proxy(answer, problem, self.name, self.node.place, log=self.node.log)

    async def serving_certificate(self) -> examination.Found:
        """What it serves there with is good: end, names, signer."""
        address, port = await self._find_address()
        place = f"{address}:{port}"
        try:
            found = await threads.in_thread(connections.read_certificate, address, port)
        except OSError as error:
            return findings.judge_unserved(place, str(error), self.node.place)
        if found is None:
            raise finding.NotAtHandError(f"the kubelet API {place} is not reached from here")
        served = findings.Served(
            frozenset(pki.server_names(found)),
            found.not_valid_after_utc,
            _is_of(found, self.cluster.config.ca_pem),
        )
        expected = (self.name, address)
        return findings.judge_served(
            served, self.node.place, expected=expected, now=clock.SystemClock().now()
        )

    async def server_of_instances(self) -> examination.Found:
        """The API server's address that instances are given, and its certificate."""
        settings = self.node.settings
        config = self.cluster.node_config
        if not settings.cluster_server and self.node.why_not_itself:
            raise finding.NotAtHandError(f"{self.node.why_not_itself}, and its instances as another one")
        server = self.node.server_of_instances or await self._find_server()
        seen = await threads.in_thread(
            connections.try_url, server, self.cluster.tls_context(), config.tls_server_name
        )
        reached = seen.obstacle in {None, connection.Obstacle.CERTIFICATE, connection.Obstacle.TLS}
        if not reached and not self.is_here:
            raise finding.NotAtHandError(
                f"{seen.place} is not reached from here, and perhaps is by instances"
            )
        remedy = "set KCI_CLUSTER_SERVER to an ip:port that instances reach, and that its certificate is for"
        return connection.judge_reach(
            seen, WHAT, clock.SystemClock().now(), remedies=dict.fromkeys(connection.Obstacle, remedy)
        )

    async def dns(self) -> examination.Found:
        """The servers of `--cluster-dns` know the cluster's names."""
        settings = self.node.settings
        if not self.node.is_told:
            raise finding.NotAtHandError(subjects.NOT_TOLD)
        if not settings.cluster_dns:
            return dns.judge_none(self.node.place)
        name = f"kubernetes.default.svc.{settings.cluster_domain}"
        service_address = await self._find_dns_service()
        found = []
        for address in settings.cluster_dns:
            if address == service_address and not settings.kube_proxy:
                found.append(dns.judge_cluster_ip(address))
            else:
                reply = await threads.in_thread(dns_facts.ask, address, name)
                found.append(dns.judge_reply(reply, self.node.place, name=name, is_here=self.is_here))
        return found

    async def _get_node(self) -> models.Node | None:
        return await self.cluster.get(resources.NODES, self.name)

    async def _find_address(self) -> tuple[str, int]:
        """Where the kubelet API listens: as the node is told, else as it says of itself."""
        settings = self.node.settings
        if self.node.knows_address:
            return settings.node_address, settings.kubelet_port
        seen = await self._get_node()
        known = {one.type: one.address for one in seen.status.addresses} if seen is not None else {}
        if "InternalIP" not in known:
            raise finding.NotAtHandError(f"the node {self.name} has told no address")
        return known["InternalIP"], settings.kubelet_port

    async def _find_server(self) -> str:
        """By the endpoints of default/kubernetes, as the node does. Raises UserError. Whether a Deployment's
        account may read them is the question of its rights.
        """
        handed = kubeconfig.Handed(
            await self.cluster.as_node(),
            lambda: self.cluster.node_config,
            cluster_server=self.node.settings.cluster_server,
            # That it has to be found out is decided.
            service_host=urllib.parse.urlsplit(self.cluster.node_config.server).hostname or "",
        )
        try:
            return configs.parse((await handed.find()).reveal()).server
        except kit_errors.UserError as error:
            is_asked_by_us = self.node.service_account is not None or self.node.unread_identity
            if is_asked_by_us and isinstance(error.__cause__, errors.ForbiddenError):
                raise self.cluster.may_not("list endpointslices in default") from error
            raise

    async def _find_dns_service(self) -> str:
        client = await self.cluster.client()
        try:
            found = await client.get(resources.SERVICES, clusterdns.SERVICE, namespace=clusterdns.NAMESPACE)
        except (errors.NotFoundError, errors.ForbiddenError):
            return ""
        return found.spec.cluster_ip


def _is_of(certificate: x509.Certificate, authorities_pem: str) -> bool | None:
    if not authorities_pem:
        return None
    authorities = x509.load_pem_x509_certificates(authorities_pem.encode())
    return any(pki.is_issued_by(certificate, one) for one in authorities)


ALL = {
    "settings": Questions.settings,
    "Node": Questions.ready,
    "Lease": Questions.heartbeat,
    "taints": Questions.taints,
    "kubelet API": Questions.kubelet_api,
    "serving certificate": Questions.serving_certificate,
    "API server of instances": Questions.server_of_instances,
    "cluster DNS": Questions.dns,
}
