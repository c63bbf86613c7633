"""The bound on connections, on loopback, on the loop of the tests and on that of programs."""

import asyncio
import contextlib
import functools
import socket

import pytest
import uvloop

from kci.kit import entrance


class Greeting(asyncio.Protocol):
    """Says a word and stays until its peer leaves."""

    def __init__(self, greeted):
        self.left = asyncio.Event()
        greeted.append(self)

    def connection_made(self, transport):
        transport.write(b"hello")

    def connection_lost(self, _):
        self.left.set()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine function with what connects to a server with these bounds."""

    def start(bounds, body):
        async def inside():
            async with asyncio.timeout(20), listening(bounds) as connect:
                await body(connect)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(inside())

    return start


@contextlib.asynccontextmanager
async def listening(bounds):
    """Gives what connects from an address: the connection, and what it is told, nothing if it is cut off."""
    loop, greeted = asyncio.get_running_loop(), []
    with contextlib.ExitStack() as stack:
        inside = functools.partial(Greeting, greeted)
        server = await loop.create_server(entrance.Entrance(inside, bounds), "127.0.0.1", 0)
        stack.callback(server.close)
        place = server.sockets[0].getsockname()

        async def connect(address):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.bind((address, 0))
            await loop.sock_connect(client, place)
            with contextlib.suppress(ConnectionResetError):
                return client, await loop.sock_recv(client, 5)
            return client, b""

        yield connect
    for one in greeted:
        await one.left.wait()


def test_an_address_has_its_share_and_keeps_nobody_else_out(run, capfd):
    async def body(connect):
        for word in (b"hello", b"hello", b"", b""):
            assert (await connect("127.0.0.1"))[1] == word
        assert (await connect("127.0.0.2"))[1] == b"hello"

    run(entrance.Bounds(of_peer=2, in_all=9), body)
    # Whoever floods it does not flood the log.
    assert "".join(capfd.readouterr()).count("connections refused") == 1


def test_all_together_have_no_more_than_there_are(run):
    async def body(connect):
        addresses = ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"]
        words = [(await connect(address))[1] for address in addresses]
        assert words == [b"hello", b"hello", b"hello", b""]

    run(entrance.Bounds(of_peer=2, in_all=3), body)


def test_who_leaves_makes_room(run):
    async def body(connect):
        client, word = await connect("127.0.0.1")
        assert word == b"hello"
        client.close()
        # The server's side learns of it a moment later.
        while (await connect("127.0.0.1"))[1] != b"hello":
            pass

    run(entrance.Bounds(of_peer=1, in_all=1), body)


@pytest.mark.parametrize(
    ("files", "bounds"),
    [
        (1024, entrance.Bounds(of_peer=128, in_all=512)),
        (1 << 20, entrance.Bounds(of_peer=2048, in_all=8192)),
    ],
)
def test_half_of_the_files_are_left_for_others(files, bounds):
    assert entrance.Bounds.within(files) == bounds
