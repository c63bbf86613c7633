"""The Services and EndpointSlices of one cluster, for pods that reach ClusterIPs: watched once, however many
pods need them, from the first to a while after the last of them.

While the API server is away, or takes the right to list away, the last state counts. The node's identity may
list EndpointSlices only where it is bound to the ClusterRole system:node-proxier; until then each try is
told in `problem`, with what helps, and done again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, TypeAlias

import structlog

from kci.kit import backoff as backoffs
from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import errors, models, reflector, resources

log = structlog.get_logger(__name__)

SERVICE_NAME = "kubernetes.io/service-name"
# As kube-proxy selects (cmd/kube-proxy/app/server.go, 1.36); Services are all taken, for the environment.
NO_HEADLESS = "!service.kubernetes.io/headless"
RETRY = backoffs.Backoff(initial_s=0.5, cap_s=7.0, jitter=0.3)
AGAIN = backoffs.Backoff(initial_s=1.0, cap_s=30.0, jitter=0.3)
# How long the watches go on for the next one who needs them.
LINGER_S = 60.0

Name: TypeAlias = tuple[str, str]
Spawn: TypeAlias = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


class Services:
    """A port.Services. `client` gives the current client, or raises TimeoutError; `spawn` starts a task."""

    def __init__(
        self,
        client: Callable[[], Awaitable[clients.Client]],
        spawn: Spawn,
        *,
        outlook: str,
        user: str,
        node_name: str,
        linger_s: float = LINGER_S,
    ) -> None:
        self.outlook = outlook
        self.node_name = node_name
        self.zone = ""
        self._client = client
        self._spawn = spawn
        self._user = user
        self._linger_s = linger_s
        self._holders: dict[object, Callable[[], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._clear()

    def _clear(self) -> None:
        # By what cannot be listed.
        self._problems: dict[str, str] = {}
        self._services: dict[Name, models.Service] = {}
        self._slices: dict[Name, dict[str, models.EndpointSlice]] = {}
        # Whose endpoints a slice holds, by its own namespace and name.
        self._owners: dict[Name, Name] = {}
        self._changed: set[Name] = set()
        self.is_known = False

    @property
    def problem(self) -> str:
        """Why they are not known, or not as new as they should be; empty if all is well."""
        return "; ".join(self._problems[plural] for plural in sorted(self._problems))

    @property
    def services(self) -> Mapping[Name, models.Service]:
        return self._services

    def slices(self, name: Name) -> Collection[models.EndpointSlice]:
        return self._slices.get(name, {}).values()

    def take_changed(self) -> set[Name]:
        found, self._changed = self._changed, set()
        return found

    def note_zone(self, zone: str) -> None:
        """The node's zone, by which endpoints near to it are known."""
        if zone != self.zone:
            self.zone = zone
            self._changed |= self._services.keys()
            self._tell()

    def hold(self, holder: object, on_change: Callable[[], None]) -> None:
        self._holders[holder] = on_change
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = self._spawn(f"services for {self._user}", self._run())

    def release(self, holder: object) -> None:
        if self._holders.pop(holder, None) is None or self._holders:
            return
        self._timer = asyncio.get_running_loop().call_later(self._linger_s, self.close)

    def close(self) -> None:
        """End the watches; who holds it again begins anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            _ = self._task.cancel()
            self._task = None
        self._clear()

    async def _run(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            # New ones list anew, and the lists say what has changed since.
            services = reflector.Reflector[models.Service](
                _Api(self), resources.SERVICES, on_change=self._on_service, backoff=RETRY
            )
            slices = reflector.Reflector[models.EndpointSlice](
                _Api(self),
                resources.ENDPOINT_SLICES,
                label_selector=NO_HEADLESS,
                on_change=self._on_slice,
                backoff=RETRY,
            )
            try:
                await tasks.first_of(
                    services.run(),
                    slices.run(),
                    self._note_listed(services, slices),
                    name=f"services for {self._user}",
                )
            except Exception as error:
                failures = 1 if loop.time() - began_s > AGAIN.cap_s else failures + 1
                delay_s = AGAIN.delay_s(failures)
                log.exception(
                    "services not followed, trying again",
                    user=self._user,
                    next_try_s=round(delay_s, 2),
                    error=str(error),
                )
                await asyncio.sleep(delay_s)

    async def _note_listed(
        self,
        services: reflector.Reflector[models.Service],
        slices: reflector.Reflector[models.EndpointSlice],
    ) -> None:
        """What an earlier watch knew and the first whole lists of these do not show is gone."""
        await services.synced.wait()
        await slices.synced.wait()
        for name in self._services.keys() - {_name(one.metadata) for one in services.objects.values()}:
            del self._services[name]
            self._changed.add(name)
        for slice_name in self._owners.keys() - {_name(one.metadata) for one in slices.objects.values()}:
            self._drop(slice_name)
        self.is_known = True
        self._tell()
        _ = await asyncio.Event().wait()

    def _on_service(self, change: reflector.Change[models.Service]) -> None:
        name = _name(change.object.metadata)
        if change.kind is reflector.ChangeKind.DELETED:
            _ = self._services.pop(name, None)
        else:
            self._services[name] = change.object
        self._note(name)

    def _on_slice(self, change: reflector.Change[models.EndpointSlice]) -> None:
        meta = change.object.metadata
        service = meta.labels.get(SERVICE_NAME, "")
        owner, known = (meta.namespace, service), self._owners.get(_name(meta))
        if known is not None and (known != owner or change.kind is reflector.ChangeKind.DELETED):
            self._drop(_name(meta))
            self._note(known)
        if service and change.kind is not reflector.ChangeKind.DELETED:
            self._owners[_name(meta)] = owner
            self._slices.setdefault(owner, {})[meta.name] = change.object
            self._note(owner)

    def _drop(self, slice_name: Name) -> None:
        owner = self._owners.pop(slice_name)
        del self._slices[owner][slice_name[1]]
        if not self._slices[owner]:
            del self._slices[owner]
        self._changed.add(owner)

    def _note(self, name: Name) -> None:
        self._changed.add(name)
        if self.is_known:
            self._tell()

    def _tell(self) -> None:
        for on_change in list(self._holders.values()):
            on_change()

    # ---- for _Api -------------------------------------------------------------------------------

    async def current(self, resource: resources.Resource[Any]) -> clients.Client:
        try:
            return await self._client()
        except TimeoutError as error:
            raise errors.UnreachableError(f"cannot reach the cluster for its {resource.plural}") from error

    def note_failure(self, resource: resources.Resource[Any], error: errors.KubeError) -> None:
        if self.is_known and not isinstance(error, errors.ForbiddenError):
            # What is known goes on to count while the API server is away; that is nobody's to mend.
            return
        problem = f"cannot list {resource.plural}: {error}"
        if isinstance(error, errors.ForbiddenError):
            problem += f"; {remedy(self._user)}"
        if problem != self._problems.get(resource.plural):
            self._problems[resource.plural] = problem
            self._tell()

    def note_success(self, resource: resources.Resource[Any]) -> None:
        if self._problems.pop(resource.plural, None) is not None:
            self._tell()


class _Api:
    """A reflector.Api that uses the client of the moment, and tells of lists that fail."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list_all(self, resource: resources.Resource[Any], **selection: Any) -> clients.Listing[Any]:
        try:
            listing = await (await self._services.current(resource)).list_all(resource, **selection)
        except errors.KubeError as error:
            self._services.note_failure(resource, error)
            raise
        self._services.note_success(resource)
        return listing

    async def watch(
        self, resource: resources.Resource[Any], **selection: Any
    ) -> AsyncGenerator[clients.Watched[Any], None]:
        stream = (await self._services.current(resource)).watch(resource, **selection)
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                yield event


def remedy(user: str) -> str:
    """What lets a node's user read the Services of its cluster."""
    return (
        f"bind {user} to the ClusterRole system:node-proxier: kubectl create clusterrolebinding "
        f"kci-node-proxier-{user.rpartition(':')[2]} --clusterrole=system:node-proxier --user={user}"
    )


def _name(meta: models.ObjectMeta) -> Name:
    return meta.namespace, meta.name
