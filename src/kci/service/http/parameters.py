"""From a verified request to one action and its parameters."""

from __future__ import annotations

import dataclasses

from kci.contract import errors, operations, wire
from kci.service.http import verification

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"


@dataclasses.dataclass(frozen=True)
class Call:
    """What is asked, on exactly one reading."""

    operation: operations.Operation
    tree: wire.Tree


def read_call(verified: verification.Verified, *, method: str, content_type: str) -> Call:
    """Parameters may come in the URL, the body, or both, as SDKs differ in it; where both have one, they
    must agree. What names caller, service or region may only repeat what was verified.
    """
    tree = wire.nest(wire.merge(verified.query, _read_body(verified.body, method, content_type)))
    action = _text(tree, "Action")
    if not action:
        raise errors.ApiError(errors.MISSING_PARAMETER, parameter="Action")
    operation = operations.ALL.get(action)
    if operation is None or operation.service != verified.service:
        raise errors.ApiError(errors.INVALID_ACTION, parameter="Action")
    for name, expected in (
        ("Version", operation.version),
        ("Service", operation.service),
        ("Region", verified.region),
        ("Accesskey", verified.identity.access_key),
        ("AccountId", verified.identity.tenant_id),
    ):
        if _text(tree, name) not in {"", expected}:
            raise errors.ApiError(
                errors.INVALID_PARAMETER_VALUE, "is not what the request was signed for", parameter=name
            )
    if _text(tree, "DryRun").lower() in {"true", "1"}:
        raise errors.ApiError(errors.UNSUPPORTED_OPERATION, "cannot be honoured here", parameter="DryRun")
    return Call(operation, tree)


def _read_body(body: bytes, method: str, content_type: str) -> list[wire.Pair]:
    if not body:
        return []
    if method != "POST":
        raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot take a body with this method; use POST")
    if content_type == _FORM:
        return wire.parse_pairs(body)
    if content_type == _JSON:
        return wire.parse_json(body)
    raise errors.ApiError(errors.MALFORMED_REQUEST, f"cannot take a body other than {_FORM} or {_JSON}")


def _text(tree: wire.Tree, name: str) -> str:
    value = tree.get(name, "")
    if isinstance(value, str):
        return value
    raise errors.ApiError(errors.INVALID_PARAMETER_VALUE, "must be one value", parameter=name)
