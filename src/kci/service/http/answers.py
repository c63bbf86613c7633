"""Answers and errors on the wire: JSON for who accepts it, else XML, each with the request's id."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import structlog
from aiohttp import web

from kci.contract import errors, groups, wire

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Ksc-Request-Id"
REQUEST_ID = web.RequestKey("request id", str)


def answer(request: web.Request, action: str, value: groups.Answer) -> web.Response:
    body = {"RequestId": request[REQUEST_ID], **msgspec.to_builtins(value)}
    return _render(request, f"{action}Response", body, 200)


def failure(request: web.Request, error: errors.ApiError) -> web.Response:
    response = _render(
        request, "ErrorResponse", wire.error_body(error, request[REQUEST_ID]), error.entry.status
    )
    if error.retry_after_s:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


@contextlib.contextmanager
def started(request: web.Request) -> Iterator[None]:
    """For what follows an answer's first byte: an error can no longer be told, so the connection is cut,
    lest the answer be taken for whole.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  (nothing above could answer any more)
        if not isinstance(error, ConnectionError):
            log.warning("stream cut", path=request.path, error=repr(error))
        if request.transport is not None:
            request.transport.abort()


def _render(request: web.Request, root: str, body: dict[str, Any], status: int) -> web.Response:
    if "application/json" in request.headers.get("Accept", ""):
        return web.Response(body=wire.render_json(body), status=status, content_type="application/json")
    return web.Response(
        body=wire.render_xml(root, body), status=status, content_type="text/xml", charset="utf-8"
    )
