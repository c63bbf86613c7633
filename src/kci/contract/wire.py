"""The wire form: flat dotted parameters to nested values and back, answers as JSON or XML.

`Label.1.Key=a` is one leaf of a tree. Indices are sort keys only: SDKs count from 0 or from 1, and gaps
are allowed (kci-reference 2.0). Texts become numbers and booleans when a tree is read as a type, and an
error names the parameter by the path that the caller wrote. All limits hold before a value is looked at.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from xml.sax import saxutils

import msgspec

from kci.contract import errors

Pair = tuple[str, str]
Tree = dict[str, "Tree | str"]
T = TypeVar("T")

MAX_BODY_BYTES = 1024 * 1024
MAX_PARAMETERS = 1000
MAX_DEPTH = 32
MAX_NAME_LENGTH = 256

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")
_INDEX = re.compile(r"(0|[1-9][0-9]{0,8})\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Characters that XML 1.0 cannot carry, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# ---- reading ------------------------------------------------------------------------------------


def parse_pairs(text: bytes | str) -> list[Pair]:
    """The pairs of a query or form, decoded. A plus is a space, in what is signed as in what is acted on."""
    raw = text if isinstance(text, str) else _decode_utf8(text)
    if not raw:
        return []
    if raw.count("&") >= MAX_PARAMETERS:
        raise errors.ApiError(errors.MALFORMED_REQUEST, f"cannot take more than {MAX_PARAMETERS} parameters")
    pairs = []
    for field in raw.split("&"):
        if not field:
            continue
        name, _, value = field.partition("=")
        pairs.append((_unescape(name), _unescape(value)))
    return pairs


def parse_json(body: bytes) -> list[Pair]:
    """A nested JSON object as the pairs that a form would carry."""
    try:
        value = json.loads(_decode_utf8(body), object_pairs_hook=_unique, parse_constant=_no_constant)
        if isinstance(value, dict):
            return flatten(value)
    except (ValueError, RecursionError) as error:
        raise errors.ApiError(
            errors.MALFORMED_REQUEST, "cannot read the body as a JSON object with unique keys"
        ) from error
    raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot read the body: a JSON object is expected")


def merge(*sources: Sequence[Pair]) -> list[Pair]:
    """Parameters from several places (URL, body). The same name twice in one place is refused, and so is
    one that differs between places: nobody could say which one was meant.
    """
    merged: dict[str, str] = {}
    for pairs in sources:
        here: set[str] = set()
        for name, value in pairs:
            if name in here:
                raise errors.ApiError(
                    errors.MALFORMED_REQUEST, "cannot take it twice", parameter=_shown(name)
                )
            here.add(name)
            if merged.setdefault(name, value) != value:
                raise errors.ApiError(
                    errors.MALFORMED_REQUEST,
                    "cannot take one value in the URL and another in the body",
                    parameter=_shown(name),
                )
    return list(merged.items())


def nest(pairs: Iterable[Pair]) -> Tree:
    """Dotted names as a tree of texts. Lists are still keyed by their indices, as texts."""
    tree: Tree = {}
    for count, (name, value) in enumerate(pairs, start=1):
        if count > MAX_PARAMETERS:
            raise errors.ApiError(
                errors.MALFORMED_REQUEST, f"cannot take more than {MAX_PARAMETERS} parameters"
            )
        _check_pair(name, value)
        *parents, leaf = name.split(".")
        if len(parents) >= MAX_DEPTH:
            raise errors.ApiError(
                errors.MALFORMED_REQUEST,
                f"cannot take names of more than {MAX_DEPTH} parts",
                parameter=_shown(name),
            )
        place = tree
        for part in parents:
            below = place.setdefault(part, {})
            if isinstance(below, str):
                raise errors.ApiError(
                    errors.MALFORMED_REQUEST,
                    "cannot be a value and an object at once",
                    parameter=_shown(name),
                )
            place = below
        if leaf in place:
            raise errors.ApiError(
                errors.MALFORMED_REQUEST,
                "cannot be given twice, or as value and object",
                parameter=_shown(name),
            )
        place[leaf] = value
    return tree


def read(tree: Tree, kind: type[T]) -> T:
    """A tree as a request type. Unknown names are ignored, as SDKs add some of their own; an empty
    value outside a list means the same as an absent one.
    """
    indices: dict[str, list[str]] = {}
    try:
        return msgspec.convert(_plain(tree, "$", indices), kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).rpartition(" - at `$")
        raise errors.ApiError(
            errors.INVALID_PARAMETER_VALUE,
            (reason or str(error)).replace("`", ""),
            parameter=_caller_path(where.rstrip("`"), indices),
        ) from error


# ---- writing ------------------------------------------------------------------------------------


def flatten(value: Any, prefix: str = "") -> list[Pair]:
    """Nested values as pairs, indices from 0 as the Python SDK's; `None` and what is empty vanish."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [pair for name, below in value.items() for pair in flatten(below, _join(prefix, str(name)))]
    if isinstance(value, list | tuple):
        return [
            pair for index, below in enumerate(value) for pair in flatten(below, _join(prefix, str(index)))
        ]
    return [(prefix, ("true" if value else "false") if isinstance(value, bool) else str(value))]


def encode_pairs(pairs: Iterable[Pair]) -> str:
    return "&".join(
        f"{urllib.parse.quote(name, safe='-_.~')}={urllib.parse.quote(value, safe='-_.~')}"
        for name, value in pairs
    )


def render_json(answer: dict[str, Any]) -> bytes:
    return msgspec.json.encode(answer)


def render_xml(root: str, answer: dict[str, Any]) -> bytes:
    """The answer as XML: one element per name, `<item>` for each entry of a list."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{_xml(answer)}</{root}>'.encode()


def error_body(error: errors.ApiError, request_id: str) -> dict[str, Any]:
    """The error shape of Kingsoft's services (kci-reference 2.5)."""
    side = "Sender" if error.entry.status < 500 else "Receiver"
    return {
        "RequestId": request_id,
        "Error": {"Type": side, "Code": error.entry.code, "Message": str(error)},
    }


# ---- helpers, in the order they are called -------------------------------------------------------


def _decode_utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot read the request as UTF-8") from error


def _unescape(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot read a percent escape of the request")
    try:
        data = urllib.parse.unquote_to_bytes(text.replace("+", " "))
    except UnicodeEncodeError as error:
        raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot read the request as UTF-8") from error
    return _decode_utf8(data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _shown(name: str) -> str:
    """A name that came from outside, fit for an error's text."""
    return name.encode("ascii", "replace").decode()[:MAX_NAME_LENGTH]


def _check_pair(name: str, value: str) -> None:
    if len(name) > MAX_NAME_LENGTH or not _NAME.match(name):
        raise errors.ApiError(
            errors.MALFORMED_REQUEST, "cannot be a parameter's name", parameter=_shown(name)
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise errors.ApiError(
            errors.MALFORMED_REQUEST, "cannot be written as UTF-8", parameter=_shown(name)
        ) from error
    if "\0" in value:
        raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot contain NUL", parameter=_shown(name))


def _plain(tree: Tree, path: str, indices: dict[str, list[str]]) -> Any:
    """The tree with lists in place of index keys; `indices` keeps the caller's own index of each entry."""
    if tree and all(_INDEX.match(key) for key in tree):
        keys = sorted(tree, key=int)
        indices[path] = keys
        return [_plain_value(tree[key], f"{path}[{place}]", indices) for place, key in enumerate(keys)]
    return {key: _plain_value(value, f"{path}.{key}", indices) for key, value in tree.items() if value != ""}


def _plain_value(value: Tree | str, path: str, indices: dict[str, list[str]]) -> Any:
    return value if isinstance(value, str) else _plain(value, path, indices)


def _caller_path(path: str, indices: dict[str, list[str]]) -> str:
    """`.Label[0].Key` as the caller wrote it: `Label.1.Key`."""
    shown, walked = [], "$"
    for name, place in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        if name:
            shown.append(name)
            walked += f".{name}"
        else:
            shown.append(indices[walked][int(place)])
            walked += f"[{place}]"
    return ".".join(shown)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _xml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml(below)}</{name}>" for name, below in value.items())
    if isinstance(value, list | tuple):
        return "".join(f"<item>{_xml(below)}</item>" for below in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return saxutils.escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", str(value)))
