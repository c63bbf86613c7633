"""Who somebody is and what he may do, as the API server answers it: TokenRequest, TokenReview,
SelfSubjectReview and SubjectAccessReview as typed questions and answers. Pure; `kube/client.py` sends them.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec

from kci.kit import secret
from kci.kube import models

T = TypeVar("T")
# Reads an answer's bytes.
Reader: TypeAlias = Callable[[bytes], T]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IssuedToken:
    """`life_s` is what was granted, which may be less than what was asked for."""

    token: secret.Secret
    expires_at: datetime.datetime
    life_s: float


class User(models.Model, frozen=True):
    """Who makes a request, as an authenticator found out."""

    name: str = msgspec.field(default="", name="username")
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attributes:
    """What somebody wants to do: with a resource, or (with `path`) with a plain path."""

    verb: str
    group: str = ""
    version: str = "v1"
    resource: str = ""
    subresource: str = ""
    name: str = ""
    namespace: str = ""
    path: str = ""


class _TokenStatus(models.Model, frozen=True):
    token: str
    expiration_timestamp: str


class _TokenSpec(models.Model, frozen=True):
    expiration_seconds: float


class _TokenRequest(models.Model, frozen=True):
    spec: _TokenSpec
    status: _TokenStatus


class _ReviewStatus(models.Model, frozen=True):
    authenticated: bool = False
    user: User = User()


class _TokenReview(models.Model, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


class _SelfStatus(models.Model, frozen=True):
    user_info: User


class _SelfReview(models.Model, frozen=True):
    status: _SelfStatus


class _AccessStatus(models.Model, frozen=True):
    allowed: bool = False
    denied: bool = False


class _AccessReview(models.Model, frozen=True):
    status: _AccessStatus = _AccessStatus()


def token_request(pod: models.Pod, *, audience: str, expiration_s: int) -> dict[str, Any]:
    """The body of a TokenRequest bound to a pod, as the kubelet's (pkg/volume/projected, v1.36.3)."""
    spec: dict[str, Any] = {
        "audiences": [audience] if audience else [],
        "expirationSeconds": expiration_s,
        "boundObjectRef": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": pod.metadata.name,
            "uid": pod.metadata.uid,
        },
    }
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}


def token_review(token: secret.Secret, audiences: tuple[str, ...]) -> dict[str, Any]:
    spec: dict[str, Any] = {"token": token.reveal()}
    if audiences:
        spec["audiences"] = audiences
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}


def self_review() -> dict[str, Any]:
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


def access_review(user: User, attributes: Attributes) -> dict[str, Any]:
    spec: dict[str, Any] = {"user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra}
    spec |= _asked(attributes)
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def own_access_review(attributes: Attributes) -> dict[str, Any]:
    kind = "SelfSubjectAccessReview"
    return {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": _asked(attributes)}


def _asked(attributes: Attributes) -> dict[str, Any]:
    if attributes.path:
        return {"nonResourceAttributes": {"path": attributes.path, "verb": attributes.verb}}
    fields = ("verb", "group", "version", "resource", "subresource", "name", "namespace")
    asked = {field: getattr(attributes, field) for field in fields if getattr(attributes, field)}
    return {"resourceAttributes": asked}


def _read_token(answer: bytes) -> IssuedToken:
    found = msgspec.json.decode(answer, type=_TokenRequest)
    expires_at = datetime.datetime.fromisoformat(found.status.expiration_timestamp)
    return IssuedToken(
        token=secret.Secret(found.status.token), expires_at=expires_at, life_s=found.spec.expiration_seconds
    )


def _read_user(answer: bytes) -> User | None:
    status = msgspec.json.decode(answer, type=_TokenReview).status
    return status.user if status.authenticated and status.user.name else None


def _read_self(answer: bytes) -> User:
    return msgspec.json.decode(answer, type=_SelfReview).status.user_info


def _read_allowed(answer: bytes) -> bool:
    status = msgspec.json.decode(answer, type=_AccessReview).status
    return status.allowed and not status.denied


ISSUED_TOKEN: Reader[IssuedToken] = _read_token
REVIEWED_USER: Reader[User | None] = _read_user
OWN_USER: Reader[User] = _read_self
ALLOWED: Reader[bool] = _read_allowed
