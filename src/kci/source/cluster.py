"""Pods of users' clusters.

All groups of one tenant's cluster, identity and node share one client and one watch
(`spec.nodeName=<node>`, all that the Node authorizer allows). A newer kubeconfig for the same identity
replaces the client under all of them; the pods known stay known meanwhile. Cluster ids and names are what
customers chose, and two may choose the same: nothing is shared between tenants.

What stays true: a pod counts as absent only when the API server itself said so of this pod, by a deletion
event or by a direct look; it never goes back to an older version; and a group that came without a UID
keeps the first pod seen under its name for good.

How old answers may be: ConfigMaps and Secrets that a pod keeps are as their watch shows them
(source/objects.py), others one second, so that a burst of pods asks once; tokens until they are due
(source/tokens.py); which Service has an address one minute.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import types
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from typing import Any, Self, TypeVar

import structlog

from kci.kit import backoff as backoffs
from kci.kit import clock, crashpoints, observing, tasks
from kci.kit import secret as secrets
from kci.kube import access, events, models, reasons, reflector, resources
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import errors as kube_errors
from kci.link import types as link
from kci.source import cache, errors, identity, objects, port, services, tokens

T = TypeVar("T", models.ConfigMap, models.Secret)
log = structlog.get_logger(__name__)

FIELD_MANAGER = "kcilet"
CALL_TIMEOUT_S = 10.0
BACKOFF = backoffs.Backoff(initial_s=0.2, cap_s=30.0, jitter=0.3)
KEEP_S = 1.0
# Cluster IPs of Services hardly ever change, and what is asked of them is only told.
KEEP_SERVICES_S = 60.0
# How often it is looked whether a token is due: by clocks only, nothing is asked for.
TOKENS_S = 10.0
HOST_IP_RETRY_S = 10.0
HOST_IP_AGAIN_S = 600.0
# Deleted pods that are remembered as such.
REMEMBERED_DELETIONS = 4096
ZONE_LABEL = "topology.kubernetes.io/zone"
# How long a watch without groups is kept for the next one.
IDLE_S = 600.0

# Stands for a version; no API server makes such a one.
_UNREADABLE = "unreadable"

# Tenant, cluster, user, node.
Key = tuple[str, str, str, str]
Spawn = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


def connect(
    config: configs.ClusterConfig, *, on_call: observing.OnCall = observing.no_call
) -> clients.Client:
    return clients.Client(config, user_agent="kcilet", timeout_s=CALL_TIMEOUT_S, on_call=on_call)


class ClusterSources:
    """Used as `async with ClusterSources() as sources:`; leaving it ends all watches."""

    def __init__(
        self,
        *,
        connect: Callable[[configs.ClusterConfig], clients.Client] = connect,
        clock: clock.Clock | None = None,
        idle_s: float = IDLE_S,
        on_watch_restart: observing.OnCount = observing.no_count,
    ) -> None:
        self._on_watch_restart = on_watch_restart
        self._connect = connect
        self._clock = clock or _SYSTEM_CLOCK
        self._idle_s = idle_s
        self._group = tasks.Tasks()
        self._clusters: dict[Key, tuple[Cluster, asyncio.Task[None]]] = {}
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        _ = await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for cluster, task in self._clusters.values():
            cluster.close()
            _ = task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def join(self, group: link.WantedGroup, on_change: Callable[[], None]) -> ClusterPod:
        """As port.Sources; RefusedError for a kubeconfig that cannot be used."""
        access = identity.read(group.cluster.kubeconfig)
        node = identity.node_name(access, group.node_name)
        key = (group.tenant_id, group.cluster.cluster_id, access.user, node)
        if key not in self._clusters:
            cluster = Cluster(
                access,
                node,
                outlook="/".join(key),
                connect=self._connect,
                clock=self._clock,
                spawn=self._group.spawn,
                on_watch_restart=self._on_watch_restart,
            )
            task = self._group.spawn(f"cluster {group.cluster.cluster_id}/{node}", cluster.run())
            self._clusters[key] = (cluster, task)
        cluster = self._clusters[key][0]
        cluster.renew(access)
        return ClusterPod(
            cluster, group, on_change, on_leave=lambda: self._retire_later(key), numbers=self._numbers
        )

    def _retire_later(self, key: Key) -> None:
        if key in self._clusters and not self._clusters[key][0].is_used:
            _ = asyncio.get_running_loop().call_later(self._idle_s, self._retire, key)

    def _retire(self, key: Key) -> None:
        cluster, task = self._clusters.get(key, (None, None))
        if cluster is not None and task is not None and not cluster.is_used:
            cluster.close()
            _ = task.cancel()
            del self._clusters[key]


class Cluster:
    """One client and one watch, and the pods they show."""

    def __init__(
        self,
        access: identity.Access,
        node: str,
        *,
        outlook: str,
        connect: Callable[[configs.ClusterConfig], clients.Client],
        clock: clock.Clock,
        spawn: Spawn,
        on_watch_restart: observing.OnCount = observing.no_count,
    ) -> None:
        self._on_watch_restart = on_watch_restart
        self.host_ip = ""
        self._access = access
        self._node = node
        self._connect = connect
        self._renewed = asyncio.Event()
        self._client: asyncio.Future[clients.Client] = asyncio.get_running_loop().create_future()
        self._recorder: events.EventRecorder | None = None
        self._pods: dict[str, models.Pod] = {}
        self._uids: dict[tuple[str, str], str] = {}
        self._gone: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._followers: dict[ClusterPod, Callable[[], None]] = {}
        self.objects = objects.Objects(self.client, spawn, on_restart=on_watch_restart)
        self.services = services.Services(
            self.client, spawn, outlook=outlook, user=access.user, node_name=node
        )
        self._fetched: cache.Cache[objects.Key, Any] = cache.Cache()
        self._services: cache.Cache[str, str] = cache.Cache()
        self._tokens = tokens.Tokens(clock)
        self.spawn = spawn

    @property
    def is_used(self) -> bool:
        return bool(self._followers)

    @property
    def endpoint(self) -> port.Endpoint:
        return self._access.endpoint

    def renew(self, access: identity.Access) -> None:
        """Use a newer kubeconfig of the same identity from now on."""
        if access.is_newer_than(self._access):
            log.info("kubeconfig renewed", user=access.user, node=self._node)
            self._access = access
            self._renewed.set()

    def follow(self, pod: ClusterPod, on_change: Callable[[], None]) -> None:
        self._followers[pod] = on_change

    def unfollow(self, pod: ClusterPod) -> None:
        _ = self._followers.pop(pod, None)

    def close(self) -> None:
        self.objects.close()
        self.services.close()

    async def run(self) -> None:
        """Watch until cancelled. Whatever is wrong with one cluster must not end the others' watches."""
        log.info("following pods", user=self._access.user, node=self._node)
        failures = 0
        while True:
            self._renewed.clear()
            try:
                await self._follow()
                failures = 0
            except Exception as error:
                failures += 1
                delay_s = BACKOFF.delay_s(failures)
                log.warning(
                    "cluster not followed, trying again",
                    user=self._access.user,
                    node=self._node,
                    next_try_s=round(delay_s, 2),
                    error=str(error),
                    exc_info=not isinstance(error, kube_errors.KubeError),
                )
                await asyncio.sleep(delay_s)

    async def _follow(self) -> None:
        """Watch until the kubeconfig is renewed."""
        async with self._connect(self._access.config) as client:
            self._recorder = events.EventRecorder(client, component="kcilet", host=self._node)
            watch = reflector.Reflector(
                client,
                resources.PODS,
                field_selector=f"spec.nodeName={self._node}",
                on_change=self._on_change,
                on_restart=self._on_watch_restart,
            )
            self._client.set_result(client)
            try:
                await tasks.first_of(
                    watch.run(),
                    self._recorder.run(),
                    self._after_sync(watch),
                    self._follow_host_ip(client),
                    self._follow_tokens(),
                    self._renewed.wait(),
                    name=f"cluster of {self._node}",
                )
            finally:
                # Before it is closed: who needs a client now waits for the next one.
                self._client = asyncio.get_running_loop().create_future()

    async def _after_sync(self, watch: reflector.Reflector[models.Pod]) -> None:
        await watch.synced.wait()
        # A pod that the former watch knew and this one does not (it may also be one that cannot be read any
        # more): it has to be looked at directly.
        for uid in [uid for uid in self._pods if uid not in watch.objects]:
            self._forget(uid)
        self._tell()
        _ = await asyncio.Event().wait()

    async def _follow_host_ip(self, client: clients.Client) -> None:
        while True:
            if await self._find_host_ip(client):
                self._tell()
            await asyncio.sleep(HOST_IP_AGAIN_S if self.host_ip else HOST_IP_RETRY_S)

    async def _find_host_ip(self, client: clients.Client) -> bool:
        """Whether there is something new to tell."""
        try:
            node = await client.get(resources.NODES, self._node)
        except kube_errors.KubeError as error:
            log.warning("cannot read the node's address", node=self._node, error=str(error))
            return False
        self.services.note_zone(node.metadata.labels.get(ZONE_LABEL, ""))
        found = [one.address for one in node.status.addresses if one.type == "InternalIP"]
        before, self.host_ip = self.host_ip, found[0] if found else self.host_ip
        return self.host_ip != before

    async def _follow_tokens(self) -> None:
        while True:
            await asyncio.sleep(TOKENS_S)
            self._tokens.retain({follower.uid for follower in self._followers})
            due = self._tokens.due()
            for follower in [follower for follower in self._followers if follower.uid in due]:
                follower.note_token_due()

    async def client(self) -> clients.Client:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await asyncio.shield(self._client)

    # ---- pods -----------------------------------------------------------------------------------

    def find(self, namespace: str, name: str) -> models.Pod | None:
        return self._pods.get(self._uids.get((namespace, name), ""))

    def view(self, uid: str) -> port.View:
        if uid in self._pods:
            return port.View(port.Sight.PRESENT, self._pods[uid])
        return port.View(port.Sight.ABSENT if uid in self._gone else port.Sight.UNKNOWN)

    def note(self, pod: models.Pod) -> None:
        """Take a pod's state unless a newer one is known, or that it is gone."""
        meta = pod.metadata
        if meta.uid in self._gone:
            # An answer that was overtaken by the deletion.
            return
        known = self._pods.get(meta.uid)
        if known is not None and not reflector.is_later(
            meta.resource_version, than=known.metadata.resource_version
        ):
            return
        self._pods[meta.uid] = pod
        self._uids[meta.namespace, meta.name] = meta.uid

    def note_gone(self, uid: str) -> None:
        self._forget(uid)
        self._gone[uid] = None
        if len(self._gone) > REMEMBERED_DELETIONS:
            _ = self._gone.popitem(last=False)

    def _forget(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None and self._uids.get((pod.metadata.namespace, pod.metadata.name)) == uid:
            del self._uids[pod.metadata.namespace, pod.metadata.name]

    def _on_change(self, change: reflector.Change[models.Pod]) -> None:
        uid = change.object.metadata.uid
        if change.kind is not reflector.ChangeKind.DELETED:
            self.note(change.object)
        elif change.final_state_unknown:
            self._forget(uid)
        else:
            self.note_gone(uid)
        self._tell(change.object)

    def _tell(self, pod: models.Pod | None = None) -> None:
        for follower, on_change in list(self._followers.items()):
            if pod is None or follower.is_about(pod):
                on_change()

    # ---- calls ----------------------------------------------------------------------------------

    async def read(self, key: objects.Key) -> Any:
        """The object; None if there is none."""
        with _translated(f"cannot read {key}"):
            watch = self.objects.find(key)
            if watch is not None:
                return await watch.read(timeout_s=CALL_TIMEOUT_S)

            async def ask() -> tuple[Any, float]:
                client = await self.client()
                try:
                    return await client.get(key.resource, key.name, namespace=key.namespace), KEEP_S
                except kube_errors.NotFoundError:
                    return None, KEEP_S

            return await self._fetched.get(key, ask)

    async def service_at(self, address: str) -> str:
        """Namespace and name of the Service that has this address as its ClusterIP; empty if none has."""

        async def ask() -> tuple[str, float]:
            client = await self.client()
            found = await client.list_all(resources.SERVICES, field_selector=f"spec.clusterIP={address}")
            names = [f"{one.metadata.namespace}/{one.metadata.name}" for one in found.items]
            return names[0] if names else "", KEEP_SERVICES_S

        with _translated(f"cannot look for the Service at {address}"):
            return await self._services.get(address, ask)

    async def token(self, pod: models.Pod, *, audience: str, expiration_s: int) -> secrets.Secret:
        account = pod.spec.service_account_name or "default"

        async def ask() -> access.IssuedToken:
            with _translated(f"cannot get a token of {account} for {pod.key}"):
                return await (await self.client()).create_token(
                    pod, service_account=account, audience=audience, expiration_s=expiration_s
                )

        return await self._tokens.get(tokens.Key(pod.metadata.uid, audience, expiration_s), ask)

    def record(self, reference: events.Reference, kind: str, reason: reasons.Reason, message: str) -> None:
        if self._recorder is not None:
            self._recorder.record(reference, type=kind, reason=reason, message=message)


class ClusterPod:
    """One group's pod in a cluster: a port.PodSource."""

    def __init__(
        self,
        cluster: Cluster,
        group: link.WantedGroup,
        on_change: Callable[[], None],
        *,
        on_leave: Callable[[], None],
        numbers: Iterator[int],
    ) -> None:
        self._cluster = cluster
        self._namespace = group.namespace
        self._name = group.pod_name
        self._uid = group.pod_uid
        self._on_leave = on_leave
        self._on_change = on_change
        self._numbers = numbers
        self._content = next(numbers)
        self._kept: set[objects.Key] = set()
        # What was read last of each object: its version, "" for none, _UNREADABLE if it was not to be had.
        self._read: dict[objects.Key, str] = {}
        cluster.follow(self, on_change)
        self._lock_on()

    @property
    def uid(self) -> str:
        return self._uid

    def is_about(self, pod: models.Pod) -> bool:
        if self._uid:
            return pod.metadata.uid == self._uid
        return (pod.metadata.namespace, pod.metadata.name) == (self._namespace, self._name)

    @property
    def host_ip(self) -> str:
        return self._cluster.host_ip

    @property
    def endpoint(self) -> port.Endpoint:
        return self._cluster.endpoint

    @property
    def services(self) -> port.Services:
        return self._cluster.services

    @property
    def view(self) -> port.View:
        self._lock_on()
        return self._cluster.view(self._uid)

    async def confirm(self) -> port.View:
        with _translated(f"cannot look for pod {self._namespace}/{self._name}"):
            client = await self._cluster.client()
            try:
                pod = await client.get(resources.PODS, self._name, namespace=self._namespace)
            except kube_errors.NotFoundError:
                pod = None
        if pod is not None:
            self._cluster.note(pod)
        self._lock_on()
        if pod is not None and pod.metadata.uid == self._uid:
            return self.view
        if self._uid:
            self._cluster.note_gone(self._uid)
        return port.View(port.Sight.ABSENT)

    @property
    def content(self) -> int:
        return self._content

    def keep(self, config_maps: Collection[str], secrets: Collection[str]) -> None:
        wanted = {self._key(resources.CONFIG_MAPS, name) for name in config_maps}
        wanted |= {self._key(resources.SECRETS, name) for name in secrets}
        for key in wanted - self._kept:
            self._cluster.objects.hold(key, self)
        for key in self._kept - wanted:
            self._cluster.objects.release(key, self)
        self._kept = wanted

    async def config_map(self, name: str) -> models.ConfigMap | None:
        return await self._read_object(resources.CONFIG_MAPS, name)

    async def secret(self, name: str) -> models.Secret | None:
        return await self._read_object(resources.SECRETS, name)

    async def _read_object(self, resource: resources.Resource[T], name: str) -> T | None:
        key = self._key(resource, name)
        try:
            found: T | None = await self._cluster.read(key)
        except errors.SourceError:
            self._read[key] = _UNREADABLE
            raise
        self._read[key] = _version(found)
        return found

    def _key(self, resource: resources.Resource[Any], name: str) -> objects.Key:
        return objects.Key(resource, self._namespace, name)

    def note_object(self, key: objects.Key, found: objects.Content | None) -> None:
        """As objects.Holder. What nobody has read yet is no change."""
        if self._read.get(key, _version(found)) != _version(found):
            self._renew_content()

    def note_token_due(self) -> None:
        self._renew_content()

    def _renew_content(self) -> None:
        self._content = next(self._numbers)
        self._on_change()

    async def token(self, pod: models.Pod, *, audience: str, expiration_s: int) -> secrets.Secret:
        return await self._cluster.token(pod, audience=audience, expiration_s=expiration_s)

    async def patch_status(self, pod: models.Pod, patch: Mapping[str, Any]) -> None:
        try:
            with _translated(f"cannot write the status of pod {pod.key}"):
                client = await self._cluster.client()
                crashpoints.reached("source.patch_status.before")
                answer = await client.patch(
                    resources.PODS,
                    pod.metadata.name,
                    patch,
                    namespace=pod.metadata.namespace,
                    subresource="status",
                    patch_type=clients.PatchType.STRATEGIC,
                    field_manager=FIELD_MANAGER,
                )
                crashpoints.reached("source.patch_status.after")
        except errors.GoneError:
            # The API server's own word, as good as a deletion on the watch, which may be away just now.
            self._cluster.note_gone(pod.uid)
            raise
        except _ConflictError as error:
            # Either the UID under the name is another by now, or only others' writes came in between.
            if (await self.confirm()).sight is port.Sight.ABSENT:
                raise errors.GoneError(str(error)) from error
            raise
        self._cluster.note(answer)

    def record_event(
        self, pod: models.Pod, *, container: str, kind: str, reason: reasons.Reason, message: str
    ) -> None:
        self._cluster.record(events.of_pod(pod, container=container), kind, reason, message)

    def name_service(self, address: str, tell: Callable[[str], None]) -> None:
        _ = self._cluster.spawn(f"service at {address}", self._name_service(address, tell))

    async def _name_service(self, address: str, tell: Callable[[str], None]) -> None:
        try:
            name = await self._cluster.service_at(address)
        except errors.SourceError as error:
            log.debug("service not found out", address=address, error=str(error))
            return
        if name:
            tell(name)

    def leave(self) -> None:
        self.keep((), ())
        self._cluster.unfollow(self)
        self._on_leave()

    def _lock_on(self) -> None:
        """A group without a UID takes the first pod under its name."""
        if not self._uid:
            found = self._cluster.find(self._namespace, self._name)
            self._uid = found.metadata.uid if found is not None else ""


def _version(found: objects.Content | None) -> str:
    return "" if found is None else found.metadata.resource_version


class _ConflictError(errors.SourceError):
    """The pod changed while we wrote, or it is another one."""


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Kubernetes' errors as a source's."""
    try:
        yield
    except kube_errors.NotFoundError as error:
        raise errors.GoneError(f"{what}: {error}") from error
    except kube_errors.ConflictError as error:
        raise _ConflictError(f"{what}: {error}") from error
    except kube_errors.InvalidError as error:
        raise errors.RefusedError(f"{what}: {error}") from error
    except kube_errors.KubeError as error:
        raise errors.SourceError(f"{what}: {error}") from error
    except TimeoutError as error:
        raise errors.SourceError(f"{what}: no answer in time") from error


_SYSTEM_CLOCK = clock.SystemClock()
