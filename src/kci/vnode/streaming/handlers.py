"""The kubelet API's paths that become streams: /exec, /attach and /portForward.

Who comes here may do so already (vnode/auth.py). A request is read and its pod found before the upgrade;
what goes wrong later is told inside the stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol

import structlog
from aiohttp import web

from kci.kit import sockets, spdy
from kci.kube import access, models
from kci.vnode import provider
from kci.vnode.streaming import commands, ports, sessions, upgrades

log = structlog.get_logger(__name__)

USER = web.RequestKey("user", access.User)
_Open = Callable[[], Awaitable[provider.ExecStream]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How long streams may take to come and may stand still (the kubelet's own figures), and how many may
    be open: each holds two connections and at most about a megabyte.
    """

    creation_timeout_s: float = 30.0
    idle_timeout_s: float = sockets.STREAM_IDLE_S
    max_of_node: int = 1000
    max_of_pod: int = 256


class Streams(provider.ExecProvider, provider.AttachProvider, provider.PortForwardProvider, Protocol):
    """What is behind the streams."""


class Pods(Protocol):
    """The pods of this node, and what runs them."""

    def all(self) -> Mapping[str, models.Pod]: ...

    def instance_of(self, uid: models.PodUid) -> provider.Instance | None: ...


class Handlers:
    """aiohttp's handlers; `add_to` says for which paths."""

    def __init__(
        self, settings: StreamSettings, *, streams: Streams, pods: Pods, open_sessions: sessions.Sessions
    ) -> None:
        self._settings = settings
        self._streams = streams
        self._pods = pods
        self._sessions = open_sessions

    def add_to(self, router: web.UrlDispatcher) -> None:
        for path in ("{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}"):
            for method in ("GET", "POST"):
                router.add_route(method, f"/exec/{path}", self._exec)
                router.add_route(method, f"/attach/{path}", self._attach)
        for path in ("{namespace}/{pod}", "{namespace}/{pod}/{uid}"):
            for method in ("GET", "POST"):
                router.add_route(method, f"/portForward/{path}", self._port_forward)

    # ---- exec and attach

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        wanted = _wanted(request)
        command = tuple(request.query.getall("command", []))
        options = models.PodExecOptions(
            command=command, stdin=wanted.stdin, stdout=wanted.stdout, stderr=wanted.stderr, tty=wanted.tty
        )
        return await self._process(
            request, "exec", options, lambda target: self._streams.open_exec(target, options)
        )

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        options = _wanted(request)
        return await self._process(
            request, "attach", options, lambda target: self._streams.open_attach(target, options)
        )

    async def _process(
        self,
        request: web.Request,
        kind: str,
        wanted: commands.Wanted,
        open_stream: Callable[[provider.Target], Awaitable[provider.ExecStream]],
    ) -> web.StreamResponse:
        if not (wanted.stdin or wanted.stdout or wanted.stderr):
            return web.Response(status=400, text="you must specify at least 1 of stdin, stdout, stderr")
        pod, container = find_pod(self._pods, request), request.match_info["container"]
        if pod is None:
            return web.Response(status=404, text="pod does not exist")
        instance = self._pods.instance_of(pod.uid)
        if instance is None or not has_container(pod, container):
            return web.Response(status=404, text=f'container not found ("{container}")')
        target = provider.Target(pod, container, instance.id)
        serve = self._over_websocket if upgrades.is_websocket(request) else self._over_spdy
        try:
            with self._session(request, kind, pod, container=container):
                sockets.keep_alive(request.get_extra_info("socket"))
                return await serve(request, wanted, lambda: open_stream(target))
        except sessions.TooManyError as error:
            return web.Response(status=429, text=str(error))

    async def _over_websocket(
        self, request: web.Request, wanted: commands.Wanted, open_stream: _Open
    ) -> web.StreamResponse:
        offered = upgrades.websocket_protocols(request)
        # In our order: a client that knows v5 can close its input.
        protocol = upgrades.choose(commands.WEBSOCKET_PROTOCOLS, offered)
        if protocol is None:
            return upgrades.nothing_in_common(offered, commands.WEBSOCKET_PROTOCOLS)
        socket = await upgrades.open_websocket(request, (protocol,))
        with _told(request):
            await self._carry(request, commands.WebSocketClient(socket), wanted, open_stream)
        return socket

    async def _over_spdy(
        self, request: web.Request, wanted: commands.Wanted, open_stream: _Open
    ) -> web.StreamResponse:
        if not upgrades.is_spdy(request):
            return upgrades.upgrade_required()
        offered = upgrades.spdy_protocols(request)
        protocol = upgrades.choose(offered, commands.SPDY_PROTOCOLS)
        if offered and protocol is None:
            return upgrades.nothing_in_common(offered, commands.SPDY_PROTOCOLS)
        async with upgrades.upgraded(request, protocol or "") as (response, pipe):
            with _told(request):
                client = await commands.SpdyClient.accept(
                    pipe,
                    protocol or commands.SPDY_PROTOCOLS[-1],
                    wanted,
                    timeout_s=self._settings.creation_timeout_s,
                )
                await self._carry(request, client, wanted, open_stream)
        return response

    async def _carry(
        self, request: web.Request, client: commands.Client, wanted: commands.Wanted, open_stream: _Open
    ) -> None:
        """From here on everything is told inside the stream."""
        stream: provider.ExecStream
        try:
            stream = await open_stream()
        except provider.ProviderError as error:
            log.warning("cannot open a stream", path=request.path, error=str(error))
            stream = commands.NotOpened(str(error))
        try:
            await commands.carry(
                client,
                stream,
                wanted,
                connection=request.get_extra_info("socket"),
                idle_s=self._settings.idle_timeout_s,
            )
        finally:
            await stream.close()
        await client.finish()

    # ---- port-forward

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        offered = upgrades.websocket_protocols(request)
        over_channels = upgrades.is_websocket(request) and ports.TUNNEL_PROTOCOL not in offered
        try:
            numbers = ports.parse_ports(request.query.getall("port", [])) if over_channels else []
        except ports.BadPortsError as error:
            return web.Response(status=400, text=str(error))
        pod = find_pod(self._pods, request)
        instance = self._pods.instance_of(pod.uid) if pod is not None else None
        if pod is None or instance is None:
            return web.Response(status=404, text="pod does not exist")
        target = provider.PodTarget(pod, instance.id)
        forwarding = ports.Forwarding(
            open_port=lambda port: self._streams.open_port(target, port),
            count=lambda port: self._session(request, "port", pod, port=port),
            connection=request.get_extra_info("socket"),
            creation_s=self._settings.creation_timeout_s,
            idle_s=self._settings.idle_timeout_s,
        )
        try:
            with self._session(request, "portForward", pod):
                sockets.keep_alive(request.get_extra_info("socket"))
                if over_channels:
                    return await self._ports_over_channels(request, offered, numbers, forwarding)
                if upgrades.is_websocket(request):
                    return await self._ports_through_websocket(request, forwarding)
                return await self._ports_over_spdy(request, forwarding)
        except sessions.TooManyError as error:
            return web.Response(status=429, text=str(error))

    async def _ports_over_spdy(
        self, request: web.Request, forwarding: ports.Forwarding
    ) -> web.StreamResponse:
        if not upgrades.is_spdy(request):
            return upgrades.upgrade_required()
        offered = upgrades.spdy_protocols(request)
        protocol = upgrades.choose(offered, (ports.PROTOCOL,))
        if offered and protocol is None:
            return upgrades.nothing_in_common(offered, (ports.PROTOCOL,))
        async with upgrades.upgraded(request, protocol or "") as (response, pipe):
            with _told(request):
                await ports.serve_spdy(pipe, forwarding)
        return response

    @staticmethod
    async def _ports_through_websocket(
        request: web.Request, forwarding: ports.Forwarding
    ) -> web.StreamResponse:
        socket = await upgrades.open_websocket(request, (ports.TUNNEL_PROTOCOL,))
        with _told(request):
            await ports.serve_spdy(upgrades.TunnelPipe(socket), forwarding)
        await socket.close()
        return socket

    @staticmethod
    async def _ports_over_channels(
        request: web.Request, offered: Sequence[str], numbers: Sequence[int], forwarding: ports.Forwarding
    ) -> web.StreamResponse:
        protocol = upgrades.choose(offered, ports.CHANNEL_PROTOCOLS)
        if offered and protocol is None:
            return upgrades.nothing_in_common(offered, (ports.TUNNEL_PROTOCOL, *ports.CHANNEL_PROTOCOLS))
        socket = await upgrades.open_websocket(request, (protocol,) if protocol else ())
        with _told(request):
            await ports.serve_channels(socket, numbers, forwarding)
        await socket.close()
        return socket

    def _session(
        self, request: web.Request, kind: str, pod: models.Pod, **more: object
    ) -> contextlib.AbstractContextManager[None]:
        return self._sessions.open(kind, pod, user=request[USER].name, remote=request.remote or "", **more)


def find_pod(pods: Pods, request: web.Request) -> models.Pod | None:
    """The pod that a path names; a path with a UID means that one and no later one of the same name."""
    namespace, name, uid = (request.match_info.get(key) for key in ("namespace", "pod", "uid"))
    for pod in pods.all().values():
        if pod.metadata.name == name and pod.metadata.namespace == namespace:
            return pod if uid in {None, pod.uid} else None
    return None


def has_container(pod: models.Pod, name: str) -> bool:
    kinds = (pod.spec.containers, pod.spec.init_containers)
    return any(container.name == name for kind in kinds for container in kind) or any(
        container.get("name") == name for container in pod.spec.ephemeral_containers
    )


def _wanted(request: web.Request) -> models.PodAttachOptions:
    """As the kubelet's remotecommand.NewOptions: a terminal has no standard error of its own."""
    query = request.query
    tty = query.get("tty") == "1"
    return models.PodAttachOptions(
        stdin=query.get("input") == "1",
        stdout=query.get("output") == "1",
        stderr=query.get("error") == "1" and not tty,
        tty=tty,
    )


@contextlib.contextmanager
def _told(request: web.Request) -> Iterator[None]:
    """A client that left or broke the protocol ends its stream: nobody is there to be told anything."""
    try:
        yield
    except ConnectionError:
        return
    except (commands.StreamsMissingError, spdy.SpdyError) as error:
        log.warning("a client's stream was cut", path=request.path, error=str(error))
