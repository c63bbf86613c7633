"""ConfigMaps and Secrets that pods need for longer than a moment: one watch of one object by its name (all
that the Node authorizer allows), however many pods need it, from the first to the last of them.

The first list of a watch is the first read, and what the watch shows is every later one. An object that is
not there yet is watched all the same; one that is `immutable` is not watched any more once it was seen.
Who may read an object by its name and not list it, as a ServiceAccount of few rights, reads it each minute.
While the API server is away the last state counts. Idea: kubelet pkg/kubelet/util/manager
(watch_based_manager.go, 1.36), without its idle time: whoever needs an object only once does not hold it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeAlias

import structlog

from kci.kit import backoff as backoffs
from kci.kit import observing
from kci.kube import client as clients
from kci.kube import errors, models, reflector, resources

log = structlog.get_logger(__name__)
BACKOFF = backoffs.Backoff(initial_s=1.0, cap_s=60.0, jitter=0.3)
# A kubelet that does not watch looks as often. A pod may wait for what is not there yet.
READ_AGAIN_S, LOOK_FOR_S = 60.0, 5.0
# Rights change: who may only read is tried for more. Soon at first: an API server may learn of a pod late.
LIST_AGAIN = backoffs.Backoff(initial_s=3.0, cap_s=600.0, jitter=0.0)

Content: TypeAlias = models.ConfigMap | models.Secret
Client: TypeAlias = Callable[[], Awaitable[clients.Client]]


@dataclasses.dataclass(frozen=True)
class Key:
    resource: resources.Resource[Any]
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.resource.plural} {self.namespace}/{self.name}"


class Holder(Protocol):
    """Who needs an object."""

    def note_object(self, key: Key, found: Content | None) -> None:
        """The object is this now; None if there is none. Must not block."""


class Objects:
    """The objects of one cluster that somebody holds. `client` gives the current client, or raises
    TimeoutError; `spawn` starts a task.
    """

    def __init__(
        self,
        client: Client,
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
        *,
        on_restart: observing.OnCount = observing.no_count,
    ) -> None:
        self._client = client
        self._on_restart = on_restart
        self._spawn = spawn
        self._watches: dict[Key, tuple[Watch, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def hold(self, key: Key, holder: Holder) -> None:
        """Watch this object for as long as anybody holds it; twice is once."""
        if key not in self._watches:
            watch = Watch(key, self._client, on_restart=self._on_restart)
            self._watches[key] = (watch, self._spawn(f"watch {key}", watch.run()))
        self._watches[key][0].holders.add(holder)

    def release(self, key: Key, holder: Holder) -> None:
        watch, task = self._watches.get(key, (None, None))
        if watch is None or task is None:
            return
        watch.holders.discard(holder)
        if not watch.holders:
            _ = task.cancel()
            del self._watches[key]

    def find(self, key: Key) -> Watch | None:
        return self._watches[key][0] if key in self._watches else None

    def close(self) -> None:
        for _, task in self._watches.values():
            _ = task.cancel()


class Watch:
    """One object; a reflector.Api for the reflector that follows it, so that a first list that fails can be
    told to who waits for it, and so that a new client is used at the next call.
    """

    def __init__(
        self, key: Key, client: Client, *, on_restart: observing.OnCount = observing.no_count
    ) -> None:
        self.holders: set[Holder] = set()
        self._key = key
        self._client = client
        self._object: Content | None = None
        # Done with None once the object, or its absence, is known; before, done with the error of each
        # list that failed, and new for the next.
        self._answer: asyncio.Future[errors.KubeError | None] = asyncio.get_running_loop().create_future()
        self._last_error: errors.KubeError | None = None
        self._is_final = False
        self._on_restart = on_restart
        self._failures = 0
        self._reflector = self._new_reflector()

    def _new_reflector(self) -> reflector.Reflector[Content]:
        key = self._key
        return reflector.Reflector[Content](
            self,
            key.resource,
            namespace=key.namespace,
            field_selector=f"metadata.name={key.name}",
            on_change=self._on_change,
            on_restart=self._on_restart,
        )

    async def run(self) -> None:
        """Until cancelled, or until nothing can change any more."""
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._is_final:
            began_s = loop.time()
            try:
                await self._follow()
            except _FinalError:
                log.debug("object is immutable, not watched any more", object=str(self._key))
            except Exception as error:
                # Whatever is wrong with one object must not end the others' watches.
                # One that was well for long begins anew.
                failures = 1 if loop.time() - began_s > BACKOFF.cap_s else failures + 1
                delay_s = BACKOFF.delay_s(failures)
                log.exception(
                    "object not watched, trying again",
                    object=str(self._key),
                    next_try_s=round(delay_s, 2),
                    error=str(error),
                )
                await asyncio.sleep(delay_s)

    async def _follow(self) -> None:
        """Watch it or, while it may not be listed, read it now and then."""
        loop, refused = asyncio.get_running_loop(), 0
        while True:
            began_s = loop.time()
            try:
                await self._reflector.run()
            except _NotListedError:
                # One that was watched for long begins anew.
                refused = 1 if loop.time() - began_s > LIST_AGAIN.cap_s else refused + 1
                await self._read_by_name(LIST_AGAIN.delay_s(refused))
                # Lists anew: what an earlier watch knew may be long gone.
                self._reflector = self._new_reflector()

    async def _read_by_name(self, for_s: float) -> None:
        """For a while, or until it fails."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + for_s
        while (left_s := until_s - loop.time()) > 0:
            try:
                found = await self._get()
            except errors.KubeError as error:
                self._note_failed(error)
                self._failures += 1
                await asyncio.sleep(reflector.BACKOFF.delay_s(self._failures))
                return
            self._failures = 0
            self._take(found)
            await asyncio.sleep(min(left_s, LOOK_FOR_S if found is None else READ_AGAIN_S))

    async def _get(self) -> Content | None:
        key = self._key
        try:
            found: Content = await (await self._current()).get(
                key.resource, key.name, namespace=key.namespace
            )
        except errors.NotFoundError:
            return None
        return found

    async def read(self, *, timeout_s: float) -> Content | None:
        """The object as known now. Before it is known: the outcome of the next list, a KubeError if that
        fails, TimeoutError if it takes too long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                error = await asyncio.shield(self._answer)
        except TimeoutError:
            if self._last_error is None:
                raise
            error = self._last_error
        if error is not None:
            raise error
        return self._object

    def _on_change(self, change: reflector.Change[Content]) -> None:
        self._take(None if change.kind is reflector.ChangeKind.DELETED else change.object)

    def _take(self, found: Content | None) -> None:
        self._object = found
        if not self._answer.done():
            self._answer.set_result(None)
        self._tell()
        if found is not None and found.immutable:
            self._is_final = True
            raise _FinalError

    def _note_failed(self, error: errors.KubeError) -> None:
        if not self._answer.done():
            self._last_error = error
            self._answer.set_result(error)
            self._answer = asyncio.get_running_loop().create_future()

    def _tell(self) -> None:
        for holder in list(self.holders):
            holder.note_object(self._key, self._object)

    # ---- reflector.Api --------------------------------------------------------------------------

    async def list_all(self, resource: resources.Resource[Any], **selection: Any) -> clients.Listing[Any]:
        try:
            listing = await (await self._current()).list_all(resource, **selection)
            listing.require_readable()
        except errors.ForbiddenError as error:
            raise _NotListedError from error
        except errors.KubeError as error:
            self._note_failed(error)
            raise
        return listing

    async def watch(
        self, resource: resources.Resource[Any], **selection: Any
    ) -> AsyncGenerator[clients.Watched[Any], None]:
        # A list was taken, or there would be nothing to watch from: if it was empty, nobody was told yet.
        if not self._reflector.objects:
            self._take(None)
        stream = (await self._current()).watch(resource, **selection)
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                yield event

    async def _current(self) -> clients.Client:
        try:
            return await self._client()
        except TimeoutError as error:
            raise errors.UnreachableError(f"cannot reach the cluster of {self._key}") from error


class _NotListedError(Exception):
    """Leaves the reflector: we may not list the object."""


class _FinalError(Exception):
    """Leaves the reflector: the object will not change."""
