"""What can go wrong at a Kubernetes API server, named for what the caller can do about it.

`from_answer` is the one place where an HTTP answer (a metav1.Status) becomes an error. A 404 counts
as "not there" only if the API server itself says so: a proxy's 404 must never look like a deletion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kci.kit import errors as kit_errors


class KubeError(Exception):
    """Base of all errors of this package. `code` is the HTTP status, `reason` Kubernetes' word, if known."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(message)


class KubeconfigError(KubeError, kit_errors.UserError):
    """A kubeconfig that cannot be used; the text says what to change."""


class NotFoundError(KubeError):
    """The API server says that the object does not exist."""


class ConflictError(KubeError):
    """The object is not as the request expected it: another version, or another UID under the same name."""


class AlreadyExistsError(KubeError):
    """An object of that name exists."""


class GoneError(KubeError):
    """The resource version or list page is too old: list again."""


class UnauthorizedError(KubeError):
    """The API server does not know who we are."""


class ForbiddenError(KubeError):
    """We may not do this."""


class InvalidError(KubeError):
    """The request is wrong and stays wrong."""


class TryLaterError(KubeError):
    """The API server is overloaded or broken for now; whether it did the work is not known for a 5xx."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "", retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, code=code, reason=reason)


class UnreachableError(KubeError):
    """No answer of an API server: no connection, a time limit, or something else that answers there.
    Whether the work was done is not known.
    """


class SilentError(UnreachableError):
    """A watch that was answered said nothing for too long: dead, or idle at a server that sends no bookmarks
    while nothing moves. Nothing failed yet: watch again at once.
    """


class ConfigError(KubeError):
    """A pod's environment or volumes cannot be made from its spec and the objects that it names. The text is
    worded as the kubelet's, because users search for that. Trying again helps once the objects changed.
    """


class _Cause(msgspec.Struct, frozen=True):
    field: str = ""


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    retry_after_seconds: int | None = None
    causes: tuple[_Cause, ...] | None = None


class Status(msgspec.Struct, frozen=True):
    """metav1.Status, as far as we read it."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_STATUS = msgspec.json.Decoder(Status)

# Reasons first: two share one HTTP code, and some servers use a reason with more than one code.
_BY_REASON: Mapping[str, type[KubeError]] = {
    "NotFound": NotFoundError,
    "AlreadyExists": AlreadyExistsError,
    "Conflict": ConflictError,
    "Gone": GoneError,
    "Expired": GoneError,
    "Unauthorized": UnauthorizedError,
    "Forbidden": ForbiddenError,
    "TooManyRequests": TryLaterError,
    "ServerTimeout": TryLaterError,
    "Timeout": TryLaterError,
    "ServiceUnavailable": TryLaterError,
    "InternalError": TryLaterError,
}
_BY_CODE: Mapping[int, type[KubeError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    409: ConflictError,
    410: GoneError,
    429: TryLaterError,
}


def from_answer(what: str, code: int, body: bytes, *, retry_after: str = "") -> KubeError:
    """The error for an answer that is no success; `what` says what was asked ("cannot get pods a/b")."""
    try:
        status = _STATUS.decode(body)
    except msgspec.DecodeError:
        status = Status()
    return from_status(what, status, code, retry_after=retry_after)


def from_status(what: str, status: Status, code: int, *, retry_after: str = "") -> KubeError:
    """The error for a metav1.Status, which is also what an ERROR event on a watch carries."""
    is_status = status.kind == "Status"
    text = f"{what}: {status.message or status.reason or f'the server answered {code}'}"
    known: dict[str, Any] = {"code": code, "reason": status.reason}
    kind = _BY_REASON.get(status.reason) or _BY_CODE.get(code)
    causes = (status.details.causes if status.details else None) or ()
    if status.reason == "Invalid" and any(cause.field == "metadata.uid" for cause in causes):
        # How a server refuses a patch that names another UID (1.36): as a change of that field.
        kind = ConflictError
    if kind is None and code >= 500:
        kind = TryLaterError
    if kind is None and 300 <= code < 500:
        # No API server redirects us, or says 404 in other words than its own.
        kind = InvalidError if is_status and code != 404 else UnreachableError
    if kind is TryLaterError:
        seconds = (status.details.retry_after_seconds if status.details else None) or 0
        return TryLaterError(text, **known, retry_after_s=_seconds(retry_after) or float(seconds))
    return (kind or KubeError)(text, **known)


def _seconds(retry_after: str) -> float:
    """Retry-After in its form of seconds, at most ten minutes; API servers send no dates."""
    return min(float(retry_after), 600.0) if retry_after.isdecimal() else 0.0
