"""The one application: who is not public is verified first, then dispatched by `Action`."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from kci.contract import capabilities, errors, groups, operations, wire
from kci.kit import channels, entrance, observing
from kci.kit import errors as kit_errors
from kci.service.http import answers, parameters, verification
from kci.service.http import credentials as credential_actions
from kci.service.http import groups as group_actions
from kci.service.http import networks as network_actions
from kci.service.http import security_groups as security_group_actions
from kci.service.http import streams as stream_actions
from kci.service.http import usage as usage_actions
from kci.service.store import errors as store_errors

log = structlog.get_logger(__name__)

# The only paths that need no signature: one says nothing, the other has a credential of its own.
PUBLIC_PATHS = frozenset(("/healthz", stream_actions.PATH))

_VERIFIED = web.RequestKey("verified", verification.Verified)
_MAX_LINE_BYTES = 64 * 1024
_BACKLOG = 128
# Longer than clients keep a connection that they do not use (aiohttp 15 s), who would else call into its end.
SILENCE_S = 30.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Action = Callable[[verification.Verified, Any], Awaitable[groups.Answer]]
StreamAction = Callable[[web.Request, verification.Verified, Any], Awaitable[web.StreamResponse]]


def make_application(
    verifier: verification.Verifier,
    group_edge: group_actions.GroupActions,
    stream_edge: stream_actions.StreamActions,
    credential_edge: credential_actions.CredentialActions,
    network_edge: network_actions.NetworkActions,
    security_group_edge: security_group_actions.SecurityGroupActions,
    usage_edge: usage_actions.UsageActions,
    *,
    version: str,
    on_call: observing.OnCall = observing.no_call,
    tracer: observing.Tracer = observing.NO_TRACER,
) -> web.Application:
    """Everything that this service answers."""
    application = web.Application(
        client_max_size=wire.MAX_BODY_BYTES, middlewares=[_answer_errors, _verify_first(verifier)]
    )
    dispatch = _Dispatcher(
        group_edge,
        stream_edge,
        credential_edge,
        network_edge,
        security_group_edge,
        usage_edge,
        version,
        on_call,
        tracer,
    ).dispatch
    application.router.add_get("/", dispatch, allow_head=False)
    application.router.add_post("/", dispatch)
    application.router.add_get("/healthz", _say_healthy, allow_head=False)
    application.router.add_get(stream_actions.PATH, stream_edge.open_stream, allow_head=False)
    return application


@contextlib.asynccontextmanager
async def listening(
    application: web.Application,
    host: str,
    port: int,
    *,
    before_end: Callable[[], None],
    bounds: entrance.Bounds,
    silence_s: float = SILENCE_S,
) -> AsyncIterator[tuple[str, int]]:
    """Serve inside the block, which is given the real address. At its end nothing new is taken, then
    `before_end` tells endless answers to end, and what is not done soon after is cut off.

    Who has not sent a whole head of a request after `silence_s` is cut off, be it the first or another one.
    """

    async def end_watches(_application: web.Application) -> None:
        before_end()

    application.on_shutdown.append(end_watches)
    # No access log: a path can carry a token. No decompression: a small body could become a large one.
    runner = web.AppRunner(
        application,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=silence_s,
        max_line_size=_MAX_LINE_BYTES,
        shutdown_timeout=2.0,
        handle_signals=False,
    )
    await runner.setup()
    assert runner.server is not None, "it was set up"
    try:
        listener = await asyncio.get_running_loop().create_server(
            entrance.Entrance(runner.server, bounds), host, port, backlog=_BACKLOG
        )
    except OSError as error:
        await runner.cleanup()
        raise kit_errors.UserError(
            f"cannot listen on {host}:{port}: {error.strerror}; give another --listen"
        ) from error
    try:
        bound = listener.sockets[0].getsockname()
        yield bound[0], bound[1]
    finally:
        listener.close()
        await runner.cleanup()


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: gives the request its id, and turns each error into an answer."""
    request[answers.REQUEST_ID] = request_id = str(uuid.uuid4())
    began = time.perf_counter()
    with structlog.contextvars.bound_contextvars(request=request_id):
        try:
            response = await handler(request)
        except Exception as raised:
            error = _to_api_error(raised)
            if error.entry is errors.INTERNAL_ERROR:
                log.error("request failed", exc_info=raised)
            elif error.entry is errors.SERVICE_UNAVAILABLE:
                # Of the store's errors the answer does not say what they are.
                log.warning("request failed", code=error.entry.code, error=str(raised), path=request.path)
            else:
                log.info("request refused", code=error.entry.code, message=str(error), path=request.path)
            response = answers.failure(request, error)
            if "Upgrade" in request.headers:
                response.headers.update(channels.refusal_header(str(error)))
        else:
            took_ms = round(1000 * (time.perf_counter() - began), 1)
            log.debug("request served", path=request.path, took_ms=took_ms)
    if not response.prepared:
        response.headers[answers.REQUEST_ID_HEADER] = request_id
    return response


def _verify_first(verifier: verification.Verifier) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in PUBLIC_PATHS:
            request[_VERIFIED] = await verifier.verify(request)
        return await handler(request)

    return middleware


class _Dispatcher:
    """Sends each action to the edge that serves it."""

    def __init__(
        self,
        group_edge: group_actions.GroupActions,
        stream_edge: stream_actions.StreamActions,
        credential_edge: credential_actions.CredentialActions,
        network_edge: network_actions.NetworkActions,
        security_group_edge: security_group_actions.SecurityGroupActions,
        usage_edge: usage_actions.UsageActions,
        version: str,
        on_call: observing.OnCall,
        tracer: observing.Tracer,
    ) -> None:
        self._version = version
        self._on_call = on_call
        self._tracer = tracer
        self._actions: dict[operations.Operation, Action] = {
            operations.CREATE_CONTAINER_GROUP: group_edge.create,
            operations.DESCRIBE_CONTAINER_GROUP: group_edge.describe,
            operations.DELETE_CONTAINER_GROUP: group_edge.delete,
            operations.DESCRIBE_KCI_PACKAGES: group_edge.describe_packages,
            operations.DESCRIBE_CONTAINER_LOG: stream_edge.read_log,
            operations.EXEC_CONTAINER_COMMAND: stream_edge.start_command,
            operations.ATTACH_CONTAINER: stream_edge.attach,
            operations.PORT_FORWARD_CONTAINER_GROUP: stream_edge.forward_port,
            operations.DESCRIBE_CONTAINER_GROUP_USAGE: usage_edge.describe,
            operations.DESCRIBE_CONTAINER_GROUP_START: group_edge.describe_start,
            operations.ISSUE_CREDENTIALS: credential_edge.issue,
            operations.DESCRIBE_CAPABILITIES: self._describe_capabilities,
            operations.CREATE_VPC: network_edge.create_vpc,
            operations.DESCRIBE_VPCS: network_edge.describe_vpcs,
            operations.DELETE_VPC: network_edge.delete_vpc,
            operations.CREATE_SUBNET: network_edge.create_subnet,
            operations.DESCRIBE_SUBNETS: network_edge.describe_subnets,
            operations.MODIFY_SUBNET: network_edge.modify_subnet,
            operations.DELETE_SUBNET: network_edge.delete_subnet,
            operations.CREATE_SECURITY_GROUP: security_group_edge.create,
            operations.DESCRIBE_SECURITY_GROUPS: security_group_edge.describe,
            operations.MODIFY_SECURITY_GROUP: security_group_edge.modify,
            operations.DELETE_SECURITY_GROUP: security_group_edge.delete,
            operations.AUTHORIZE_SECURITY_GROUP_ENTRY: security_group_edge.authorize,
            operations.REVOKE_SECURITY_GROUP_ENTRY: security_group_edge.revoke,
        }
        self._streams: dict[operations.Operation, StreamAction] = {
            operations.STREAM_CONTAINER_LOG: stream_edge.stream_log,
            operations.WATCH_CONTAINER_GROUPS: group_edge.watch,
        }

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        verified = request[_VERIFIED]
        call = parameters.read_call(verified, method=request.method, content_type=request.content_type)
        structlog.contextvars.bind_contextvars(action=call.operation.action)
        asked = wire.read(call.tree, call.operation.parameters)
        if stream := self._streams.get(call.operation):
            return await stream(request, verified, asked)
        with (
            observing.told(self._on_call, call.operation.action, code_of=_code_of),
            self._traced(request, call.operation),
        ):
            value = await self._actions[call.operation](verified, asked)
        return answers.answer(request, call.operation.action, value)

    def _traced(
        self, request: web.Request, operation: operations.Operation
    ) -> contextlib.AbstractContextManager[None]:
        """A trace of the caller's goes on, and a create begins one: it is what starts are traced from."""
        parent = request.headers.get("traceparent", "")
        if not parent and operation is not operations.CREATE_CONTAINER_GROUP:
            return contextlib.nullcontext()
        span = self._tracer.begin(
            operation.action,
            parent=parent,
            kind=observing.Kind.SERVER,
            attributes={
                "rpc.service": operation.service,
                "rpc.method": operation.action,
                "http.request.method": request.method,
            },
        )
        return observing.spanned(span, code_of=_code_of)

    async def _describe_capabilities(
        self, _caller: verification.Verified, _asked: groups.DescribeCapabilities
    ) -> groups.CapabilityList:
        return groups.CapabilityList(capabilities=capabilities.ALL, version=self._version)


def _code_of(error: BaseException) -> str:
    return error.entry.code if isinstance(error, errors.ApiError) else observing.kind_of(error)


async def _say_healthy(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _to_api_error(raised: Exception) -> errors.ApiError:
    match raised:
        case errors.ApiError():
            return raised
        case web.HTTPMethodNotAllowed():
            return errors.ApiError(errors.METHOD_NOT_ALLOWED)
        case web.HTTPException() if raised.status < 500:
            return errors.ApiError(errors.NOT_FOUND if raised.status == 404 else errors.MALFORMED_REQUEST)
        case store_errors.StoreError():
            return errors.ApiError(errors.SERVICE_UNAVAILABLE, retry_after_s=1)
        case _:
            return errors.ApiError(errors.INTERNAL_ERROR)
