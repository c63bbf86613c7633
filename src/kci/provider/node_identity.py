"""As whom the virtual node acts, and whose rights its instances get: always system:node:<nodename>.

What the program is given (a kubeconfig, or the ServiceAccount of its pod) is that identity already, or an
account that may ask for it. Such an account is used for what a node may not do itself (signing requests, the
client CA, the role label, the node's right to Services, keys in the cluster, the endpoints of the API server)
and for nothing else; it never leaves this program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib

import structlog

from kci.kit import errors as kit_errors
from kci.kit import secret
from kci.kube import access, errors, signing_requests
from kci.kube import client as clients
from kci.kube import config as configs
from kci.provider import node_certificates

log = structlog.get_logger(__name__)

FILE = "node-client.pem"


def is_given(config: configs.ClusterConfig, node_name: str) -> bool:
    """Whether this is the node's identity already, so that none need be asked for."""
    return signing_requests.is_identity(config.client_certificate_pem.encode(), node_name)


def as_node(account: configs.ClusterConfig, pair: signing_requests.Pair) -> configs.ClusterConfig:
    """The same cluster with the node's identity alone."""
    return dataclasses.replace(
        account,
        client_certificate_pem=pair.certificate_pem.decode(),
        client_key_pem=secret.Secret(pair.key_pem.decode()),
        token=None,
        token_file=None,
    )


def check_client_ca(config: configs.ClusterConfig, node_name: str, *, is_named: bool) -> None:
    """UserError if the CA of the kubelet API's clients will not be found."""
    if is_given(config, node_name) and not is_named:
        raise kit_errors.UserError(
            "cannot find the CA of the kubelet API's clients: a node may not read it in the cluster, so give "
            "--client-ca-file (the ConfigMap kube-system/extension-apiserver-authentication holds it as "
            "client-ca-file)"
        )


def _asking(subresource: str) -> access.Attributes:
    """What kube-controller-manager asks about a requester (pkg/controller/certificates/approver, v1.36)."""
    return access.Attributes(
        verb="create",
        group="certificates.k8s.io",
        resource="certificatesigningrequests",
        subresource=subresource,
    )


class Identity:
    """The node's identity, asked for by the account and renewed; `config` is the one of the moment, and the
    clients that were added become it.
    """

    def __init__(
        self,
        account: clients.Client,
        request: signing_requests.Request,
        *,
        node_name: str,
        state_folder: pathlib.Path | None,
        tell: node_certificates.Tell,
    ) -> None:
        self._account = account
        self._config: configs.ClusterConfig | None = None
        self._clients: list[clients.Client] = []
        self.keeper = node_certificates.Keeper(
            request,
            # The cluster approves it for whoever may have it; else a person does.
            node_certificates.Issuer(
                account,
                approver=None,
                node_name=node_name,
                tell=tell,
                find_requester=lambda _: self._find_requester(),
            ),
            file=state_folder / FILE if state_folder is not None else None,
            use=self._use,
            is_good=self._is_known,
        )

    @property
    def is_obtained(self) -> bool:
        return self._config is not None

    @property
    def config(self) -> configs.ClusterConfig:
        """Only once it is obtained."""
        assert self._config is not None
        return self._config

    def add(self, client: clients.Client) -> None:
        """A client that was opened with `config`."""
        self._clients.append(client)

    async def _find_requester(self) -> clients.Client:
        """Of the account and, for a renewal, the node itself the one whose request the cluster approves."""
        if not self._clients or await self._account.review_own_access(_asking("nodeclient")):
            return self._account
        # One that has run out asks for nothing any more.
        with contextlib.suppress(errors.UnauthorizedError):
            if await self._clients[0].review_own_access(_asking("selfnodeclient")):
                return self._clients[0]
        return self._account

    async def _use(self, pair: signing_requests.Pair) -> None:
        self._config = as_node(self._account.config, pair)
        for client in self._clients:
            await client.become(self._config)

    async def _is_known(self, pair: signing_requests.Pair) -> bool:
        """Whether the API server knows a kept identity: the cluster may be another one by now."""
        async with clients.Client(as_node(self._account.config, pair)) as client:
            try:
                _ = await client.review_self()
            except errors.UnauthorizedError:
                log.info("the kept identity is not known to this cluster, asking for another")
                return False
            except errors.KubeError as error:
                log.info("the kept identity was not tried", error=str(error))
        return True
