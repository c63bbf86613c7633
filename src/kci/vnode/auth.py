"""Who may use the kubelet API: authentication, authorization, and how long an answer may be kept.

A client certificate of the client CA, or a bearer token that the API server knows (TokenReview), says
who; a SubjectAccessReview on the `nodes` resource says whether. There is no anonymous user and no mode
without these. While the API server does not answer, the answer is no, but for what is cached.

Verbs and subresources as the kubelet's (pkg/kubelet/server/auth.go, 1.36.3), with one difference: a
WebSocket upgrade is a GET, so there `get nodes/proxy` is enough to run commands; here exec, attach,
run and portForward always ask for `create`.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog

from kci.kit import secret
from kci.kube import access, errors

log = structlog.get_logger(__name__)

STREAM_PATHS = frozenset({"exec", "attach", "run", "portForward"})
ALLOWED_S = 300.0
# For what can change something; also for tokens, as the user they name may come to do so.
ALLOWED_CREATE_S = 30.0
DENIED_S = 30.0
TOKEN_S = 30.0
REVIEW_TIMEOUT_S = 10.0
CACHE_SIZE = 4096

_VERBS: Mapping[str, str] = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
# First part of the path -> subresources of nodes, of which one must be allowed.
_SUBRESOURCES: Mapping[str, tuple[str, ...]] = {
    "stats": ("stats",),
    "metrics": ("metrics",),
    "logs": ("log",),
    "checkpoint": ("checkpoint",),
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
    "healthz": ("healthz", "proxy"),
    "configz": ("configz", "proxy"),
}

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class UnauthenticatedError(Exception):
    """Nobody we know."""


class ForbiddenError(Exception):
    """Somebody we know, who may not do this."""


class CannotDecideError(Exception):
    """The API server did not answer, so it is no."""


class Reviewer(Protocol):
    """The API server's judgement (kube/client.py)."""

    async def review_token(self, token: secret.Secret) -> access.User | None: ...

    async def review_access(self, user: access.User, attributes: access.Attributes) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Demand:
    """What a request needs: a verb on one of these subresources of our node."""

    verb: str
    subresources: tuple[str, ...]


def demand_of(method: str, path: str) -> Demand:
    """Pure: from the request line alone, so that it holds for paths that nobody serves as well."""
    first = path.lstrip("/").partition("/")[0]
    verb = "create" if first in STREAM_PATHS else _VERBS.get(method.upper(), method.lower())
    return Demand(verb, _SUBRESOURCES.get(first, ("proxy",)))


def user_of_certificate(certificate: Mapping[str, Any] | None) -> access.User | None:
    """The user of a verified client certificate (as SSLSocket.getpeercert gives it): its CN and Os."""
    if not certificate:
        return None
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [value for key, value in subject if key == "commonName"]
    groups = tuple(value for key, value in subject if key == "organizationName")
    return access.User(name=names[-1], groups=groups) if names and names[-1] else None


class Gate:
    """Decides on requests to one node's kubelet API."""

    def __init__(self, reviewer: Reviewer, *, node_name: str) -> None:
        self._reviewer = reviewer
        self._node_name = node_name
        self._users: _Cache[bytes, access.User | None] = _Cache()
        self._decisions: _Cache[tuple[bytes, str, str], bool] = _Cache()

    async def authenticate(self, certificate: Mapping[str, Any] | None, header: str) -> access.User:
        """By certificate, else by the Authorization header; UnauthenticatedError if neither says who."""
        user = user_of_certificate(certificate) or await self._user_of_token(header)
        if user is None:
            raise UnauthenticatedError
        return _with_group(user)

    async def authorize(self, user: access.User, demand: Demand) -> None:
        """ForbiddenError, or CannotDecideError when the API server gives no answer."""
        for subresource in demand.subresources:
            if await self._allowed(user, demand.verb, subresource):
                return
        raise ForbiddenError(_describe(user, demand.verb, demand.subresources))

    async def _user_of_token(self, header: str) -> access.User | None:
        kind, _, token = header.strip().partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token:
            return None
        key = hashlib.sha256(token.encode()).digest()
        cached = self._users.get(key)
        if cached is not None:
            return cached.value
        try:
            async with asyncio.timeout(REVIEW_TIMEOUT_S):
                user = await self._reviewer.review_token(secret.Secret(token))
        except (errors.KubeError, TimeoutError) as error:
            log.warning("cannot authenticate a request", error=repr(error))
            return None
        self._users.put(key, user, TOKEN_S)
        return user

    async def _allowed(self, user: access.User, verb: str, subresource: str) -> bool:
        key = (msgspec.json.encode(user, order="deterministic"), verb, subresource)
        cached = self._decisions.get(key)
        if cached is not None:
            return cached.value
        attributes = access.Attributes(
            verb=verb, resource="nodes", subresource=subresource, name=self._node_name
        )
        try:
            async with asyncio.timeout(REVIEW_TIMEOUT_S):
                allowed = await self._reviewer.review_access(user, attributes)
        except (errors.KubeError, TimeoutError) as error:
            log.warning("cannot authorize a request", user=user.name, verb=verb, error=repr(error))
            raise CannotDecideError(_describe(user, verb, (subresource,))) from error
        keep_s = (ALLOWED_CREATE_S if verb == "create" else ALLOWED_S) if allowed else DENIED_S
        self._decisions.put(key, allowed, keep_s)
        return allowed


def _describe(user: access.User, verb: str, subresources: Sequence[str]) -> str:
    """The kubelet's words."""
    listed = " ".join(subresources)
    return f"user={user.name}, verb={verb}, resource=nodes, subresource(s)=[{listed}]"


def _with_group(user: access.User) -> access.User:
    """Whoever was authenticated is in this group; a TokenReview says so itself, a certificate does not."""
    group = "system:authenticated"
    if group in user.groups:
        return user
    return access.User(name=user.name, uid=user.uid, groups=(*user.groups, group), extra=user.extra)


@dataclasses.dataclass(frozen=True)
class _Entry(Generic[V]):
    value: V
    until_s: float


class _Cache(Generic[K, V]):
    """Answers with an end each; the oldest goes when it is full."""

    def __init__(self) -> None:
        self._entries: collections.OrderedDict[K, _Entry[V]] = collections.OrderedDict()

    def get(self, key: K) -> _Entry[V] | None:
        entry = self._entries.get(key)
        if entry is not None and asyncio.get_running_loop().time() >= entry.until_s:
            del self._entries[key]
            return None
        return entry

    def put(self, key: K, value: V, keep_s: float) -> None:
        self._entries[key] = _Entry(value, asyncio.get_running_loop().time() + keep_s)
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)
