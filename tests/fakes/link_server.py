"""A kcilet that runs nothing: the link's server side (kci/link/types.py) over a unix socket, in memory.

A group that is ensured is reported Pending, then Running with its address; one that is removed is
reported Gone. A command, an attachment and a port answer their input on standard output and end with 0 when
the input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from kci.contract import ids
from kci.kit import channels, sockets, tasks
from kci.link import types as link


class LinkServer:
    """`calls` are the methods and paths in the order in which they came."""

    def __init__(self) -> None:
        self.wanted: dict[ids.GroupId, link.WantedGroup] = {}
        self.security_groups: link.SecurityGroups | None = None
        self.calls: list[str] = []
        self.logs: dict[tuple[str, str], bytes] = {}
        # None: they cannot be read.
        self.usages: link.Usages | None = link.Usages()
        self.queries: list[dict[str, list[str]]] = []
        # Phases that an ensured group goes through by itself.
        self.phases = [link.Phase.PENDING, link.Phase.RUNNING]
        # Commands, attachments and ports that are open now, and whether they take what they are sent.
        self.open_streams: tasks.Latest[int] = tasks.Latest(0)
        self.reads_streams = True
        # Why no log and no stream can be opened.
        self.refusal = ""
        # A removed group is reported Gone at once; otherwise only by `report`.
        self.ends_at_once = True
        self._reports: dict[ids.GroupId, link.GroupReport] = {}
        self._lines: set[asyncio.Queue[link.GroupReport | None]] = set()

    @contextlib.asynccontextmanager
    async def serve(self, socket: str) -> AsyncIterator[None]:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_put("/v1/groups", self._sync)
        application.router.add_put("/v1/groups/{id}", self._ensure)
        application.router.add_put("/v1/security-groups", self._secure)
        application.router.add_delete("/v1/groups/{id}", self._remove)
        application.router.add_get("/v1/reports", self._stream_reports)
        application.router.add_get("/v1/stats", self._stats)
        application.router.add_get("/v1/groups/{id}/containers/{name}/log", self._log)
        for path in ("containers/{name}/exec", "containers/{name}/attach", "ports/{port}"):
            application.router.add_get(f"/v1/groups/{{id}}/{path}", self._stream)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, socket).start()
            yield
        finally:
            for line in self._lines:
                line.put_nowait(None)
            await runner.cleanup()

    def report(
        self,
        group_id: ids.GroupId,
        phase: link.Phase,
        *,
        generation: int = 1,
        reason: str = "",
        start: tuple[link.StartStep, ...] = (),
    ) -> None:
        wanted = self.wanted.get(group_id)
        report = link.GroupReport(
            group_id=group_id,
            generation=generation,
            phase=phase,
            address=wanted.interface.address if wanted and phase is not link.Phase.GONE else "",
            reason=reason,
            start=start,
        )
        self._reports[group_id] = report
        for line in self._lines:
            line.put_nowait(report)

    async def _sync(self, request: web.Request) -> web.Response:
        self.calls.append("PUT /v1/groups")
        sync = msgspec.json.decode(await request.read(), type=link.Sync)
        self.security_groups = sync.security_groups
        keep = {group.group_id for group in sync.groups}
        for group_id in set(self.wanted) - keep:
            self._end(group_id)
        for group in sync.groups:
            self._start(group)
        return web.json_response({})

    async def _secure(self, request: web.Request) -> web.Response:
        self.calls.append("PUT /v1/security-groups")
        self.security_groups = msgspec.json.decode(await request.read(), type=link.SecurityGroups)
        return web.json_response({})

    async def _ensure(self, request: web.Request) -> web.Response:
        self.calls.append(f"PUT {request.path}")
        self._start(msgspec.json.decode(await request.read(), type=link.WantedGroup))
        return web.json_response({})

    async def _remove(self, request: web.Request) -> web.Response:
        self.calls.append(f"DELETE {request.path}")
        group_id = ids.GroupId(request.match_info["id"])
        self._end(group_id)
        return web.json_response({})

    def _start(self, group: link.WantedGroup) -> None:
        new = group.group_id not in self.wanted
        self.wanted[group.group_id] = group
        for phase in self.phases if new else ():
            self.report(group.group_id, phase, generation=group.generation)

    def _end(self, group_id: ids.GroupId) -> None:
        if not self.ends_at_once:
            return
        known = self.wanted.pop(group_id, None)
        if known is not None or group_id not in self._reports:
            self.report(group_id, link.Phase.GONE, generation=known.generation if known else 0)

    async def _stream_reports(self, request: web.Request) -> web.StreamResponse:
        self.calls.append("GET /v1/reports")
        response = web.StreamResponse()
        await response.prepare(request)
        line: asyncio.Queue[link.GroupReport | None] = asyncio.Queue()
        for known in self._reports.values():
            line.put_nowait(known)
        self._lines.add(line)
        try:
            # An empty line at once: the client must bear it.
            await response.write(b"\n")
            while True:
                report = await line.get()
                if report is None:
                    return response
                await response.write(msgspec.json.encode(report) + b"\n")
        except ConnectionError:
            return response
        finally:
            self._lines.discard(line)

    async def _stats(self, _request: web.Request) -> web.Response:
        self.calls.append("GET /v1/stats")
        if self.usages is None:
            return _error(503, "Unavailable", "cannot read what pods use")
        return web.Response(body=msgspec.json.encode(self.usages), content_type="application/json")

    async def _log(self, request: web.Request) -> web.StreamResponse:
        self.queries.append({key: request.query.getall(key) for key in request.query})
        if self.refusal:
            return _error(503, "Unavailable", self.refusal)
        content = self.logs.get((request.match_info["id"], request.match_info["name"]))
        if content is None:
            return _error(404, "NotFound", "cannot open the log: the container has none yet")
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(content), 1 << 16):
                await response.write(content[start : start + (1 << 16)])
        if request.query.get("follow") == "true":
            with contextlib.suppress(ConnectionError):
                for number in range(1_000_000):
                    await response.write(b"line %d\n" % number)
                    await asyncio.sleep(0.01)
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(f"GET {request.path}")
        self.queries.append({key: request.query.getall(key) for key in request.query})
        if self.refusal:
            return _error(503, "Unavailable", self.refusal)
        if request.match_info["id"] not in self.wanted:
            return _error(404, "NotFound", "cannot run a command: the group is not here")
        socket = web.WebSocketResponse(protocols=(channels.V5,))
        await socket.prepare(request)
        self.open_streams.set(self.open_streams.value + 1)
        try:
            await self._echo(socket)
        finally:
            self.open_streams.set(self.open_streams.value - 1)
        return socket

    async def _echo(self, socket: web.WebSocketResponse) -> None:
        # What a process does that never reads.
        if not self.reads_streams:
            connection = socket.get_extra_info("socket")
            await sockets.wait_hung_up(connection)
            return
        async for message in socket:
            channel, data = channels.parse(message.data)
            if channel is channels.Channel.STDIN:
                await socket.send_bytes(channels.frame(channels.Channel.STDOUT, data))
            elif channel is channels.Channel.CLOSE:
                await socket.send_bytes(channels.close_frame(channels.Channel.STDOUT))
                await socket.send_bytes(channels.frame(channels.Channel.STATUS, channels.exit_status(0)))
                break
        await socket.close()


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response(
        {"error": {"code": code, "message": message}}, status=status, headers=channels.refusal_header(message)
    )
