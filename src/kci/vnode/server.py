"""The kubelet API of the virtual node: what kubectl needs of a node, over TLS, for whom the cluster allows.

Every request is authenticated and authorized before anything of it is read, paths that nobody serves
included (auth.py); what it is served with may change (kubelet_tls.py). Logs are served here; commands and
ports are streaming/'s, what pods use is usage/'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeAlias

import msgspec
import structlog
from aiohttp import web

from kci.kit import errors as kit_errors
from kci.kit import sockets
from kci.kube import models
from kci.vnode import auth, kubelet_tls, leadership, log_options, provider
from kci.vnode.streaming import handlers, sessions
from kci.vnode.usage import handlers as usage_handlers

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S = 2.0
# As a kubelet's (Go's http.DefaultMaxHeaderBytes): a command comes as query.
_MAX_LINE_BYTES = 1 << 20
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where to listen. Who has not sent a whole head of a request after `silence_s`, be it the first or
    another one, is cut off; the API server, as each client in Go, repeats a call that met such an end.
    """

    address: str
    port: int
    silence_s: float = 30.0
    streams: handlers.StreamSettings = dataclasses.field(default_factory=handlers.StreamSettings)


class Streams(provider.LogProvider, handlers.Streams, Protocol):
    """What this API relays to."""


class Server:
    """`async with server.running() as port:` serves."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        tls: kubelet_tls.Tls,
        gate: auth.Gate,
        streams: Streams,
        pods: handlers.Pods,
        usage: usage_handlers.Handlers,
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._gate = gate
        self._streams = streams
        self._pods = pods
        self._usage = usage
        self._sessions = sessions.Sessions(
            max_of_node=settings.streams.max_of_node, max_of_pod=settings.streams.max_of_pod
        )
        self._streaming = handlers.Handlers(
            settings.streams, streams=streams, pods=pods, open_sessions=self._sessions
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Serve inside the block, on the port that is yielded; UserError if that cannot be."""
        settings = self._settings
        # A client that goes away ends its handler, and with it what the handler holds open.
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=settings.silence_s,
            max_line_size=_MAX_LINE_BYTES,
            shutdown_timeout=STOP_TIMEOUT_S,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.address, settings.port, ssl_context=self._tls.context)
            try:
                await site.start()
            except OSError as error:
                raise kit_errors.UserError(
                    f"cannot serve the kubelet API on {settings.address}:{settings.port}: {error}; "
                    "VKUBELET_POD_IP must be an address of this machine, and KUBELET_PORT free"
                ) from error
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._check], client_max_size=64 * 1024)
        router = application.router
        router.add_get("/healthz", self._healthz)
        router.add_get("/pods", self._list_pods)
        # A HEAD would be answered with the log, and the next request on the connection with the rest of it.
        router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs, allow_head=False)
        self._streaming.add_to(router)
        self._usage.add_to(router)
        router.add_route("*", "/run/{rest:.*}", self._run)
        return application

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            user = await self._gate.authenticate(
                request.get_extra_info("peercert"), request.headers.get("Authorization", "")
            )
        except auth.UnauthenticatedError:
            return web.Response(status=401, text="Unauthorized")
        try:
            # By the route that will serve it, so that no spelling of a path gets another verb.
            route = request.match_info.route.resource
            path = request.path if route is None else route.canonical
            await self._gate.authorize(user, auth.demand_of(request.method, path))
        except auth.ForbiddenError as error:
            log.info("request forbidden", user=user.name, method=request.method, path=request.path)
            return web.Response(status=403, text=f"Forbidden ({error})\n")
        except auth.CannotDecideError as error:
            return web.Response(status=500, text=f"Authorization error ({error})")
        request[handlers.USER] = user
        try:
            return await handler(request)
        except leadership.NotLeaderError as error:
            return web.Response(status=503, text=str(error))

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _list_pods(self, _request: web.Request) -> web.Response:
        found = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [*self._pods.all().values()]}
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def _run(self, _request: web.Request) -> web.Response:
        return web.Response(status=501, text="cannot serve run: use exec, which has streams and an exit code")

    # ---- logs ----------------------------------------------------------------------------------

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        try:
            options = log_options.parse(request.query)
        except log_options.BadQueryError as error:
            return web.Response(status=error.status, text=str(error))
        name = request.match_info["pod"]
        pod = handlers.find_pod(self._pods, request)
        if pod is None:
            return web.Response(status=404, text=f'pod "{name}" does not exist')
        container = request.match_info["container"]
        if not handlers.has_container(pod, container):
            return web.Response(status=404, text=f'container "{container}" not found in pod "{name}"')
        why_not = log_options.why_no_log(pod, container, previous=options.previous)
        target = self._target(pod, container)
        if target is None:
            return web.Response(status=400, text=why_not)
        user, remote = request[handlers.USER].name, request.remote or ""
        try:
            with self._sessions.open("logs", pod, user=user, remote=remote, container=container):
                sockets.keep_alive(request.get_extra_info("socket"))
                chunks = await self._streams.open_log(
                    target, options, has_ended=lambda: self._has_ended(target)
                )
                return await _send_log(request, chunks, limit_bytes=options.limit_bytes)
        except provider.NotFoundError:
            return web.Response(status=400, text=why_not)
        except provider.ProviderError as error:
            return _refusal(error)
        except sessions.TooManyError as error:
            return web.Response(status=429, text=str(error))

    def _has_ended(self, target: provider.Target) -> bool:
        try:
            pod = self._pods.all().get(target.pod.uid)
        except leadership.NotLeaderError:
            # Another copy knows; a stream that flows is left alone.
            return False
        return log_options.has_ended(pod, target.container)

    def _target(self, pod: models.Pod, container: str) -> provider.Target | None:
        instance = self._pods.instance_of(pod.uid)
        return provider.Target(pod, container, instance.id) if instance is not None else None


async def _send_log(
    request: web.Request, chunks: AsyncGenerator[bytes, None], *, limit_bytes: int | None
) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "text/plain"
    response.enable_chunked_encoding()
    left = limit_bytes
    try:
        async with contextlib.aclosing(chunks) as open_chunks:
            # Headers go out now: a client that follows a silent container must not wait for its first line.
            await response.prepare(request)
            async for chunk in open_chunks:
                part = chunk if left is None else chunk[:left]
                await response.write(part)
                if left is not None:
                    left -= len(part)
                    if left <= 0:
                        break
    except provider.ProviderError as error:
        log.warning("a log stream broke", error=str(error))
        # Without its last chunk, so that the client does not take a part for the whole.
        response.force_close()
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def _refusal(error: provider.ProviderError) -> web.Response:
    # The API server hands on the text of these two statuses only; of others it writes one of its own.
    status = 400 if isinstance(error, provider.RefusedError) else 500
    return web.Response(status=status, text=str(error))
