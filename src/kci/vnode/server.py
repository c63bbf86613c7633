"""The kubelet API of the virtual node: what kubectl needs of a node, over TLS, for whom the cluster allows.

Every request is authenticated and authorized before anything of it is read, paths that nobody serves
included (auth.py). Each stream leaves one audit line when it begins and one when it ends: a caller that
comes straight to this port is in nobody else's audit log.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Protocol, TypeAlias

import msgspec
import structlog
from aiohttp import web

from kci.kit import errors as kit_errors
from kci.kit import sockets, tasks
from kci.kube import access, models
from kci.vnode import auth, log_options, provider, relay

log = structlog.get_logger(__name__)

MAX_STREAMS = 1000
STOP_TIMEOUT_S = 2.0
_USER = web.RequestKey("user", access.User)
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where to listen, and whom to believe. All three files are needed: there is no mode without."""

    address: str
    port: int
    client_ca_file: pathlib.Path
    certificate_file: pathlib.Path
    private_key_file: pathlib.Path


class Streams(provider.LogProvider, provider.ExecProvider, Protocol):
    """What this API relays to."""


class Pods(Protocol):
    """The pods of this node, and what runs them."""

    def all(self) -> Mapping[str, models.Pod]: ...

    def instance_of(self, uid: models.PodUid) -> provider.Instance | None: ...


class Server:
    """`async with server.running() as port:` serves."""

    def __init__(self, settings: ServerSettings, *, gate: auth.Gate, streams: Streams, pods: Pods) -> None:
        self._settings = settings
        self._gate = gate
        self._streams = streams
        self._pods = pods
        self._open_streams = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Serve inside the block, on the port that is yielded; UserError if that cannot be."""
        settings = self._settings
        context = await tasks.in_thread(tls_context, settings)
        # A client that goes away ends its handler, and with it what the handler holds open.
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=STOP_TIMEOUT_S,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.address, settings.port, ssl_context=context)
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
        router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for path in ("{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}"):
            router.add_route("GET", f"/exec/{path}", self._exec)
            router.add_route("POST", f"/exec/{path}", self._exec)
        for verb in ("attach", "portForward", "run"):
            router.add_route("*", f"/{verb}/{{rest:.*}}", self._not_yet)
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
        request[_USER] = user
        return await handler(request)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _list_pods(self, _request: web.Request) -> web.Response:
        found = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [*self._pods.all().values()]}
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def _not_yet(self, request: web.Request) -> web.Response:
        what = request.path.split("/")[1]
        text = f"cannot serve {what}: this virtual node has exec and logs, and no {what} yet"
        return web.Response(status=501, text=text)

    # ---- logs ----------------------------------------------------------------------------------

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        try:
            options = log_options.parse(request.query)
        except log_options.BadQueryError as error:
            return web.Response(status=error.status, text=str(error))
        name = request.match_info["pod"]
        pod = self._find_pod(request)
        if pod is None:
            return web.Response(status=404, text=f'pod "{name}" does not exist')
        container = request.match_info["container"]
        if not _has_container(pod, container):
            return web.Response(status=404, text=f'container "{container}" not found in pod "{name}"')
        why_not = log_options.why_no_log(pod, container, previous=options.previous)
        target = self._target(pod, container)
        if target is None:
            return web.Response(status=400, text=why_not)
        with self._stream(request, "logs", target):
            try:
                chunks = await self._streams.open_log(target, options)
            except provider.NotFoundError:
                return web.Response(status=400, text=why_not)
            except provider.ProviderError as error:
                return _refusal(error)
            return await _send_log(request, chunks, limit_bytes=options.limit_bytes)

    # ---- exec ----------------------------------------------------------------------------------

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        options = _exec_options(request)
        if not (options.stdin or options.stdout or options.stderr):
            return web.Response(status=400, text="you must specify at least 1 of stdin, stdout, stderr")
        pod = self._find_pod(request)
        if pod is None or request.match_info.get("uid", pod.metadata.uid) != pod.metadata.uid:
            return web.Response(status=404, text="pod does not exist")
        container = request.match_info["container"]
        target = self._target(pod, container) if _has_container(pod, container) else None
        if target is None:
            return web.Response(status=404, text=f'container not found ("{container}")')
        refused = _refused_upgrade(request)
        if refused is not None:
            return refused
        with self._stream(request, "exec", target, command=options.command[:1]):
            stream: provider.ExecStream
            try:
                stream = await self._streams.open_exec(target, options)
            except provider.ProviderError as error:
                log.warning("cannot open an exec", pod=pod.key, container=container, error=str(error))
                # kubectl takes a refused upgrade for an old server, tries SPDY and shows what that answers:
                # only inside the stream is the reason seen.
                stream = relay.NotOpened(str(error))
            try:
                return await _serve_exec(request, stream, options)
            finally:
                await stream.close()

    # ---- both ----------------------------------------------------------------------------------

    def _find_pod(self, request: web.Request) -> models.Pod | None:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        return next(
            (
                pod
                for pod in self._pods.all().values()
                if pod.metadata.name == name and pod.metadata.namespace == namespace
            ),
            None,
        )

    def _target(self, pod: models.Pod, container: str) -> provider.Target | None:
        instance = self._pods.instance_of(pod.uid)
        return provider.Target(pod, container, instance.id) if instance is not None else None

    @contextlib.contextmanager
    def _stream(
        self, request: web.Request, kind: str, target: provider.Target, **more: object
    ) -> Iterator[None]:
        if self._open_streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"cannot open more than {MAX_STREAMS} streams at once")
        audit = log.bind(
            user=request[_USER].name,
            remote=request.remote,
            stream=kind,
            pod=target.pod.key,
            pod_uid=target.pod.uid,
            container=target.container,
            **more,
        )
        began_s = asyncio.get_running_loop().time()
        self._open_streams += 1
        sockets.keep_alive(request.get_extra_info("socket"))
        audit.info("stream opened")
        try:
            yield
        finally:
            self._open_streams -= 1
            audit.info("stream closed", seconds=round(asyncio.get_running_loop().time() - began_s, 3))


def tls_context(settings: ServerSettings) -> ssl.SSLContext:
    """Blocking. A client may come without a certificate (it has a token then), but not with a false one."""
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(settings.client_ca_file))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(settings.certificate_file, settings.private_key_file)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(
            str(file)
            for file in (settings.client_ca_file, settings.certificate_file, settings.private_key_file)
        )
        raise kit_errors.UserError(
            f"cannot serve the kubelet API with these certificates ({files}): {error}"
        ) from error
    return context


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


def _exec_options(request: web.Request) -> models.PodExecOptions:
    """As the kubelet's remotecommand.NewOptions: a terminal has no standard error of its own."""
    query = request.query
    tty = query.get("tty") == "1"
    return models.PodExecOptions(
        command=tuple(query.getall("command", [])),
        stdin=query.get("input") == "1",
        stdout=query.get("output") == "1",
        stderr=query.get("error") == "1" and not tty,
        tty=tty,
    )


def _refused_upgrade(request: web.Request) -> web.Response | None:
    upgrade = request.headers.get("Upgrade", "").lower()
    if upgrade.startswith("spdy/"):
        return web.Response(
            status=501,
            text="cannot serve exec over SPDY yet: use kubectl and an API server that speak WebSocket "
            "(v5.channel.k8s.io) all the way to the node, Kubernetes 1.36 or later",
        )
    if upgrade != "websocket":
        return web.Response(status=400, text="Upgrade request required")
    if relay.choose_protocol(_offered(request)) is None:
        text = f"cannot speak any of {_offered(request)}; this node speaks {list(relay.PROTOCOLS)}"
        return web.Response(status=403, text=text)
    return None


def _offered(request: web.Request) -> list[str]:
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
    return [protocol.strip() for protocol in header.split(",") if protocol.strip()]


async def _serve_exec(
    request: web.Request, stream: provider.ExecStream, options: models.PodExecOptions
) -> web.WebSocketResponse:
    protocol = relay.choose_protocol(_offered(request))
    client = web.WebSocketResponse(
        protocols=(protocol,) if protocol else (),
        compress=False,
        timeout=relay.CLOSE_TIMEOUT_S,
        max_msg_size=relay.MAX_MESSAGE_BYTES,
    )
    await client.prepare(request)
    with contextlib.suppress(ConnectionError):
        # The client left: nobody is there to be told anything.
        await relay.carry(client, stream, options)
    await client.close()
    return client


def _refusal(error: provider.ProviderError) -> web.Response:
    # The API server hands on the text of these two statuses only; of others it writes one of its own.
    status = 400 if isinstance(error, provider.RefusedError) else 500
    return web.Response(status=status, text=str(error))


def _has_container(pod: models.Pod, name: str) -> bool:
    kinds = (pod.spec.containers, pod.spec.init_containers)
    return any(container.name == name for kind in kinds for container in kind) or any(
        container.get("name") == name for container in pod.spec.ephemeral_containers
    )
