"""The proxy over loopback: a server that counts, a client that sees what the wire gives."""

import asyncio
import contextlib
import io
import socket

import aiohttp
import proxy
import pytest
import scenarios
from aiohttp import web
from scenarios import Answer, Cut, Delay, Rule, Scenario, Stall, Truncate, When

from kci.kit import tasks

TIMEOUT = aiohttp.ClientTimeout(total=10)


class World:
    """A server behind a proxy, and a client before it."""

    def __init__(self, through, session, asked, arrived):
        self.proxy = through
        self._session = session
        # Paths that reached the server.
        self.asked = asked
        self.arrived = arrived

    def play(self, *rules, seed=1):
        self.proxy.play(Scenario("test", rules), seed=seed)

    async def get(self, path="/"):
        async with self._session.get(path) as answer:
            return answer.status, await answer.read()

    async def post(self, path="/", body=b"body", **options):
        """Nothing that a client repeats by itself."""
        async with self._session.post(path, data=io.BytesIO(body), **options) as answer:
            return answer.status, await answer.read()


@contextlib.asynccontextmanager
async def world(*, reads_http=True):
    asked, arrived = [], asyncio.Event()

    async def handle(request):
        body = await request.read()
        asked.append(request.path)
        arrived.set()
        if request.path == "/ws":
            socket_ = web.WebSocketResponse()
            await socket_.prepare(request)
            async for message in socket_:
                await socket_.send_bytes(message.data)
            return socket_
        if request.path == "/chunks":
            answer = web.StreamResponse()
            await answer.prepare(request)
            for _ in range(3):
                await answer.write(b"x" * 70_000)
            return answer
        return web.Response(body=body or b"0123456789")

    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    behind = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, behind).start()
    before = socket.create_server(("127.0.0.1", 0))
    door = proxy.Door("test", proxy.Tcp(*behind.getsockname()), reads_http=reads_http)
    through = proxy.Proxy(door, name_client=lambda _: "client")
    url = f"http://127.0.0.1:{before.getsockname()[1]}"
    try:
        async with (
            tasks.background("proxy", through.serve(before)),
            # Where a connection is one exchange, each request has one of its own.
            aiohttp.ClientSession(
                url, timeout=TIMEOUT, connector=aiohttp.TCPConnector(force_close=not reads_http)
            ) as session,
        ):
            yield World(through, session, asked, arrived)
    finally:
        before.close()
        await runner.cleanup()


@pytest.mark.parametrize("reads_http", [True, False])
async def test_without_harm_everything_passes_as_it_is(reads_http):
    async with world(reads_http=reads_http) as line:
        for _ in range(3):
            assert await line.get() == (200, b"0123456789")
        assert await line.get("/chunks") == (200, b"x" * 210_000)
        big = bytes(range(256)) * 20_000
        assert await line.post("/echo", big) == (200, big)
        async with line._session.ws_connect("/ws") as peer:
            await peer.send_bytes(b"over")
            assert await peer.receive_bytes() == b"over"
        assert line.proxy.log == []


async def test_requests_of_one_connection_are_judged_one_by_one():
    async with world() as line:
        line.play(Rule(Answer(503, b"no", retry_after="7"), skip=1, times=1))
        assert await line.get() == (200, b"0123456789")
        async with line._session.get("/") as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "7")
            assert await refused.read() == b"no"
        assert await line.get() == (200, b"0123456789")
        assert line.proxy.connections == 1
        assert len(line.asked) == 2
        (entry,) = line.proxy.log
        assert (entry.exchange.method, entry.exchange.path, entry.exchange.client) == ("GET", "/", "client")


async def test_calls_of_the_signed_api_are_told_apart_by_their_operation():
    async with world() as line:
        line.play(Rule(Answer(503), operation="Create"))
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        created = await line.post(body=b"Version=1&Action=CreateContainerGroup&Name=n", headers=form)
        listed = b"Action=DescribeContainerGroup&Name=Create"
        assert created[0] == 503
        assert await line.post(body=listed, headers=form) == (200, listed)
        assert [entry.exchange.operation for entry in line.proxy.log] == ["CreateContainerGroup"]


@pytest.mark.parametrize("reads_http", [True, False])
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(("when", "reached"), [(When.BEFORE, 0), (When.AFTER, 1)])
async def test_a_cut_comes_before_or_after_the_request_arrived(reads_http, reset, when, reached):
    async with world(reads_http=reads_http) as line:
        line.play(Rule(Cut(when, reset=reset)))
        with pytest.raises(aiohttp.ClientConnectionError):
            await line.post()
        assert len(line.asked) == reached


@pytest.mark.parametrize("reads_http", [True, False])
@pytest.mark.parametrize(("when", "reached"), [(When.BEFORE, 0), (When.AFTER, 1)])
async def test_a_stall_answers_nothing_until_it_is_healed(reads_http, when, reached):
    async with world(reads_http=reads_http) as line:
        line.play(Rule(Stall(when)))
        with pytest.raises(TimeoutError):
            await line.post(timeout=aiohttp.ClientTimeout(total=0.3))
        assert len(line.asked) == reached
        line.proxy.heal()
        assert await line.get() == (200, b"0123456789")


async def test_healing_ends_connections_that_stall():
    async with world() as line:
        line.play(Rule(Stall()))
        async with tasks.Tasks() as group:

            async def ask():
                with pytest.raises(aiohttp.ClientConnectionError):
                    await line.post()

            group.start("ask", ask())
            await asyncio.wait_for(line.arrived.wait(), 5)
            line.proxy.heal()


@pytest.mark.parametrize("reads_http", [True, False])
@pytest.mark.parametrize("path", ["/", "/chunks"])
async def test_an_answer_is_cut_at_its_nth_byte(reads_http, path):
    async with world(reads_http=reads_http) as line:
        whole = len((await line.get(path))[1])
        line.play(Rule(Truncate(at_byte=whole)))
        with pytest.raises((aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
            await line.get(path)


async def test_an_answer_can_take_the_place_of_one_that_was_made():
    async with world() as line:
        line.play(Rule(Answer(500, when=When.AFTER)))
        assert (await line.get())[0] == 500
        assert len(line.asked) == 1


async def test_a_huge_answer_is_as_long_as_it_says():
    async with world() as line:
        line.play(Rule(scenarios.HUGE))
        async with line._session.get("/") as answer:
            assert answer.content_length == 200 * 2**20 + 2
            assert len(await answer.content.readexactly(1 << 20)) == 1 << 20


async def test_a_delay_is_only_a_delay():
    async with world() as line:
        line.play(Rule(Delay(0.2)))
        begun = asyncio.get_running_loop().time()
        assert await line.get() == (200, b"0123456789")
        assert asyncio.get_running_loop().time() - begun >= 0.2


async def test_where_no_http_is_read_nothing_can_be_answered():
    async with world(reads_http=False) as line:
        with pytest.raises(ValueError, match="no HTTP is read"):
            line.play(Rule(Answer(500)))


async def test_those_it_is_not_for_pass_untouched():
    async with world() as line:
        line.proxy.door = proxy.dataclasses.replace(line.proxy.door, clients=frozenset({"another"}))
        line.play(Rule(Cut(When.BEFORE)))
        assert await line.get() == (200, b"0123456789")


async def test_it_stands_before_unix_sockets_too(tmp_path):
    async def echo(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(echo, tmp_path / "behind")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "before"))
    listener.listen()
    through = proxy.Proxy(proxy.Door("unix", proxy.Unix(tmp_path / "behind")))
    async with server, tasks.background("proxy", through.serve(listener)):
        for rules, answered in (((), b"ping"), ((Rule(Cut()),), b"")):
            through.play(Scenario("s", rules))
            reader, writer = await asyncio.open_unix_connection(tmp_path / "before")
            writer.write(b"ping")
            assert await reader.read() == answered
            writer.close()
            await writer.wait_closed()
    listener.close()
