"""A live copy of a set of objects: list, watch, and list again when the watch cannot go on.

`Store` is the pure part: it takes lists and events and says what changed. `Reflector` is the loop.

What stays true: objects are keyed by UID. A deletion is told only for what an event or a *whole* list says
is gone. Events may come twice, late or in another order: an object never goes back, and one that was deleted
does not come back. When a name was re-created and the deletion in between was lost, the old object's DELETED
comes before the new one's ADDED. An object that cannot be read is there all the same: what was known of it
stays, and nothing new is told of it until it can be read, or is gone.

Lists ask for the newest version (no resourceVersion=0: a server that lags behind after a restart could
hide what we have seen already, which would read as deletions). A cut watch goes on from the last version
seen; only 410, as status or as event, or the first start, lists. A silent watch is begun anew at once: the
server may be gone, or merely have nothing to say. Idea: client-go tools/cache
(reflector.go, v0.36), keyed by UID instead of name.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import enum
import random
import types
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import structlog

from kci.kit import backoff as backoffs
from kci.kit import observing
from kci.kube import client as clients
from kci.kube import errors, models, resources

log = structlog.get_logger(__name__)

# Deleted objects whose late events are still known as such. A list makes older ones needless.
REMEMBERED_DELETIONS = 4096
# client-go's: how long a watch that has news, or at least bookmarks, may go on.
WATCH_TIMEOUT_S = (300, 600)
# After a watch that said nothing: so early the server itself ends the next one, in order and on a connection
# that is kept, before silence can be taken for death (transport.WATCH_STALL_S).
QUIET_WATCH_TIMEOUT_S = (45, 60)
BACKOFF = backoffs.Backoff(initial_s=0.5, cap_s=15.0, jitter=0.5)


class HasMetadata(Protocol):
    @property
    def metadata(self) -> models.ObjectMeta: ...


T = TypeVar("T", bound=HasMetadata)


class ChangeKind(enum.Enum):
    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclasses.dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What happened to one object. With `final_state_unknown` its deletion was not seen as an event:
    the object is the last state known, and it may have been another when it was deleted.
    """

    kind: ChangeKind
    object: T
    final_state_unknown: bool = False


class Store(Generic[T]):
    """The objects by UID, and the version up to which they are known."""

    def __init__(self) -> None:
        self.objects: dict[str, T] = {}
        self.resource_version = ""
        self._names: dict[tuple[str, str], str] = {}
        self._deleted: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._listed_version = ""

    def replace(self, listing: clients.Listing[T]) -> list[Change[T]]:
        """Take a whole list as the truth: deletions first, then what is new or different."""
        found = {item.metadata.uid: item for item in listing.items}
        unreadable = {meta.uid for meta in listing.unreadable}
        changes = [
            Change(ChangeKind.DELETED, self._remove(uid), final_state_unknown=True)
            for uid in [*self.objects]
            if uid not in found and uid not in unreadable
        ]
        for uid, item in found.items():
            known = self.objects.get(uid)
            if known is None:
                changes.append(Change(ChangeKind.ADDED, self._put(item)))
            elif known.metadata.resource_version != item.metadata.resource_version:
                changes.append(Change(ChangeKind.MODIFIED, self._put(item)))
        self._deleted.clear()
        self.resource_version = self._listed_version = listing.resource_version
        return changes

    def apply(self, event: clients.Watched[T]) -> list[Change[T]]:
        """Take one event of a watch."""
        if isinstance(event, clients.Bookmark):
            self._advance(event.resource_version)
            return []
        meta = event.object.metadata if isinstance(event, clients.WatchEvent) else event.metadata
        self._advance(meta.resource_version)
        if not self._is_news(meta):
            return []
        if event.kind is clients.EventKind.DELETED:
            self._remember_deletion(meta.uid, meta.resource_version)
            if meta.uid not in self.objects:
                return []
            last = self._remove(meta.uid)
            if isinstance(event, clients.Unreadable):
                return [Change(ChangeKind.DELETED, last, final_state_unknown=True)]
            return [Change(ChangeKind.DELETED, event.object)]
        changes = []
        holder = self._names.get((meta.namespace, meta.name), meta.uid)
        if holder != meta.uid:
            changes.append(Change(ChangeKind.DELETED, self._remove(holder), final_state_unknown=True))
            self._remember_deletion(holder, meta.resource_version)
        if isinstance(event, clients.Unreadable):
            return changes
        kind = ChangeKind.MODIFIED if meta.uid in self.objects else ChangeKind.ADDED
        changes.append(Change(kind, self._put(event.object)))
        return changes

    def _is_news(self, meta: models.ObjectMeta) -> bool:
        """Whether an event tells of something later than what we know of this object and of its name."""
        version = meta.resource_version
        known = [self._listed_version, self._deleted.get(meta.uid, "")]
        holder = self._names.get((meta.namespace, meta.name), "")
        known.extend(
            self.objects[uid].metadata.resource_version for uid in (meta.uid, holder) if uid in self.objects
        )
        return all(is_later(version, than=seen) for seen in known)

    def _advance(self, version: str) -> None:
        if is_later(version, than=self.resource_version):
            self.resource_version = version

    def _put(self, item: T) -> T:
        meta = item.metadata
        self.objects[meta.uid] = item
        self._names[meta.namespace, meta.name] = meta.uid
        return item

    def _remove(self, uid: str) -> T:
        item = self.objects.pop(uid)
        del self._names[item.metadata.namespace, item.metadata.name]
        return item

    def _remember_deletion(self, uid: str, version: str) -> None:
        self._deleted[uid] = version
        if len(self._deleted) > REMEMBERED_DELETIONS:
            _ = self._deleted.popitem(last=False)


def is_later(version: str, *, than: str) -> bool:
    """Compare resource versions, which are growing numbers (KEP-5504); what is none is taken as later."""
    if version.isdecimal() and than.isdecimal():
        return int(version) > int(than)
    return version != than


class Api(Protocol):
    """What a reflector needs of a client."""

    async def list_all(
        self,
        resource: resources.Resource[Any],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        resource_version: str = "",
    ) -> clients.Listing[Any]: ...

    def watch(
        self,
        resource: resources.Resource[Any],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        resource_version: str,
        timeout_s: int = 300,
    ) -> AsyncGenerator[clients.Watched[Any], None]: ...


class Reflector(Generic[T]):
    """Keeps `objects` equal to the server's and tells each change to `on_change`, which must not block.

    `synced` is set by the first whole list and stays set: while the server is away the copy is old,
    but never empty. `on_change` is called for the first list too.
    """

    def __init__(
        self,
        client: Api,
        resource: resources.Resource[T],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        on_change: Callable[[Change[T]], None],
        backoff: backoffs.Backoff = BACKOFF,
        on_restart: observing.OnCount = observing.no_count,
    ) -> None:
        """`on_restart` is told of each watch that broke or was silent, by what it watches."""
        self._on_restart = on_restart
        self.synced = asyncio.Event()
        self._client = client
        self._resource = resource
        self._selection = {
            "namespace": namespace,
            "field_selector": field_selector,
            "label_selector": label_selector,
        }
        self._on_change = on_change
        self._backoff = backoff
        self._store: Store[T] = Store()
        self._must_list = True
        self._failures = 0
        self._is_quiet = False

    @property
    def objects(self) -> Mapping[str, T]:
        return types.MappingProxyType(self._store.objects)

    async def run(self) -> None:
        """Until cancelled. Failures are logged and tried again; only an error of `on_change` ends it."""
        while True:
            try:
                if self._must_list:
                    await self._list()
                await self._watch()
            except errors.SilentError:
                self._is_quiet = True
                self._on_restart(self._resource.plural)
                log.info("watch was silent, watching again", resource=self._resource.plural)
            except errors.GoneError as error:
                self._must_list = True
                await self._pause(error)
            except errors.KubeError as error:
                await self._pause(error)

    async def _list(self) -> None:
        listing = await self._client.list_all(self._resource, **self._selection)
        self._must_list = False
        self._tell(self._store.replace(listing))
        self.synced.set()

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        started, heard = clock(), False
        watch = self._client.watch(
            self._resource,
            **self._selection,
            resource_version=self._store.resource_version,
            # Spread, so that not all watches of all nodes come back at once.
            timeout_s=random.randint(*(QUIET_WATCH_TIMEOUT_S if self._is_quiet else WATCH_TIMEOUT_S)),  # noqa: S311
        )
        async with contextlib.aclosing(watch) as events:
            async for event in events:
                heard, self._failures, self._is_quiet = True, 0, False
                self._tell(self._store.apply(event))
        if not heard and clock() - started < 1.0:
            raise errors.UnreachableError(f"cannot watch {self._resource.plural}: the watch ended at once")

    def _tell(self, changes: list[Change[T]]) -> None:
        for change in changes:
            self._on_change(change)

    async def _pause(self, error: errors.KubeError) -> None:
        self._failures += 1
        self._on_restart(self._resource.plural)
        delay_s = self._backoff.delay_s(self._failures)
        if isinstance(error, errors.TryLaterError):
            delay_s = max(delay_s, error.retry_after_s)
        log.warning(
            "watch interrupted",
            resource=self._resource.plural,
            listing=self._must_list,
            failures=self._failures,
            next_try_s=round(delay_s, 2),
            error=str(error),
        )
        await asyncio.sleep(delay_s)
