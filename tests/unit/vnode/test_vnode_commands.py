"""Exec and attach over SPDY, as older API servers come, over real TLS."""

import asyncio
import contextlib
import json

import pytest
from fakes import kubelet_api, kubelet_peers, spdy_peers

from kci.kit import channels, spdy
from kci.kube import models
from kci.vnode import provider
from kci.vnode.streaming import commands

EXEC = "/exec/default/web/c?command=sh&input=1&output=1&error=1"
ATTACH = "/attach/default/web/u/c?input=1&output=1&tty=1"
V4 = "v4.channel.k8s.io"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return kubelet_peers.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def api(authority):
    async with kubelet_api.running(authority) as found:
        yield found


@contextlib.asynccontextmanager
async def process(api, path=EXEC, kinds=("error", "stdin", "stdout", "stderr"), protocols=(V4,), **more):
    """The connection and its streams, in the order of client-go."""
    async with spdy_peers.upgraded(
        api.url, path, context=api.context("admin"), protocols=protocols, **more
    ) as peer:
        yield peer, {kind: await peer.open(streamType=kind) for kind in kinds}


async def eventually(is_so):
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  (a double tells nobody)
            await asyncio.sleep(0.01)


@pytest.mark.requirement("R27")
async def test_exec_over_spdy_carries_input_output_and_the_exit_code(api):
    async with process(api) as (peer, streams):
        assert "upgrade: spdy/3.1" in peer.head.lower()
        assert f"X-Stream-Protocol-Version: {V4}" in peer.head
        await streams["stdin"].send(b"hello")
        assert await streams["stdout"].read_exactly(5) == b"hello"
        await streams["stdin"].end()
        assert await streams["stdout"].read() == b"hello"
        assert await streams["stderr"].read() == b""
        status = json.loads(await streams["error"].read())
        assert status["details"]["causes"][0] == {"reason": "ExitCode", "message": "3"}
    assert api.streams.options == models.PodExecOptions(command=("sh",), stdin=True)
    assert api.streams.exec.seen == [b"\x00hello", channels.close_frame(channels.Channel.STDIN)]
    await asyncio.wait_for(api.streams.closed.wait(), 5)


@pytest.mark.parametrize(
    "protocols", [("v3.channel.k8s.io",), ("v2.channel.k8s.io",), ("channel.k8s.io",), ()]
)
async def test_older_protocols_get_the_failure_as_text(api, protocols):
    async with process(api, protocols=protocols) as (peer, streams):
        assert ("X-Stream-Protocol-Version" in peer.head) == bool(protocols)
        await streams["stdin"].end()
        assert (await streams["error"].read()).endswith(b"exit code 3")


async def test_the_first_protocol_that_both_speak_is_used(api):
    async with process(api, protocols=("v9.channel.k8s.io, v3.channel.k8s.io", V4)) as (peer, _):
        assert "X-Stream-Protocol-Version: v3.channel.k8s.io" in peer.head


async def test_attach_has_a_terminal_that_is_resized(api):
    async with process(api, ATTACH, ("error", "stdin", "stdout", "resize")) as (_, streams):
        await streams["resize"].send(b'{"Width":80,"Height":24}\n{"Wid')
        await streams["resize"].send(b'th":100,"Height":50}')
        await streams["stdin"].send(b"x")
        assert await streams["stdout"].read_exactly(1) == b"x"
    assert api.streams.options == models.PodAttachOptions(stdin=True, stdout=True, stderr=False, tty=True)
    assert api.streams.exec.seen == [
        channels.resize_frame(channels.Resize(80, 24)),
        channels.resize_frame(channels.Resize(100, 50)),
        b"\x00x",
    ]


@pytest.mark.requirement("R27")
async def test_much_input_comes_through_whole_and_in_order(api):
    content = bytes(range(256)) * (8 << 10)
    async with process(api) as (_, streams):
        await streams["stdin"].send(content)
        assert await streams["stdout"].read_exactly(len(content)) == content


@pytest.mark.requirement("R27")
@pytest.mark.parametrize("how", ["connection cut", "streams reset"])
async def test_the_process_learns_that_the_client_left(api, how):
    async with process(api) as (peer, streams):
        if how == "streams reset":
            for stream in streams.values():
                await stream.reset()
        peer.transport.close()
        async with asyncio.timeout(5):
            await api.streams.closed.wait()


@pytest.mark.requirement("R27", "R38")
async def test_a_client_that_leaves_while_the_process_reads_nothing_is_noticed(api):
    """Then its connection is not read either, and no reset would ever come from there."""
    async with process(api) as (peer, streams):
        api.streams.exec.is_stuck = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await streams["stdin"].send(bytes(8 << 20))
        assert api.streams.exec.seen == []
        peer.drop()
        async with asyncio.timeout(5):
            await api.streams.closed.wait()


async def test_the_client_learns_that_the_process_is_gone(api):
    async with process(api) as (_, streams):
        await streams["stdin"].send(b"x")
        _ = await streams["stdout"].read_exactly(1)
        api.streams.exec.break_off()
        assert "before the process did" in json.loads(await streams["error"].read())["message"]


async def test_a_stream_that_cannot_be_opened_says_why(api):
    api.streams.exec_error = provider.TryLaterError("Busy", "cannot run commands now")
    async with process(api) as (_, streams):
        assert json.loads(await streams["error"].read())["message"] == "cannot run commands now"


async def test_streams_nobody_asked_for_are_refused(api):
    async with process(api) as (peer, _):
        again, unknown = await peer.open(streamType="stdin"), await peer.open(streamType="data")
        assert again.reset_code == unknown.reset_code == spdy.ResetCode.PROTOCOL_ERROR


async def test_a_client_that_opens_no_streams_is_cut_off(authority):
    async with (
        kubelet_api.running(authority, creation_timeout_s=0.2) as api,
        process(api, kinds=("error",)) as (peer, _),
    ):
        await asyncio.wait_for(peer.closed.wait(), 5)
        assert api.streams.exec is None


@pytest.mark.requirement("R38")
@pytest.mark.parametrize("transport", ["SPDY", "WebSocket"])
async def test_a_stream_on_which_nothing_moves_is_closed_with_a_reason(authority, transport):
    async with kubelet_api.running(authority, idle_timeout_s=0.3) as api:
        if transport == "SPDY":
            async with process(api) as (peer, streams):
                # A ping is no use.
                await peer.write(peer.codec.pong(1))
                text = await streams["error"].read()
        else:
            async with api.admin() as session, session.ws_connect(EXEC, protocols=(channels.V5,)) as client:
                _ = await client.receive()
                text = (await asyncio.wait_for(client.receive(), 5)).data[1:]
        assert "nothing moved on it for 0 s" in json.loads(text)["message"]
        await asyncio.wait_for(api.streams.closed.wait(), 5)


@pytest.mark.requirement("R42")
@pytest.mark.parametrize("garbage", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", bytes(1 << 20)])
async def test_a_client_that_speaks_nonsense_is_cut_off_and_the_process_ended(api, garbage):
    async with process(api) as (peer, _):
        await eventually(lambda: api.streams.exec is not None)
        with contextlib.suppress(ConnectionError):
            await peer.write(garbage)
        await asyncio.wait_for(api.streams.closed.wait(), 5)
        await asyncio.wait_for(peer.closed.wait(), 10)


@pytest.mark.requirement("R38")
@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_of_pod": 2}, r"429: cannot open another stream: 2 are open on pod default/web"),
        ({"max_of_node": 2}, r"429: cannot open another stream: 2 are open on this node"),
    ],
)
async def test_there_are_only_so_many_streams_at_once(authority, limits, text):
    async with kubelet_api.running(authority, **limits) as api:
        async with process(api), process(api):
            with pytest.raises(spdy_peers.RefusedError, match=text):
                async with process(api):
                    pass
        # Closed ones do not count.
        await eventually(api.streams.closed.is_set)
        async with process(api):
            pass


@pytest.mark.requirement("R27")
async def test_a_hundred_commands_whose_clients_die_leave_nothing(api, runs):
    runs.count = 100
    async with contextlib.AsyncExitStack() as stack:
        peers = [(await stack.enter_async_context(process(api)))[0] for _ in range(runs.count)]
        await eventually(lambda: len(api.streams.execs) == runs.count)
        for peer in peers:
            peer.transport.abort()
        async with asyncio.timeout(30):
            for command in api.streams.execs:
                await command.closed.wait()


def test_terminal_sizes_come_in_any_pieces_and_nothing_else_does():
    resizes = commands.Resizes()
    text = b'{"Width":1,"Height":2}{"Width":3,"Height":4}\n {"Width":5,"Height":6}\n'
    seen = [size for start in range(len(text)) for size in resizes.feed(text[start : start + 1])]
    assert [(size.width, size.height) for size in seen] == [(1, 2), (3, 4), (5, 6)]
    for wrong in (b"[1]", b'{"Width":"x","Height":1}', b'{"Width":' + b" " * 2000):
        with pytest.raises(spdy.SpdyError):
            commands.Resizes().feed(wrong)
