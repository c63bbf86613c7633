"""The typed client of one API server. Objects come out as frozen types, requests go in as plain JSON types
or models, and nothing is encoded twice: this is on the hot path of a pod's start.

One call is one request: nothing is retried here (style rule 7). Callers read the error's type.

An object of a list or a watch that is not as we expect it is passed over, so that it keeps nobody from the
others; the log says which one, and who asked is told that it is there: it must not look absent.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Generic, Self, TypeAlias, TypeVar

import msgspec
import structlog

from kci.kit import observing, secret
from kci.kube import access, errors, models, resources, transport
from kci.kube import config as configs

log = structlog.get_logger(__name__)

T = TypeVar("T")
MAX_PAGES = 10_000


class PatchType(enum.StrEnum):
    """The content type of a patch."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    JSON = "application/json-patch+json"
    # Server-side apply; needs a field manager. JSON is YAML.
    APPLY = "application/apply-patch+yaml"


class EventKind(enum.StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclasses.dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """A change; of a DELETED object the state it was deleted in."""

    kind: EventKind
    object: T


@dataclasses.dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything up to this version has been sent."""

    resource_version: str


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A change of an object that cannot be read; of its metadata what tells it from others."""

    kind: EventKind
    metadata: models.ObjectMeta


# What a watch tells.
Watched: TypeAlias = WatchEvent[T] | Unreadable | Bookmark


@dataclasses.dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """All objects, as they were together at one version."""

    items: tuple[T, ...]
    resource_version: str
    # Those that are there and cannot be read; what tells each from others.
    unreadable: tuple[models.ObjectMeta, ...] = ()

    def require_readable(self) -> None:
        """For whom an object that cannot be read must not look absent; UnreachableError."""
        for meta in self.unreadable:
            where = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
            raise errors.UnreachableError(f"cannot read {where}: it is not as expected")


class _Frame(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Identity(models.Model, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Identified(models.Model, frozen=True):
    metadata: _Identity = _Identity()


_FRAME = msgspec.json.Decoder(_Frame)
_IDENTIFIED = msgspec.json.Decoder(_Identified)
_UNREAD_LIST = msgspec.json.Decoder(resources.ListBody[msgspec.Raw])
_STATUS = msgspec.json.Decoder(errors.Status)


class Client:
    """Used as `async with Client(config) as client:`. Every method raises errors of kube/errors.py."""

    def __init__(
        self,
        config: configs.ClusterConfig,
        *,
        user_agent: str = "kci",
        timeout_s: float = 30.0,
        page_size: int = 500,
        watch_stall_s: float = transport.WATCH_STALL_S,
        on_call: observing.OnCall = observing.no_call,
    ) -> None:
        """`on_call` is told of each call but watches, by its method."""
        self.config = config
        self._page_size = page_size
        self._transport = transport.Transport(
            config, user_agent=user_agent, timeout_s=timeout_s, stall_s=watch_stall_s, on_call=on_call
        )

    async def __aenter__(self) -> Self:
        _ = await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def become(self, config: configs.ClusterConfig) -> None:
        """Call with another identity from now on, such as a renewed one, on connections of its own; what is
        under way ends as it began.
        """
        self.config = config
        await self._transport.become(config)

    async def get(self, resource: resources.Resource[T], name: str, *, namespace: str = "") -> T:
        what = f"cannot get {_named(resource, namespace, name)}"
        body = await self._transport.call(what, "GET", resource.object_path(name, namespace))
        return _decode(what, resource.decoder, body)

    async def list_all(
        self,
        resource: resources.Resource[T],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        resource_version: str = "",
    ) -> Listing[T]:
        """All pages of a list, whole or an error, never a part; of the newest version unless one is named.
        Who takes what is not there for gone looks at `unreadable` too.
        """
        what = f"cannot list {resource.plural}"
        query = _query(
            limit=str(self._page_size),
            fieldSelector=field_selector,
            labelSelector=label_selector,
            resourceVersion=resource_version,
        )
        path = resource.collection_path(namespace)
        items: list[T] = []
        unreadable: list[models.ObjectMeta] = []
        for _ in range(MAX_PAGES):
            body = await self._transport.call(what, "GET", path, query=query)
            page, passed_over = _page(what, resource, body)
            items.extend(page.items or ())
            unreadable.extend(passed_over)
            version, following = page.metadata.resource_version, page.metadata.continue_
            if not version:
                # Something else answers there: an empty list of its would read as deletions.
                raise errors.UnreachableError(f"{what}: the answer has no resource version")
            if not following:
                # Later pages carry the version of the first: the list is one moment.
                return Listing(tuple(items), version, tuple(unreadable))
            if following == query.get("continue"):
                raise errors.UnreachableError(f"{what}: the server sends the same page again")
            query = {**query, "continue": following}
            # A page is read at its own version; naming one as well is refused.
            query.pop("resourceVersion", None)
        raise errors.UnreachableError(f"{what}: more than {MAX_PAGES} pages")

    async def watch(
        self,
        resource: resources.Resource[T],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        resource_version: str,
        timeout_s: int = 300,
    ) -> AsyncGenerator[Watched[T], None]:
        """Changes after a version, until the server ends the watch after `timeout_s` (then the generator
        ends). GoneError when the version is too old, however the server says it; SilentError when not even
        a bookmark came for `watch_stall_s`, as may be where nothing moves. Close it (`contextlib.aclosing`).
        """
        what = f"cannot watch {resource.plural}"
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            fieldSelector=field_selector,
            labelSelector=label_selector,
            resourceVersion=resource_version,
            timeoutSeconds=str(timeout_s),
        )
        lines = self._transport.lines(what, resource.collection_path(namespace), query=query)
        try:
            async for line in lines:
                yield _event(what, resource, line)
        finally:
            await lines.aclose()

    async def create(self, resource: resources.Resource[T], body: object, *, namespace: str = "") -> T:
        what = f"cannot create {resource.plural} in {namespace or 'the cluster'}"
        if resource.namespaced and not namespace:
            raise errors.InvalidError(f"cannot create {resource.plural} without a namespace")
        if isinstance(body, Mapping):
            body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        answer = await self._transport.call(
            what, "POST", resource.collection_path(namespace), body=_encode(body)
        )
        return _decode(what, resource.decoder, answer)

    async def patch(
        self,
        resource: resources.Resource[T],
        name: str,
        patch: object,
        *,
        namespace: str = "",
        subresource: str = "",
        patch_type: PatchType = PatchType.MERGE,
        field_manager: str = "",
        force: bool = False,
    ) -> T:
        """Change an object. `metadata.uid` in a merge patch is a precondition: ConflictError for another UID.
        `force` takes fields over from other managers (APPLY only).
        """
        what = f"cannot patch {_named(resource, namespace, name, subresource)}"
        answer = await self._transport.call(
            what,
            "PATCH",
            resource.object_path(name, namespace, subresource),
            query=_query(fieldManager=field_manager, force="true" if force else ""),
            body=_encode(patch),
            content_type=patch_type.value,
        )
        return _decode(what, resource.decoder, answer)

    async def delete(
        self,
        resource: resources.Resource[T],
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        grace_period_s: int | None = None,
    ) -> None:
        """Ask for an object's end; ConflictError if the name belongs to another UID by now."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        what = f"cannot delete {_named(resource, namespace, name)}"
        path = resource.object_path(name, namespace)
        _ = await self._transport.call(what, "DELETE", path, body=_encode(options))

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Any other call: the answer's bytes. A body that is no bytes is encoded as JSON."""
        return await self._transport.call(
            f"cannot {method} {path}",
            method,
            path,
            query=query,
            body=None if body is None else _encode(body),
            content_type=content_type,
        )

    async def create_token(
        self, pod: models.Pod, *, service_account: str, audience: str = "", expiration_s: int = 3600
    ) -> access.IssuedToken:
        """A token of the pod's service account, valid only while this pod (by UID) exists."""
        path = resources.SERVICE_ACCOUNTS.object_path(service_account, pod.metadata.namespace, "token")
        return await self._ask(
            f"cannot get a token of service account {pod.metadata.namespace}/{service_account} for {pod.key}",
            path,
            access.token_request(pod, audience=audience, expiration_s=expiration_s),
            access.ISSUED_TOKEN,
        )

    async def review_token(
        self, token: secret.Secret, *, audiences: tuple[str, ...] = ()
    ) -> access.User | None:
        """Who presents this token; none if the API server does not accept it."""
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        body = access.token_review(token, audiences)
        return await self._ask("cannot review a token", path, body, access.REVIEWED_USER)

    async def review_self(self) -> access.User:
        """Whom the API server takes us for."""
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        return await self._ask("cannot find out who we are", path, access.self_review(), access.OWN_USER)

    async def review_access(self, user: access.User, attributes: access.Attributes) -> bool:
        """Whether the user may do this; anything but a plain yes is a no."""
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        body = access.access_review(user, attributes)
        return await self._ask(f"cannot review the access of {user.name}", path, body, access.ALLOWED)

    async def review_own_access(self, attributes: access.Attributes) -> bool:
        """Whether we may do this; anything but a plain yes is a no."""
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        body = access.own_access_review(attributes)
        return await self._ask("cannot review our own access", path, body, access.ALLOWED)

    async def _ask(self, what: str, path: str, body: object, reader: access.Reader[T]) -> T:
        answer = await self._transport.call(what, "POST", path, body=_encode(body))
        try:
            return reader(answer)
        except (msgspec.DecodeError, ValueError) as error:
            raise errors.UnreachableError(f"{what}: the answer is not as expected: {error}") from error


def _named(resource: resources.Resource[Any], namespace: str, name: str, subresource: str = "") -> str:
    where = f"{namespace}/{name}" if namespace else name
    return f"{resource.plural}/{subresource} {where}" if subresource else f"{resource.plural} {where}"


def _query(**parameters: str) -> dict[str, str]:
    return {key: value for key, value in parameters.items() if value}


def _encode(body: object) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body)


def _decode(what: str, decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise errors.UnreachableError(f"{what}: the answer is not as expected: {error}") from error


def _page(
    what: str, resource: resources.Resource[T], body: bytes
) -> tuple[resources.ListBody[T], list[models.ObjectMeta]]:
    """A page, and what was passed over. One by one only if it has to be: that takes longer."""
    try:
        return resource.list_decoder.decode(body), []
    except msgspec.DecodeError:
        page = _decode(what, _UNREAD_LIST, body)
    items: list[T] = []
    unreadable: list[models.ObjectMeta] = []
    for raw in page.items or ():
        try:
            items.append(resource.decoder.decode(raw))
        except msgspec.DecodeError as error:
            unreadable.append(_pass_over(what, resource, raw, error))
    return resources.ListBody(page.metadata, tuple(items)), unreadable


def _event(what: str, resource: resources.Resource[T], line: bytes) -> Watched[T]:
    frame = _decode(what, _FRAME, line)
    if frame.type == "BOOKMARK":
        # A bookmark's object is empty but for its version, and not valid as an object of its kind.
        return Bookmark(_decode(what, _IDENTIFIED, frame.object).metadata.resource_version)
    if frame.type == "ERROR":
        status = _decode(what, _STATUS, frame.object)
        raise errors.from_status(what, status, status.code)
    try:
        kind = EventKind(frame.type)
    except ValueError as error:
        raise errors.UnreachableError(f"{what}: unknown event type {frame.type!r}") from error
    try:
        return WatchEvent(kind, resource.decoder.decode(frame.object))
    except msgspec.DecodeError as error:
        return Unreadable(kind, _pass_over(what, resource, frame.object, error))


def _pass_over(
    what: str, resource: resources.Resource[Any], raw: msgspec.Raw, error: msgspec.DecodeError
) -> models.ObjectMeta:
    """What tells an object that cannot be read from others; UnreachableError if it is no object at all."""
    found = _decode(what, _IDENTIFIED, raw).metadata
    if not found.uid:
        raise errors.UnreachableError(f"{what}: the answer is not as expected: {error}") from error
    log.error(
        "object cannot be read, passing it over",
        resource=resource.plural,
        namespace=found.namespace,
        name=found.name,
        uid=found.uid,
        error=str(error),
    )
    return models.ObjectMeta(
        name=found.name,
        namespace=found.namespace,
        uid=found.uid,
        resource_version=found.resource_version,
    )
