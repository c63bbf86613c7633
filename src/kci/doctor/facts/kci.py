"""The KCI service as the virtual node reaches it."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

from kci.client import client as kci_clients
from kci.client import credentials as sources
from kci.client import errors, networks
from kci.doctor import threads
from kci.doctor.facts import cluster as cluster_facts
from kci.doctor.facts import connection
from kci.doctor.findings import cluster as cluster_findings
from kci.doctor.findings import finding
from kci.doctor.findings import kci as findings
from kci.kit import clock
from kci.kube import signing_requests
from kci.provider import credentials, key_settings
from kci.provider import settings as node_settings

T = TypeVar("T")
CALL_TIMEOUT_S = 6.0


class Service:
    """Used as `async with`. `cluster` is needed for keys that stand there."""

    def __init__(self, settings: node_settings.Settings, cluster: cluster_facts.Cluster | None) -> None:
        self._settings = settings
        self._cluster = cluster
        self._stack = contextlib.AsyncExitStack()
        self._client: kci_clients.KciClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def try_keys(self) -> errors.KciError | None:
        """A read that every service knows."""
        client = await self._open()
        try:
            _ = await client.describe_kci_packages()
        except errors.KciError as error:
            if isinstance(error, errors.UnreachableError) and error.reached is False:
                raise finding.NotAtHandError("the KCI endpoint is not reached") from error
            return error
        return None

    async def networks(self) -> findings.Networks:
        """NotAtHandError from a service that cannot be asked for them."""
        client, settings = await self._open(), self._settings
        subnets = await _listed(client.vpc.list_subnets, (settings.subnet_id,) if settings.subnet_id else ())
        groups = await _listed(client.vpc.list_security_groups, settings.security_group_ids)
        subnet = next((one for one in subnets if one.subnet_id == settings.subnet_id), None)
        free = subnet.available_ip_number if subnet else ""
        return findings.Networks(
            settings.subnet_id,
            settings.security_group_ids,
            has_subnet=subnet is not None,
            subnet_vpc=subnet.vpc_id if subnet else "",
            free_addresses=int(free) if str(free).isdecimal() else None,
            group_vpcs=tuple((one.security_group_id, one.vpc_id) for one in groups),
        )

    async def subnets(self) -> list[tuple[str, str]]:
        """All of them: id and CIDR."""
        client = await self._open()
        try:
            return [(one.subnet_id, one.cidr_block) for one in await client.vpc.list_subnets()]
        except errors.KciError as error:
            raise finding.NotAtHandError(f"the KCI service does not tell its subnets: {error}") from error

    async def temporary_keys(self) -> list[findings.TemporaryKeys]:
        keys = self._settings.keys
        source = await self._source()
        if isinstance(keys, key_settings.Fixed) or not isinstance(source, credentials.Changing):
            raise finding.NotAtHandError("the key pair is fixed, not temporary")
        places = await source.look()
        if not isinstance(keys, key_settings.InCluster):
            return [_to_keys(place, signing_requests.user_of(self._settings.node_name)) for place in places]
        user = (await self._of_cluster().account()).name
        return [
            _to_keys(place, user, unread=await self._refusal(reference))
            for place, reference in zip(places, keys.references, strict=True)
        ]

    async def _refusal(self, reference: credentials.Reference) -> str:
        """What the virtual node's account may not do with it, whatever we may; empty if it may read it."""
        rights = cluster_findings.rights_to_read(
            reference.resource.plural, reference.namespace, reference.name
        )
        cluster = self._of_cluster()
        denied = await cluster.denied_to_account(rights)
        verbs = " and ".join(one.attributes.verb for one in denied)
        return f"{(await cluster.account()).name} may not {verbs} it" if denied else ""

    async def _open(self) -> kci_clients.KciClient:
        if self._client is None:
            with contextlib.suppress(OSError):
                await threads.in_thread(connection.resolve, connection.url_of(self._settings.endpoint))
            client = kci_clients.KciClient(
                self._settings.endpoint,
                region=self._settings.region,
                credentials=await self._source(),
                timeout_s=CALL_TIMEOUT_S,
                read_attempts=1,
            )
            self._client = await self._stack.enter_async_context(client)
        return self._client

    async def _source(self) -> sources.CredentialSource:
        wall = clock.SystemClock()
        match self._settings.keys:
            case key_settings.Fixed(keys):
                return sources.Static(keys)
            case key_settings.InFolder(path, cipher_key):
                return credentials.Folder(path, cipher_key=cipher_key, clock=wall)
            case key_settings.InCluster(references, cipher_key):
                client = await self._of_cluster().as_node()
                return credentials.Cluster(client, references, cipher_key=cipher_key, clock=wall)

    def _of_cluster(self) -> cluster_facts.Cluster:
        if self._cluster is None:
            raise finding.NotAtHandError("the keys stand in the cluster, and no cluster is at hand")
        return self._cluster


def _to_keys(place: credentials.Place, user: str, unread: str = "") -> findings.TemporaryKeys:
    """`unread`: why the virtual node cannot read them, if we can."""
    if unread := place.unread or unread:
        remedy = f"let {user} get, list and watch it (docs/how-to/use-temporary-keys.md)"
        return findings.TemporaryKeys(place.name, problem=unread, remedy=remedy)
    if place.wrong or place.keys is None:
        remedy = "put ak, sk, securityToken and expired_at there: kci credentials issue | kubectl apply -f -"
        return findings.TemporaryKeys(place.name, problem=place.wrong or "it has no keys", remedy=remedy)
    return findings.TemporaryKeys(place.name, end=place.keys.expires_at)


async def _listed(call: Callable[[Sequence[str]], Awaitable[list[T]]], ids: Sequence[str]) -> list[T]:
    """Those of these ids that there are. NotAtHandError from a service that has no such call, as it says."""
    found = []
    for one in ids:
        try:
            answer = await networks.known(call((one,)))
        except errors.NotFoundError:
            continue
        except errors.KciError as error:
            raise finding.NotAtHandError(f"the KCI service does not tell: {error}") from error
        if answer is None:
            raise finding.NotAtHandError("this KCI service tells nothing of networks")
        found += answer
    return found
