"""The questions about the cluster: does it answer, as whom, what is allowed, what waits for somebody."""

from __future__ import annotations

import dataclasses

from kci.doctor import examination, threads
from kci.doctor import subject as subjects
from kci.doctor.facts import cluster as facts
from kci.doctor.facts import connection as connections
from kci.doctor.findings import cluster as findings
from kci.doctor.findings import connection, finding
from kci.kit import clock
from kci.kube import errors, resources, signing_requests
from kci.provider import client_authority

AREA = "cluster"
# Whoever needs the cluster waits first for whether it answers.
LIMIT_S = 2 * examination.LIMIT_S
WHAT = "the API server"
_REMEDIES = {
    connection.Obstacle.REFUSED: "start it, or correct clusters[].cluster.server of the kubeconfig: {place}",
    connection.Obstacle.CERTIFICATE: "give this cluster's kubeconfig, with its certificate-authority-data",
}
_NODE = "start the API server with --authorization-mode=Node,RBAC"


@dataclasses.dataclass(frozen=True)
class Questions:
    cluster: facts.Cluster
    node: subjects.Node

    @property
    def name(self) -> str:
        return self.node.settings.node_name

    async def api_server(self) -> examination.Found:
        """It answers, and is an API server."""
        now = clock.SystemClock().now()
        try:
            return findings.judge_version(await self.cluster.connect())
        except errors.UnauthorizedError:
            return findings.judge_unknown(self.cluster.config.client_certificate_pem, now)
        except errors.UnreachableError as error:
            seen = await self._try_server()
            if seen.obstacle is None:
                return finding.wrong(
                    f"{WHAT} {seen.place} takes connections and does not answer: {error}",
                    f"see whether it is ready: {self.node.place.inside('kubectl get --raw /readyz')}",
                )
            return connection.judge_reach(seen, WHAT, now, remedies=_REMEDIES)

    async def clock(self) -> examination.Found:
        """Our clock and the API server's agree."""
        _ = await self.cluster.client()
        return connection.judge_skew(await self._try_server(), WHAT)

    async def identity(self) -> examination.Found:
        """Whom the API server takes us for, and until when."""
        return findings.judge_caller(await self.cluster.caller(), clock.SystemClock().now())

    async def client_ca(self) -> examination.Found:
        """The cluster tells the CA of the kubelet API's clients."""
        if self.node.settings.client_ca_file is not None:
            raise finding.NotAtHandError(f"the node has it from {self.node.settings.client_ca_file}")
        published = await self.cluster.get(
            resources.CONFIG_MAPS, client_authority.NAME, namespace=client_authority.NAMESPACE
        )
        return findings.judge_client_ca(published.data if published is not None else {})

    async def requests(self) -> examination.Found:
        """No certificate request of the node waits for approval, or came to nothing."""
        account = (await self.cluster.account()).name
        return findings.judge_requests(
            await self.cluster.signing_requests(), self.name, account, self.node.place
        )

    async def rights_of_node(self) -> examination.Found:
        """What the node's user must be allowed."""
        await self._check_form()
        rights = findings.rights_of_node(self.name)
        denied = await self.cluster.denied_to_node(self.name, rights)
        user = signing_requests.user_of(self.name)
        return findings.judge_rights(user, denied, len(rights), remedy=_NODE)

    async def rights_of_account(self) -> examination.Found:
        """What the account that asks for the node's identity must be allowed."""
        user = (await self.cluster.account()).name
        if user == signing_requests.user_of(self.name):
            raise finding.NotAtHandError("the virtual node was given its identity, and asks nobody for it")
        await self._check_form()
        settings, account = self.node.settings, self.node.service_account
        rights = findings.rights_of_account(
            self.name,
            reads_client_ca=settings.client_ca_file is None,
            finds_server=self.node.server_of_instances is None,
        )
        denied = await self.cluster.denied_to_account(rights)
        if denied and account is not None and await self._is_absent(account):
            return findings.judge_absence(account)
        remedy = findings.remedy_of_account(user, self.name)
        return findings.judge_rights(user, denied, len(rights), remedy=remedy)

    async def services(self) -> examination.Found:
        """The node's user is bound to `system:node-proxier`."""
        await self._check_form()
        denied = await self.cluster.denied_to_node(self.name, [findings.to_services()])
        return findings.judge_services(
            signing_requests.user_of(self.name),
            self.node.place,
            may=not denied,
            is_needed=self.node.settings.kube_proxy,
        )

    async def _check_form(self) -> None:
        """NotAtHandError where the node may not be system:node:<name>."""
        if why := self.node.why_not_itself:
            user = (await self.cluster.account()).name
            if user != signing_requests.user_of(self.name):
                raise finding.NotAtHandError(why)

    async def _is_absent(self, account: findings.ServiceAccount) -> bool:
        """NotAtHandError where the node is there nevertheless."""
        found = await self.cluster.get(resources.SERVICE_ACCOUNTS, account.name, namespace=account.namespace)
        if found is not None:
            return False
        if await self.cluster.get(resources.NODES, self.name) is not None:
            raise finding.NotAtHandError(
                f"the node is there, and no ServiceAccount {account}: give --service-account, or the node's "
                "own --kubeconfig among its flags"
            )
        return True

    async def _try_server(self) -> connection.Connection:
        config = self.cluster.config
        return await threads.in_thread(
            connections.try_url, config.server, self.cluster.tls_context(), config.tls_server_name
        )


ALL = {
    "API server": Questions.api_server,
    "clock": Questions.clock,
    "identity": Questions.identity,
    "client CA": Questions.client_ca,
    "certificate requests": Questions.requests,
    "rights of the node": Questions.rights_of_node,
    "rights of the account": Questions.rights_of_account,
    "right to Services": Questions.services,
}
