"""The link's HTTP server on the kcilet's unix socket; link/types.py says what it serves.

Only who may open the socket (mode 0600) may ask: there is no other authentication.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import multidict
import structlog
from aiohttp import web

import kci
from kci.contract import ids
from kci.kcilet import ports
from kci.kcilet.plan import records, stores
from kci.kcilet.workers import agent, machine, usage
from kci.kit import channels, crashpoints, sockets, tasks
from kci.kube import models
from kci.link import types as link

T = TypeVar("T", bound=msgspec.Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = structlog.get_logger(__name__)

ALIVE_EVERY_S = 15.0
MAX_BODY_BYTES = 64 << 20
# A command comes as query: of all that the public API takes, each byte written as three.
MAX_LINE_BYTES = 4 << 20
MAX_MESSAGE_BYTES = 1 << 20
STOP_S = 2.0
# RFC 6455: what is noted of a WebSocket that ended without a goodbye.
ABNORMAL_CLOSURE = 1006


class Server:
    def __init__(self, agent: agent.Agent, drivers: machine.Drivers, served: ports.Served) -> None:
        self._agent = agent
        self._drivers = drivers
        self._served = served
        self._usage = usage.UsageReader(agent, drivers.stats)

    @contextlib.asynccontextmanager
    async def listen(self, path: pathlib.Path) -> AsyncIterator[None]:
        """Serve until the block ends. A socket that an earlier run left is replaced."""
        runner = web.AppRunner(
            self.application(),
            access_log=None,
            max_line_size=MAX_LINE_BYTES,
            shutdown_timeout=STOP_S,
            handler_cancellation=True,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, _bind(path)).start()
            log.info("listening", socket=str(path))
            yield
        finally:
            await runner.cleanup()

    def application(self) -> web.Application:
        application = web.Application(middlewares=[_answer_errors], client_max_size=MAX_BODY_BYTES)
        container = "/v1/groups/{group_id}/containers/{name}"
        application.add_routes(
            [
                web.put("/v1/groups", self._sync),
                web.put("/v1/groups/{group_id}", self._want),
                web.put("/v1/security-groups", self._secure),
                web.delete("/v1/groups/{group_id}", self._drop),
                web.get("/v1/reports", self._reports),
                web.get("/v1/stats", self._stats),
                web.get(f"{container}/log", self._log),
                web.get(f"{container}/exec", self._exec),
                web.get(f"{container}/attach", self._attach),
                web.get("/v1/groups/{group_id}/ports/{port}", self._forward),
                web.get("/v1/version", self._version),
            ]
        )
        return application

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": kci.__version__})

    async def _sync(self, request: web.Request) -> web.Response:
        sync = await _read(request, link.Sync)
        known = await self._served.get_store()
        if refusal := stores.to_refusal(known, sync.store_id, place=self._served.place):
            log.error("service refused", error=refusal)
            raise _OtherStoreError(refusal)
        # Before anything is done for it.
        await self._note(sync.store_id)
        self._agent.sync(sync.groups, sync.security_groups)
        return web.Response(status=204)

    async def _want(self, request: web.Request) -> web.Response:
        group = await _read(request, link.WantedGroup)
        if group.group_id != request.match_info["group_id"]:
            raise _InvalidError(f"cannot take group {group.group_id} under the path of another")
        self._agent.want(group)
        return web.Response(status=204)

    async def _secure(self, request: web.Request) -> web.Response:
        self._agent.secure(await _read(request, link.SecurityGroups))
        return web.Response(status=204)

    async def _note(self, store_id: str) -> None:
        if not store_id:
            return
        crashpoints.reached("kcilet.note_store.before")
        try:
            await self._served.ensure_store(store_id)
        except ports.DriverError as error:
            # A safeguard that is missing must not keep pods from being run.
            log.warning("store not noted", error=str(error))
        crashpoints.reached("kcilet.note_store.after")

    async def _drop(self, request: web.Request) -> web.Response:
        self._agent.drop(_group_id(request))
        return web.Response(status=204)

    async def _reports(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        known = 0
        while True:
            known, reports = await self._agent.reports.after(known, timeout_s=ALIVE_EVERY_S)
            lines = [msgspec.json.encode(report) for report in reports] or [b""]
            await response.write(b"\n".join([*lines, b""]))

    async def _stats(self, _: web.Request) -> web.Response:
        found = await self._usage.usages()
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def _log(self, request: web.Request) -> web.StreamResponse:
        options = _options(request.query, link.LogOptions)
        place, name = self._agent.find(_group_id(request)), request.match_info["name"]
        container = _container(place.pod, name)
        attempt = records.logged_attempt(place.pod, container, place.seen, previous=options.previous)
        if attempt is None:
            which = "previous terminated container" if options.previous else "started container"
            raise agent.UnknownGroupError(f"cannot find a {which} {name!r} in pod {place.pod.key}")
        folder = self._drivers.logs.log_directory(place.pod)
        async with contextlib.aclosing(
            self._drivers.streams.log(folder, name, options, attempt=attempt)
        ) as parts:
            # What is not there is a 404: the first item, which is empty, says that it is.
            _ = await anext(parts)
            response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
            await response.prepare(request)
            # Who has left shows by itself only when there is something to write.
            await tasks.first_of(
                _write(parts, response), sockets.wait_hung_up(request.get_extra_info("socket")), name="log"
            )
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        options = _options(request.query, link.ExecOptions)
        if not options.command:
            raise _InvalidError("cannot run an empty command")
        _, running = self._find_running(request)
        return await _carry(request, lambda peer: self._drivers.streams.exec(running.id, options, peer))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        options = _options(request.query, link.AttachOptions)
        pod, running = self._find_running(request)
        # A container that was made with a terminal has one, whatever is asked now.
        has_terminal = options.tty or _container(pod, running.name).tty
        options = msgspec.structs.replace(options, tty=has_terminal)
        return await _carry(request, lambda peer: self._drivers.streams.attach(running.id, options, peer))

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["port"]
        if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
            raise _InvalidError(f"cannot connect to port {number[:16]!r}: it is no number from 1 to 65535")
        place = self._agent.find(_group_id(request))
        sandbox = records.current_sandbox(place.seen)
        if sandbox is None:
            raise agent.UnknownGroupError(f"cannot find a running sandbox of pod {place.pod.key}")
        return await _carry(
            request, lambda peer: self._drivers.streams.forward(sandbox.id, int(number), peer)
        )

    def _find_running(self, request: web.Request) -> tuple[models.Pod, ports.SeenContainer]:
        place, name = self._agent.find(_group_id(request)), request.match_info["name"]
        newest = records.newest_of(place.seen, name)
        if newest is None or newest.phase is not records.Phase.RUNNING:
            raise agent.UnknownGroupError(f"cannot find a running container {name!r} in pod {place.pod.key}")
        return place.pod, newest


def _container(pod: models.Pod, name: str) -> models.Container:
    found = next((one for one in pod.spec.all_containers if one.name == name), None)
    if found is None:
        raise agent.UnknownGroupError(f"cannot find container {name!r} in pod {pod.key}")
    return found


async def _write(parts: AsyncIterator[bytes], response: web.StreamResponse) -> None:
    async for part in parts:
        await response.write(part)


async def _carry(
    request: web.Request, work: Callable[[ports.StreamPeer], Coroutine[Any, Any, None]]
) -> web.StreamResponse:
    """A WebSocket for as long as the work goes on and its peer is there. A peer that is held up does not
    read, and would not learn of an end by itself.
    """
    socket = web.WebSocketResponse(
        protocols=(channels.V5,), max_msg_size=MAX_MESSAGE_BYTES, compress=False, timeout=STOP_S
    )
    await socket.prepare(request)
    try:
        await tasks.first_of(
            work(_Peer(socket)), sockets.wait_hung_up(request.get_extra_info("socket")), name="stream"
        )
    finally:
        _ = await socket.close()
        if socket.close_code == ABNORMAL_CLOSURE and request.transport is not None:
            # Closing in order would wait for a peer that takes nothing.
            request.transport.abort()
    return socket


class _Peer:
    """The other end of a stream: a ports.StreamPeer."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        await self._socket.send_bytes(message)

    async def receive(self) -> bytes | None:
        message = await self._socket.receive()
        return message.data if message.type is web.WSMsgType.BINARY else None


class _OtherStoreError(Exception):
    """Nothing is done for the store that asks."""


class _InvalidError(Exception):
    """The request makes no sense."""


def _bind(path: pathlib.Path) -> socket.socket:
    """Ours alone before anybody can connect: a socket answers only once it listens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    path.chmod(0o600)
    return bound


async def _read(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.DecodeError as error:
        # A body holds kubeconfigs: the error names the place, never the content.
        raise _InvalidError(f"cannot read the request: {error}") from error


def _options(query: multidict.MultiMapping[str], kind: type[T]) -> T:
    lists = {"command"}
    values = {key: query.getall(key) if key in lists else query[key] for key in query}
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _InvalidError(f"cannot read the options: {error}") from error


def _group_id(request: web.Request) -> ids.GroupId:
    return ids.GroupId(request.match_info["group_id"])


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except _InvalidError as error:
        return _error(400, "InvalidArgument", str(error))
    except _OtherStoreError as error:
        return _error(409, "OtherStore", str(error))
    except (agent.UnknownGroupError, ports.NotFoundError) as error:
        return _error(404, "NotFound", str(error))
    except ports.DriverError as error:
        log.warning("request failed", method=request.method, path=request.path, error=str(error))
        return _error(503, "Unavailable", str(error))


def _error(status: int, code: str, message: str) -> web.Response:
    body = {"error": {"code": code, "message": message}}
    return web.json_response(body, status=status, headers=channels.refusal_header(message))
