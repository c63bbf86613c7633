"""Forwarded ports over SPDY, inside a WebSocket and over WebSocket channels, over real TLS."""

import asyncio
import contextlib
import struct
import tracemalloc

import aiohttp
import pytest
from fakes import kubelet_api, kubelet_peers, spdy_peers

from kci.kit import spdy, tasks
from kci.vnode import provider

PATH = "/portForward/default/web"
PROTOCOL = "portforward.k8s.io"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return kubelet_peers.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def api(authority):
    async with kubelet_api.running(authority) as found:
        yield found


@contextlib.asynccontextmanager
async def forwarding(api, how="SPDY", path=PATH):
    """A client's connection, upgraded or through a WebSocket."""
    if how == "SPDY":
        async with spdy_peers.upgraded(
            api.url, path, context=api.context("admin"), protocols=(PROTOCOL,)
        ) as peer:
            yield peer
    else:
        async with api.admin() as session, spdy_peers.tunnelled(session, path) as peer:
            yield peer


async def connect(peer, request, port=80):
    """One forwarded connection as client-go opens it: the error stream first, closed at once."""
    headers = {"port": str(port), "requestID": str(request)}
    error = await peer.open(streamType="error", **headers)
    await error.end()
    return error, await peer.open(streamType="data", **headers)


both = pytest.mark.parametrize("how", ["SPDY", "WebSocket"])


@pytest.mark.requirement("R27")
@both
@pytest.mark.parametrize("path", [PATH, PATH + "/u"])
async def test_what_goes_in_comes_back_and_the_half_close_goes_through(api, how, path):
    async with forwarding(api, how, path) as peer:
        error, data = await connect(peer, 0)
        await data.send(b"hello")
        assert await data.read_exactly(5) == b"hello"
        await data.end()
        assert await data.read() == b"hello"
        assert await error.read() == b""
    assert [port.number for port in api.streams.ports] == [80]
    assert api.streams.target == provider.PodTarget(api.pods.objects["u"], "i1")
    await asyncio.wait_for(api.streams.ports[0].closed.wait(), 5)


@pytest.mark.requirement("R27")
@both
async def test_many_connections_at_once_do_not_mix(api, how, runs):
    runs.count = 50

    async def one(peer, number):
        content = bytes((number,)) * (100_000 + number)
        _, data = await connect(peer, number, port=1000 + number)
        await data.send(content)
        await data.end()
        assert await data.read(30) == content

    async with forwarding(api, how) as peer:
        _ = await tasks.wait_all([one(peer, number) for number in range(runs.count)], name="connections")
    assert sorted(port.number for port in api.streams.ports) == [1000 + n for n in range(runs.count)]


@pytest.mark.parametrize("is_pod_first", [False, True])
async def test_one_connection_after_the_other_never_uses_the_streams_up(api, is_pod_first):
    async with forwarding(api) as peer:
        for number in range(spdy.MAX_STREAMS + 1):
            _, data = await connect(peer, number, port=6 if is_pod_first else 80)
            if not is_pod_first:
                await data.end()
            assert await data.read() == b""
            assert data.reset_code in {None, spdy.ResetCode.CANCEL}


async def test_more_at_once_than_may_be_are_refused_and_the_others_go_on(api):
    async with forwarding(api) as peer:
        pairs = [await connect(peer, number) for number in range(spdy.MAX_STREAMS // 2)]
        refused = await peer.open(streamType="error", port="80", requestID="more")
        assert refused.reset_code == spdy.ResetCode.REFUSED_STREAM
        await pairs[0][1].send(b"x")
        assert await pairs[0][1].read_exactly(1) == b"x"


@pytest.mark.requirement("R27")
@both
async def test_what_a_client_sent_before_its_half_close_reaches_a_pod_that_reads_slowly(api, how, runs):
    """As kubectl does it: it resets the stream as soon as the pod sends nothing more."""
    content = runs.random().randbytes(4 << 20)
    async with forwarding(api, how) as peer:
        error, data = await connect(peer, 0, port=5)
        await data.send(content)
        await data.end()
        # The local connection is not held up until the pod has read.
        assert await data.read() == await error.read() == b""
        await data.reset()
        # What was sent after that has been seen as well: the node is past the reset.
        _, other = await connect(peer, 1)
        await other.end()
        assert await other.read() == b""
        slow = api.streams.ports[0]
        assert not slow.closed.is_set()
        slow.takes.set()
        await asyncio.wait_for(slow.closed.wait(), 30)
        assert bytes(slow.arrived) == content


@pytest.mark.requirement("R38")
async def test_a_pod_that_never_takes_what_was_sent_is_left_when_nothing_moves_for_too_long(authority):
    async with kubelet_api.running(authority, idle_timeout_s=0.6) as api, forwarding(api) as peer:
        _, data = await connect(peer, 0, port=5)
        await data.send(b"x")
        await data.end()
        _, other = await connect(peer, 1)
        async with asyncio.timeout(10):
            while not (api.streams.ports and api.streams.ports[0].closed.is_set()):
                # Another connection of the same client keeps theirs, not this one.
                await other.send(b"x")
                await asyncio.sleep(0.05)
        assert not api.streams.ports[1].closed.is_set()


@both
async def test_why_there_is_no_connection_is_told_on_the_error_stream(api, how):
    async with forwarding(api, how) as peer:
        error, data = await connect(peer, 0, port=7)
        assert await error.read() == b"connection refused"
        assert await data.read() == b""
        api.streams.port_error = provider.RefusedError("NotSupported", "cannot forward a port: not offered")
        error, _ = await connect(peer, 1)
        assert await error.read() == b"cannot forward port 80: cannot forward a port: not offered"


async def test_a_connection_that_breaks_midway_is_no_reason_to_drop_the_others(api):
    """kubectl drops all of them at the first word on an error stream."""
    async with forwarding(api) as peer:
        error, data = await connect(peer, 0, port=8)
        await data.send(b"x")
        assert await data.read() == b"x"
        assert await error.read() == b""
        error, data = await connect(peer, 1, port=6)
        assert await data.read() == await error.read() == b""


@pytest.mark.requirement("R27")
async def test_the_pod_learns_that_the_client_reset_or_left(api):
    async with forwarding(api) as peer:
        _, reset = await connect(peer, 0)
        _, left = await connect(peer, 1)
        for data in (reset, left):
            await data.send(b"x")
            _ = await data.read_exactly(1)
        await reset.reset()
        await asyncio.wait_for(api.streams.ports[0].closed.wait(), 5)
        assert not api.streams.ports[1].closed.is_set()
        peer.transport.abort()
        await asyncio.wait_for(api.streams.ports[1].closed.wait(), 5)


@pytest.mark.requirement("R38")
async def test_what_waits_for_a_pod_that_reads_nothing_is_bounded_and_goes_with_the_client(api):
    tracemalloc.start()
    try:
        async with forwarding(api) as peer:
            # Port 9 takes nothing. The others still come through while there is room.
            _, stalled = await connect(peer, 0, port=9)
            await stalled.send(bytes(100_000))
            _, other = await connect(peer, 1)
            await other.send(b"x")
            assert await other.read_exactly(1) == b"x"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await stalled.send(bytes(64 << 20))
            _, most = tracemalloc.get_traced_memory()
            peer.drop()
            async with asyncio.timeout(5):
                await api.streams.ports[0].closed.wait()
    finally:
        tracemalloc.stop()
    # The client's own buffers and the 64 MiB that it has are in it.
    assert most < (64 + 16) << 20


@pytest.mark.requirement("R38")
async def test_a_client_that_reads_nothing_stops_the_pod(api):
    async with forwarding(api) as peer:
        _, data = await connect(peer, 0)
        await data.send(b"x")
        _ = await data.read_exactly(1)
        peer.is_reading.clear()
        # Its echo is what the client does not read; the double holds 64 messages and no more.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await data.send(bytes(64 << 20))
        heard = api.streams.ports[0].heard
        assert heard < 32 << 20
        peer.is_reading.set()
        async with asyncio.timeout(10):
            while api.streams.ports[0].heard == heard:  # noqa: ASYNC110  (a double tells nobody)
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "headers",
    [
        {"streamType": "data"},
        {"streamType": "data", "port": "0"},
        {"streamType": "data", "port": "65536"},
        {"streamType": "data", "port": "99999999999999999999"},
        {"streamType": "data", "port": "http"},
        {"streamType": "stdin", "port": "80"},
        {"port": "80"},
    ],
)
async def test_streams_that_make_no_sense_are_reset(api, headers):
    async with forwarding(api) as peer:
        assert (await peer.open(**headers)).reset_code == spdy.ResetCode.PROTOCOL_ERROR
        _, data = await connect(peer, 1)
        await data.send(b"x")
        assert await data.read_exactly(1) == b"x"


async def test_clients_without_request_ids_are_paired_by_their_streams(api):
    async with forwarding(api) as peer:
        for _ in range(2):
            _ = await peer.open(streamType="error", port="80")
            data = await peer.open(streamType="data", port="80")
            await data.send(b"x")
            assert await data.read_exactly(1) == b"x"


async def test_half_a_pair_is_told_and_dropped_in_time(authority):
    async with kubelet_api.running(authority, creation_timeout_s=0.2) as api, forwarding(api) as peer:
        error = await peer.open(streamType="error", port="80", requestID="1")
        assert b"of its two streams only error was opened" in await error.read()
        assert api.streams.ports == []


@pytest.mark.requirement("R38")
@both
async def test_a_forwarding_on_which_nothing_moves_is_closed(authority, how):
    async with kubelet_api.running(authority, idle_timeout_s=0.3) as api, forwarding(api, how) as peer:
        _, data = await connect(peer, 0)
        await asyncio.wait_for(peer.closed.wait(), 10)
        assert data.ended.is_set()
        await asyncio.wait_for(api.streams.ports[0].closed.wait(), 5)


@pytest.mark.requirement("R42")
@both
@pytest.mark.parametrize("garbage", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", bytes(1 << 19)])
async def test_a_client_that_speaks_nonsense_is_cut_off(api, how, garbage):
    async with forwarding(api, how) as peer:
        _ = await connect(peer, 0)
        async with asyncio.timeout(5):
            while not api.streams.ports:  # noqa: ASYNC110  (a double tells nobody)
                await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            await peer.write(garbage)
        await asyncio.wait_for(peer.closed.wait(), 10)
        await asyncio.wait_for(api.streams.ports[0].closed.wait(), 5)


# ---- WebSocket channels ----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def channelled(api, query, protocols=("v4.channel.k8s.io",)):
    async with api.admin() as session, session.ws_connect(PATH + query, protocols=protocols) as socket:
        yield socket


async def received(socket):
    message = await asyncio.wait_for(socket.receive(), 5)
    return message.data if message.type is aiohttp.WSMsgType.BINARY else None


@pytest.mark.requirement("R27")
@pytest.mark.parametrize("protocols", [("v4.channel.k8s.io",), ()])
@pytest.mark.parametrize("query", ["?port=80&port=8080", "?port=80,8080"])
async def test_channels_carry_a_pair_for_each_port_of_the_query(api, query, protocols):
    async with channelled(api, query, protocols) as socket:
        greeting = [await received(socket) for _ in range(4)]
        assert greeting == [
            bytes((channel,)) + struct.pack("<H", port)
            for channel, port in ((0, 80), (1, 80), (2, 8080), (3, 8080))
        ]
        await socket.send_bytes(b"\x00hello")
        assert await received(socket) == b"\x00hello"
        await socket.send_bytes(b"\x02world")
        assert await received(socket) == b"\x02world"
        # Nobody's channels.
        for message in (b"", b"\x01x", b"\x09x", b"\xff\x00"):
            await socket.send_bytes(message)
        await socket.send_bytes(b"\x00again")
        assert await received(socket) == b"\x00again"
    for port in api.streams.ports:
        await asyncio.wait_for(port.closed.wait(), 5)


async def test_channels_end_with_a_word_when_there_is_no_connection(api):
    async with channelled(api, "?port=7") as socket:
        _, _, failure, end = [await received(socket) for _ in range(4)]
        assert (failure, end) == (b"\x01connection refused", None)


@pytest.mark.parametrize(
    ("query", "headers", "status", "text"),
    [
        ("", {"Upgrade": "websocket"}, 400, "port"),
        ("?port=0", {"Upgrade": "websocket"}, 400, "cannot forward the ports"),
        ("?port=80,x", {"Upgrade": "websocket"}, 400, "cannot forward the ports"),
        ("?" + "&".join(["port=80"] * 65), {"Upgrade": "websocket"}, 400, "at most 64"),
        ("?port=80", {"Upgrade": "websocket", "Sec-WebSocket-Protocol": "v9.x"}, 403, PROTOCOL),
        ("", {}, 400, "Upgrade request required"),
        ("", {"Upgrade": "SPDY/3.1"}, 400, "Upgrade request required"),
        (
            "",
            {"Upgrade": "SPDY/3.1", "Connection": "Upgrade", "X-Stream-Protocol-Version": "v9"},
            403,
            PROTOCOL,
        ),
    ],
)
async def test_what_cannot_be_forwarded_is_said_in_words(api, query, headers, status, text):
    async with api.admin() as session, session.post(PATH + query, headers=headers) as response:
        assert response.status == status
        assert text in await response.text()


@pytest.mark.parametrize("path", ["/portForward/default/nobody", "/portForward/default/web/otheruid"])
async def test_a_pod_that_is_not_here_has_no_ports(api, path):
    with pytest.raises(spdy_peers.RefusedError, match="404: pod does not exist"):
        async with forwarding(api, path=path):
            pass
