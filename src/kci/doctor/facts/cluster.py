"""The cluster behind one or two identities: who asks, and as whom the virtual node calls."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import types
from collections.abc import Sequence
from typing import Self, TypeVar

import msgspec

from kci.doctor import threads
from kci.doctor.facts import connection
from kci.doctor.findings import cluster as findings
from kci.doctor.findings import finding
from kci.kube import access, errors, models, resources, signing_requests, transport
from kci.kube import client as clients
from kci.kube import config as configs

T = TypeVar("T")
CALL_TIMEOUT_S = 6.0
USER_AGENT = "kci-doctor"


class _Version(msgspec.Struct, rename="camel"):
    git_version: str = ""


class Cluster:
    """Used as `async with`. Everything but `connect` waits for it, and raises NotAtHandError if it failed.
    `service_account` is the virtual node's own, where its identity is not at hand, and `unread_identity` the
    kubeconfig that it has and we have not.
    """

    def __init__(
        self,
        config: configs.ClusterConfig,
        node_config: configs.ClusterConfig,
        service_account: findings.ServiceAccount | None = None,
        unread_identity: str = "",
    ) -> None:
        self.config = config
        self.node_config = node_config
        self._service_account = service_account
        self._unread_identity = unread_identity
        self._stack = contextlib.AsyncExitStack()
        self._connected = asyncio.Event()
        self._why = "the API server does not answer us"
        self._client: clients.Client | None = None
        self._node_client: clients.Client | None = None
        self._user = access.User()
        self._node_user: access.User | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def connect(self) -> str:
        """The API server's version. Raises KubeError."""
        try:
            with contextlib.suppress(OSError):
                await threads.in_thread(connection.resolve, self.config.server)
            self._client = await self._open(self.config)
            same = self.node_config == self.config
            self._node_client = self._client if same else await self._open(self.node_config)
            version = await self._client.request("GET", "/version")
            self._user = await self._client.review_self()
            self._why = ""
            return msgspec.json.decode(version, type=_Version).git_version
        finally:
            self._connected.set()

    async def client(self) -> clients.Client:
        await self._connected.wait()
        if self._why or self._client is None:
            raise finding.NotAtHandError(self._why)
        return self._client

    async def caller(self) -> findings.Caller:
        """Who asks."""
        _ = await self.client()
        return findings.Caller(self._user.name, self.config.client_certificate_pem)

    async def as_node(self) -> clients.Client:
        """The identity that the virtual node was given; who asks, where it is not at hand."""
        _ = await self.client()
        assert self._node_client is not None
        return self._node_client

    async def account(self) -> access.User:
        """Whom the virtual node is by what it was given: itself, or who asks for its identity."""
        if self._unread_identity:
            raise finding.NotAtHandError(f"the node's --kubeconfig={self._unread_identity} is not here")
        user = await self._given_user()
        if self._service_account is None or signing_requests.GROUP in user.groups:
            return user
        return user if user.name == self._service_account.user.name else self._service_account.user

    async def get(self, resource: resources.Resource[T], name: str, *, namespace: str = "") -> T | None:
        """As who asks; None if there is none."""
        client = await self.client()
        try:
            return await client.get(resource, name, namespace=namespace)
        except errors.NotFoundError:
            return None
        except errors.ForbiddenError as error:
            raise self.may_not(f"get {resource.plural}") from error

    async def signing_requests(self) -> tuple[models.CertificateSigningRequest, ...]:
        client = await self.client()
        kind = resources.CERTIFICATE_SIGNING_REQUESTS
        try:
            return (await client.list_all(kind)).items
        except errors.ForbiddenError as error:
            raise self.may_not(f"list {kind.plural}") from error

    async def denied_to_node(self, node_name: str, rights: Sequence[findings.Right]) -> list[findings.Right]:
        """Which of these rights the node's user does not have."""
        user = access.User(
            name=signing_requests.user_of(node_name), groups=(signing_requests.GROUP, "system:authenticated")
        )
        return await self._denied_to(user, rights)

    async def denied_to_account(self, rights: Sequence[findings.Right]) -> list[findings.Right]:
        return await self._denied_to(await self.account(), rights)

    async def _denied_to(self, user: access.User, rights: Sequence[findings.Right]) -> list[findings.Right]:
        if (await self._given_user()).name == user.name:
            own = await self.as_node()
            return [one for one in rights if not await own.review_own_access(one.attributes)]
        client = await self.client()
        try:
            return [one for one in rights if not await client.review_access(user, one.attributes)]
        except errors.ForbiddenError as error:
            raise self.may_not("create subjectaccessreviews, as an administrator may") from error

    async def _given_user(self) -> access.User:
        if self._node_user is None:
            self._node_user = await (await self.as_node()).review_self()
        return self._node_user

    async def healthz_of_node(self, node_name: str) -> tuple[str, str]:
        """What the kubelet API answers through the API server, or why it does not."""
        client = await self.client()
        path = f"{resources.NODES.object_path(node_name, subresource='proxy')}/healthz"
        try:
            return (await client.request("GET", path)).decode(errors="replace"), ""
        except errors.ForbiddenError as error:
            # The kubelet API's own refusal has no reason in Kubernetes' words.
            if error.reason:
                raise self.may_not("get nodes/proxy") from error
            return "", str(error)
        except errors.KubeError as error:
            return "", str(error)

    def tls_context(self) -> ssl.SSLContext:
        """As instances verify the API server."""
        return transport.tls_context(self.config)

    def may_not(self, what: str) -> finding.NotAtHandError:
        return finding.NotAtHandError(f"{self._user.name} may not {what}: give an administrator's kubeconfig")

    async def _open(self, config: configs.ClusterConfig) -> clients.Client:
        client = clients.Client(config, user_agent=USER_AGENT, timeout_s=CALL_TIMEOUT_S)
        return await self._stack.enter_async_context(client)
