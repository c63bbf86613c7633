"""The kubeconfig that is handed to instances: the node's own identity, or the one that
`kciletKubeconfigPath` names, with a server they can reach.

Never an administrator's: whoever runs in an instance's machine could take it. And never a pod's
ServiceAccount: its token ends within the hour, and the guide's has all rights.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Callable

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from kci.kit import errors as kit_errors
from kci.kit import secret
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import errors, resources

log = structlog.get_logger(__name__)

_SERVICE_LABEL = "kubernetes.io/service-name=kubernetes"
_OWN_IDENTITY = (
    "let kciletKubeconfigPath in the file of --provider-config name one with the node's own client "
    "certificate (user system:node:<nodename>, group system:nodes), or leave it out: the node then asks for "
    "that itself"
)
_REMEDY = "set KCI_CLUSTER_SERVER to the API server's ip:port"


class Handed:
    """The kubeconfig of the moment: the identity may be renewed, the server is found out once."""

    def __init__(
        self,
        client: clients.Client,
        identity: Callable[[], configs.ClusterConfig],
        *,
        cluster_server: str,
        service_host: str,
    ) -> None:
        self._client = client
        self._identity = identity
        self._cluster_server = cluster_server
        self._service_host = service_host
        self._server = ""
        self._rendered: tuple[configs.ClusterConfig, secret.Secret] | None = None

    async def find(self) -> secret.Secret:
        """Raises UserError where only a person can help, KubeError where trying again may; neither once it
        was found.
        """
        config = self._identity()
        if self._rendered is None or self._rendered[0] is not config:
            if not self._server:
                self._server = await self._find_server(config)
            self._rendered = config, secret.Secret(configs.render(config, server=self._server))
        return self._rendered[1]

    async def _find_server(self, config: configs.ClusterConfig) -> str:
        server = choose_server(
            config.server, cluster_server=self._cluster_server, service_host=self._service_host
        )
        return server if server is not None else await _endpoint_of_service(self._client)


def choose_server(own_server: str, *, cluster_server: str, service_host: str) -> str | None:
    """The server that instances use; None if it has to be asked for. Pure."""
    if cluster_server:
        return cluster_server if "://" in cluster_server else f"https://{cluster_server}"
    host = urllib.parse.urlsplit(own_server).hostname or ""
    # A ClusterIP, under its address or name, is made by each machine's own kube-proxy.
    if host == service_host or host.endswith((".svc", ".svc.cluster.local")) or _is_loopback(host):
        return None
    return own_server


def check_identity(config: configs.ClusterConfig) -> None:
    """UserError if this identity must not leave this program."""
    if config.token_file is not None:
        raise kit_errors.UserError(f"cannot hand a ServiceAccount's token to instances: {_OWN_IDENTITY}")
    organizations = _organizations(config.client_certificate_pem)
    if "system:masters" in organizations:
        raise kit_errors.UserError(
            f"cannot hand an administrator's certificate to instances: {_OWN_IDENTITY}"
        )
    if "system:nodes" not in organizations:
        log.warning("instances get an identity that is no node's: check that its rights are few")


def _organizations(certificate_pem: str) -> list[str]:
    if not certificate_pem:
        return []
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    except ValueError as error:
        raise kit_errors.UserError(f"cannot read the kubeconfig's client certificate: {error}") from error
    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]


async def _endpoint_of_service(client: clients.Client) -> str:
    try:
        slices = await client.list_all(
            resources.ENDPOINT_SLICES, namespace="default", label_selector=_SERVICE_LABEL
        )
    except errors.ForbiddenError as error:
        raise kit_errors.UserError(
            "cannot find an API server address for instances: its kubeconfig's server is for this machine "
            f"only, and the endpoints of default/kubernetes may not be read; {_REMEDY}"
        ) from error
    for part in slices.items:
        for endpoint in part.endpoints or ():
            for address in endpoint.addresses:
                port = next((port.port for port in part.ports or () if port.port), 443)
                return f"https://{f'[{address}]' if ':' in address else address}:{port}"
    raise kit_errors.UserError(
        f"cannot find an API server address for instances: default/kubernetes has no endpoint; {_REMEDY}"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
