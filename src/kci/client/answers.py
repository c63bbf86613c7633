"""Reading what a KCI endpoint answered: values, or the error that it stands for. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import msgspec

from kci.client import errors
from kci.contract import errors as catalogue

T = TypeVar("T")

# Kingsoft's own clients know a missing thing by these (kci-reference 2.5).
_MISSING = ("notfound", "not_found", "not found", "不存在")
_REFUSED_CODES = frozenset(("InvalidAccessKey", "UnauthorizedOperation", "MissingSignature"))


class _Error(msgspec.Struct, rename="pascal"):
    code: str = ""
    message: str = ""


class _Envelope(msgspec.Struct, rename="pascal"):
    """The error shape of today, and the older gateway's beside it."""

    request_id: str = ""
    error: _Error | None = None
    old_code: str | int = msgspec.field(default="", name="code")
    old_message: str = msgspec.field(default="", name="message")


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    status: int
    body: bytes
    retry_after: str = ""


def read(reply: Reply, kind: type[T], *, action: str) -> T:
    """The answer as a value. Raises the error that it says it is, or UnreachableError if it is nothing
    that KCI would say: then the request's outcome is unknown.
    """
    envelope = _envelope(reply)
    if envelope is not None and (error := _stated_error(reply, envelope, action)):
        raise error
    if reply.status != 200 or envelope is None:
        raise errors.UnreachableError(
            f"cannot understand the answer to {action}: HTTP {reply.status} without a KCI answer in it;"
            " check the endpoint"
        )
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(reply.body)), kind, strict=False)
    except msgspec.ValidationError as error:
        raise errors.UnreachableError(
            f"cannot understand the answer to {action}: {error}", request_id=envelope.request_id
        ) from error


def _envelope(reply: Reply) -> _Envelope | None:
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(reply.body)), _Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _stated_error(reply: Reply, envelope: _Envelope, action: str) -> errors.KciError | None:
    if envelope.error is not None:
        code, message = envelope.error.code, envelope.error.message
    elif envelope.old_code and reply.status != 200:
        code, message = str(envelope.old_code), envelope.old_message
    else:
        return None
    text = f"cannot {action}: {message or 'no reason given'} ({code or 'no code'})"
    request_id = envelope.request_id
    match _kind(reply.status, code, message):
        case catalogue.Kind.NOT_FOUND:
            return errors.NotFoundError(text, code=code, request_id=request_id)
        case catalogue.Kind.BAD_INPUT:
            return errors.InvalidError(text, code=code, request_id=request_id)
        case catalogue.Kind.REFUSED:
            return errors.RefusedError(text, code=code, request_id=request_id)
        case catalogue.Kind.CONFLICT:
            return errors.ConflictError(text, code=code, request_id=request_id)
        case catalogue.Kind.TRY_LATER:
            return errors.TryLaterError(
                text, retry_after_s=_seconds(reply.retry_after), code=code, request_id=request_id
            )
        case catalogue.Kind.INTERNAL:
            return errors.UnreachableError(text, code=code, request_id=request_id)


def _kind(status: int, code: str, message: str) -> catalogue.Kind:
    """By our catalogue, else by status and words. What smells of credentials is never a missing thing:
    that would let a revoked key delete pods.
    """
    if code in catalogue.CATALOGUE:
        return catalogue.CATALOGUE[code].kind
    if status in {401, 403} or code in _REFUSED_CODES:
        return catalogue.Kind.REFUSED
    words = f"{code} {message}".lower()
    if status == 404 or any(part in words for part in _MISSING):
        return catalogue.Kind.NOT_FOUND
    if status == 429 or "throttl" in code.lower():
        return catalogue.Kind.TRY_LATER
    if status == 409 or "limitexceeded" in code.lower():
        return catalogue.Kind.CONFLICT
    return catalogue.Kind.INTERNAL if status >= 500 else catalogue.Kind.BAD_INPUT


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def _without_nulls(value: Any) -> Any:
    """An absent value and a null one are the same to us, and services differ in which they send."""
    if isinstance(value, dict):
        return {name: _without_nulls(below) for name, below in value.items() if below is not None}
    if isinstance(value, list):
        return [_without_nulls(below) for below in value]
    return value
