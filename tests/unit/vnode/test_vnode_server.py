"""The kubelet API over real TLS: who gets in, and that streams carry what they should."""

import asyncio
import contextlib
import json
import pathlib
import urllib.parse

import aiohttp
import pytest
from fakes import kubelet_api, kubelet_peers, vnode_process, vnode_world

from kci.kit import channels
from kci.kube import models
from kci.vnode import leadership, provider

LOGS = "/containerLogs/default/web/c"
EXEC = "/exec/default/web/c?command=sh&input=1&output=1&error=1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return kubelet_peers.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def api(authority):
    async with kubelet_api.running(authority) as found:
        yield found


WHO = {
    "nobody": {},
    "false token": {"token": "bad"},
    "basic": {"token": ""},
    "reader by token": {"token": "good"},
    "reader": {"user": "reader"},
    "stranger": {"user": "stranger", "group": "system:nodes"},
    "fine": {"user": "fine"},
    "watcher": {"user": "watcher"},
    "admin": {"user": "admin"},
    "admin by token": {"token": "admin"},
}


@pytest.mark.requirement("R50")
@pytest.mark.parametrize(
    ("who", "method", "path", "status"),
    [
        ("nobody", "GET", "/healthz", 401),
        ("nobody", "GET", "/nowhere", 401),
        ("nobody", "POST", EXEC, 401),
        ("false token", "GET", "/pods", 401),
        ("basic", "GET", "/pods", 401),
        ("reader", "GET", "/healthz", 200),
        ("reader", "GET", "/pods", 200),
        ("reader", "GET", LOGS, 200),
        ("reader by token", "GET", LOGS, 200),
        # To read is not to run, however the request is spelled.
        ("reader", "GET", EXEC, 403),
        ("reader", "GET", EXEC.replace("/exec", "/%65xec"), 403),
        ("reader", "GET", "/attach/default/web/c", 403),
        ("reader", "GET", "/portForward/default/web", 403),
        ("reader", "GET", "/run/default/web/c", 403),
        ("reader", "POST", LOGS, 403),
        ("reader", "DELETE", "/pods", 403),
        ("reader", "GET", "/metrics", 403),
        # What pods use are rights of their own, as with a kubelet.
        ("reader", "GET", "/stats/summary", 403),
        ("reader", "GET", "/metrics/resource", 403),
        ("watcher", "GET", "/stats/summary", 200),
        ("watcher", "GET", "/metrics/resource", 200),
        ("watcher", "POST", "/stats/summary", 403),
        ("watcher", "HEAD", "/stats/summary", 405),
        ("watcher", "GET", "/stats", 404),
        ("watcher", "GET", "/pods", 403),
        ("watcher", "GET", LOGS, 403),
        ("reader", "GET", "/nowhere", 404),
        ("stranger", "GET", "/pods", 403),
        ("stranger", "GET", "/nowhere", 403),
        ("fine", "GET", "/pods", 200),
        ("fine", "GET", LOGS, 403),
        ("admin", "GET", EXEC, 400),
        ("admin by token", "POST", EXEC, 400),
        ("admin", "POST", "/attach/default/web/c?output=1", 400),
        ("admin", "POST", "/portForward/default/web", 400),
        ("admin", "POST", "/run/default/web/c", 501),
    ],
)
async def test_only_whom_the_cluster_allows_gets_in(api, who, method, path, status):
    async with api.session(**WHO[who]) as session, session.request(method, path) as response:
        assert response.status == status
        if status == 401:
            assert await response.text() == "Unauthorized"


@pytest.mark.requirement("R26")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/pods"),
        ("GET", LOGS),
        ("POST", EXEC),
        ("GET", "/stats/summary"),
        ("GET", "/metrics/resource"),
    ],
)
async def test_a_copy_that_does_not_act_says_nothing_of_pods(api, method, path):
    def nobody_knows():
        raise leadership.NotLeaderError("cannot act for the node: this copy does not hold its Lease")

    api.reviewer.allowed |= {("admin", "get", "stats"), ("admin", "get", "metrics")}
    api.pods.all = nobody_knows
    async with api.admin() as session, session.request(method, path) as response:
        assert response.status == 503
        assert "does not hold its Lease" in await response.text()


@pytest.mark.parametrize(
    ("user", "path"), [("admin", "/pods"), ("admin", LOGS), ("watcher", "/stats/summary")]
)
async def test_a_copy_that_has_not_listed_its_pods_yet_says_nothing_of_them(api, user, path):
    cluster = vnode_world.Cluster()
    controller = vnode_process.make(cluster, vnode_world.Cloud(cluster, asyncio.get_running_loop().time))
    api.pods.all = controller.all_pods
    async with api.session(user=user) as session:
        async with session.get(path) as response:
            assert response.status == 503
            assert "not listed yet" in await response.text()
        cluster.bind("u")
        cluster.synced.set()
        async with session.get(path) as response:
            assert response.status == 200


async def test_a_certificate_of_another_authority_is_no_certificate(api, tmp_path):
    foreign = kubelet_peers.Authority(tmp_path, "front-proxy-ca").issue("admin")
    context = api.certificates.client_context(foreign)
    async with aiohttp.ClientSession(api.url, connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get("/healthz") as response:
                await response.text()


async def test_while_the_api_server_is_away_only_what_it_said_before_holds(api):
    async with api.admin() as session, api.session(token="good") as other:
        async with session.get("/pods") as response:
            assert response.status == 200
        api.reviewer.away = True
        async with session.get("/pods") as response:
            assert response.status == 200
        async with session.get(EXEC) as response:
            assert response.status == 500
        async with other.get("/pods") as response:
            assert response.status == 401


async def test_an_answer_is_asked_for_once_and_not_once_a_request(api):
    async with api.session(token="good") as session:
        for _ in range(5):
            async with session.get("/healthz") as response:
                assert response.status == 200
    assert api.reviewer.asked == ["token", ("reader", "get", "healthz"), ("reader", "get", "proxy")]


# ---- logs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {}),
        ("?follow=true&timestamps=true&previous=1", {"follow": True, "timestamps": True, "previous": True}),
        ("?follow=false&timestamps=0&previous", {"previous": True}),
        ("?tailLines=0", {"tail_lines": 0}),
        ("?tail=5", {"tail_lines": 5}),
        ("?tail=all&tailLines=3", {}),
        ("?sinceSeconds=10&limitBytes=9", {"since_seconds": 10, "limit_bytes": 9}),
        ("?sinceTime=2026-01-01T00:00:00Z", {"since_time": "2026-01-01T00:00:00Z"}),
        ("?stream=All", {}),
    ],
)
async def test_what_is_asked_of_a_log_reaches_the_provider(api, query, options):
    async with api.admin() as session, session.get(LOGS + query) as response:
        assert response.status == 200
        assert (await response.read()).startswith(b"one\n")
    assert api.streams.options == models.PodLogOptions(**options)
    assert api.streams.target.instance_id == "i1"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (f"{LOGS}?tailLines=-1", 422, '{"message": "Invalid request."}'),
        (f"{LOGS}?limitBytes=0", 422, '{"message": "Invalid request."}'),
        (f"{LOGS}?sinceSeconds=0", 422, '{"message": "Invalid request."}'),
        (f"{LOGS}?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422, '{"message": "Invalid request."}'),
        (f"{LOGS}?tailLines=x", 400, '{"message": "Unable to decode query."}'),
        (f"{LOGS}?sinceTime=yesterday", 400, '{"message": "Unable to decode query."}'),
        ("/containerLogs/default/other/c", 404, 'pod "other" does not exist'),
        ("/containerLogs/default/web/x", 404, 'container "x" not found in pod "web"'),
    ],
)
async def test_a_log_that_cannot_be_had_is_answered_in_the_kubelets_words(api, path, status, text):
    async with api.admin() as session, session.get(path) as response:
        assert (response.status, await response.text()) == (status, text)


async def test_a_container_that_waits_has_no_log_yet(api):
    waiting = models.ContainerState(waiting=models.ContainerStateWaiting(reason="ContainerCreating"))
    status = models.ContainerStatus(name="c", state=waiting)
    api.pods.objects["u"] = vnode_world.pod("u", container_statuses=(status,))
    api.streams.log_error = provider.NotFoundError("no such container")
    async with api.admin() as session, session.get(LOGS) as response:
        assert response.status == 400
        assert await response.text() == ('container "c" in pod "web" is waiting to start: ContainerCreating')


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (provider.RefusedError("NotSupported", "cannot show that"), 400),
        (provider.TryLaterError("Busy", "cannot show that"), 500),
        (provider.OutcomeUnknownError("cannot show that"), 500),
    ],
)
async def test_why_the_provider_has_no_log_reaches_kubectl(api, error, status):
    # Of all statuses the API server hands on the text of these two only.
    api.streams.log_error = error
    async with api.admin() as session, session.get(LOGS) as response:
        assert (response.status, await response.text()) == (status, "cannot show that")


async def test_a_followed_log_flows_at_once_and_ends_when_the_reader_leaves(api):
    api.streams.endless = True
    async with api.admin() as session:
        async with session.get(LOGS + "?follow=true") as response:
            assert await asyncio.wait_for(response.content.readline(), 5) == b"one\n"
            assert not api.streams.closed.is_set()
        await asyncio.wait_for(api.streams.closed.wait(), 5)


RUNS = models.ContainerState(running=models.ContainerStateRunning())
WAITS = models.ContainerState(waiting=models.ContainerStateWaiting(reason="CrashLoopBackOff"))
ENDED = models.ContainerState(terminated=models.ContainerStateTerminated(exit_code=0))


@pytest.mark.parametrize(
    ("pod", "ended"),
    [
        (None, True),
        (vnode_world.pod("u"), False),
        (vnode_world.pod("u", container_statuses=(models.ContainerStatus(name="c", state=WAITS),)), False),
        (vnode_world.pod("u", container_statuses=(models.ContainerStatus(name="c", state=ENDED),)), True),
        (
            vnode_world.pod(
                "u", container_statuses=(models.ContainerStatus(name="c", state=WAITS, last_state=ENDED),)
            ),
            True,
        ),
        (
            vnode_world.pod(
                "u", container_statuses=(models.ContainerStatus(name="c", state=RUNS, last_state=ENDED),)
            ),
            False,
        ),
    ],
)
async def test_who_follows_a_log_learns_when_its_container_has_ended(api, pod, ended):
    api.streams.endless = True
    async with api.admin() as session, session.get(f"{LOGS}?follow=true") as response:
        assert await response.content.readexactly(8) == b"one\ntwo\n"
        assert not api.streams.has_ended()
        api.pods.objects = {} if pod is None else {"u": pod}
        assert api.streams.has_ended() is ended


async def test_a_silent_log_is_open_before_its_first_line(api):
    api.streams.endless, api.streams.chunks = True, []
    async with api.admin() as session, asyncio.timeout(5), session.get(LOGS + "?follow=true") as response:
        assert response.status == 200


async def test_no_more_bytes_than_allowed_are_sent(api):
    async with api.admin() as session, session.get(LOGS + "?limitBytes=6") as response:
        assert await response.read() == b"one\ntw"


async def test_a_log_that_breaks_off_does_not_look_whole(api):
    async def broken():
        yield b"one\n"
        raise provider.OutcomeUnknownError("cannot go on")

    api.streams._log = broken
    async with api.admin() as session, session.get(LOGS) as response:
        with pytest.raises(aiohttp.ClientError):
            await response.read()


# ---- exec ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def execing(api, *protocols, path=EXEC):
    async with api.admin() as session, session.ws_connect(path, protocols=protocols) as socket:
        yield socket


async def received(socket):
    message = await asyncio.wait_for(socket.receive(), 5)
    return message.data if message.type is aiohttp.WSMsgType.BINARY else None


async def test_exec_over_v5_carries_every_message_both_ways(api):
    async with execing(api, channels.V4, channels.V5) as socket:
        assert socket.protocol == channels.V5
        assert await received(socket) == b"\x01"
        await socket.send_bytes(channels.frame(channels.Channel.STDIN, b"hello"))
        assert await received(socket) == channels.frame(channels.Channel.STDOUT, b"hello")
        await socket.send_bytes(channels.resize_frame(channels.Resize(80, 24)))
        await socket.send_bytes(channels.close_frame(channels.Channel.STDIN))
        assert await received(socket) == channels.close_frame(channels.Channel.STDOUT)
        status = await received(socket)
        assert channels.parse_status(status[1:])[0] == 3
        assert (await asyncio.wait_for(socket.receive(), 5)).type is aiohttp.WSMsgType.CLOSE
    assert api.streams.exec.seen == [
        b"\x00hello",
        channels.resize_frame(channels.Resize(80, 24)),
        channels.close_frame(channels.Channel.STDIN),
    ]
    assert api.streams.options.command == ("sh",)


@pytest.mark.parametrize(
    "command",
    [("sh", "-c", "%" * 65536), tuple(f"argument {number}" for number in range(500))],
    ids=["a long argument", "many arguments"],
)
async def test_commands_of_any_length_arrive_whole(api, command):
    query = urllib.parse.urlencode({"command": command, "output": 1}, doseq=True)
    async with execing(api, channels.V5, path=f"/exec/default/web/c?{query}") as socket:
        assert await received(socket) == b"\x01"
    assert api.streams.options.command == command


async def test_exec_over_v4_has_no_close_messages(api):
    async with execing(api, channels.V4) as socket:
        assert await received(socket) == b"\x01"
        # Means nothing in v4, so it must not end the command's input.
        await socket.send_bytes(b"\xff\x00")
        await socket.send_bytes(b"\x00x")
        assert await received(socket) == b"\x01x"
        await socket.send_bytes(b"\x00exit")
        status = await received(socket)
        assert json.loads(status[1:])["details"]["causes"][0] == {"reason": "ExitCode", "message": "3"}
    assert api.streams.exec.seen == [b"\x00x", b"\x00exit"]


async def test_messages_that_a_client_may_not_send_go_nowhere(api):
    async with execing(api, channels.V5) as socket:
        await socket.send_str("text")
        for message in (b"", b"\x01fake output", b"\x03{}", b"\x09x", b"\x00exit"):
            await socket.send_bytes(message)
        async with asyncio.timeout(5):
            async for _ in socket:
                pass
    assert api.streams.exec.seen == [b"\x00exit"]


async def test_the_command_learns_that_the_client_left(api):
    async with execing(api, channels.V5) as socket:
        await received(socket)
    await asyncio.wait_for(api.streams.closed.wait(), 5)


async def test_a_silent_client_is_watched_by_tcp(api):
    async with execing(api, channels.V5) as socket:
        await received(socket)
        port = socket.get_extra_info("peername")[1]
        async with asyncio.timeout(5):
            # Until all that was sent is acknowledged another timer runs.
            while not (timers := keepalive_timers_s(port)):  # noqa: ASYNC110  (the kernel tells nobody)
                await asyncio.sleep(0.01)
    assert len(timers) == 1
    assert 0 < timers[0] <= 30


def keepalive_timers_s(local_port):
    """When the kernel asks after the peers of this port's connections: proc_pid_net(5), timer kind 2."""
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        int(row[5].partition(":")[2], 16) / 100
        for row in rows
        if row[1].endswith(f":{local_port:04X}") and row[3] == "01" and row[5].startswith("02:")
    ]


async def test_a_broken_provider_stream_is_told_as_an_error(api):
    async with execing(api, channels.V5) as socket:
        await received(socket)
        api.streams.exec.break_off()
        code, message = channels.parse_status((await received(socket))[1:])
        assert (code, "before the process did" in message) == (None, True)


async def test_a_terminal_has_no_standard_error_of_its_own(api):
    async with execing(api, channels.V5, path=EXEC + "&tty=1") as socket:
        await received(socket)
    assert api.streams.options == models.PodExecOptions(
        command=("sh",), stdin=True, stdout=True, stderr=False, tty=True
    )


@pytest.mark.parametrize(
    ("path", "headers", "status", "text"),
    [
        (
            EXEC,
            {"Upgrade": "SPDY/3.1", "Connection": "Upgrade", "X-Stream-Protocol-Version": "v9.x"},
            403,
            "v4.channel.k8s.io",
        ),
        (EXEC, {}, 400, "Upgrade request required"),
        ("/exec/default/web/c?command=sh", {}, 400, "at least 1 of stdin"),
        ("/exec/default/nobody/c?command=sh&output=1", {}, 404, "pod does not exist"),
        ("/exec/default/web/otheruid/c?command=sh&output=1", {}, 404, "pod does not exist"),
        ("/exec/default/web/x?command=sh&output=1", {}, 404, "container not found"),
        (EXEC, {"Upgrade": "websocket", "Sec-WebSocket-Protocol": "v1.x"}, 403, "v5.channel.k8s.io"),
    ],
)
async def test_what_exec_cannot_do_is_said_in_words(api, path, headers, status, text):
    async with api.admin() as session, session.post(path, headers=headers) as response:
        assert response.status == status
        assert text in await response.text()


async def test_input_that_the_provider_does_not_take_any_more_does_not_hide_that_it_is_gone(api):
    async with execing(api, channels.V5) as socket:
        await received(socket)
        api.streams.exec.is_gone = True
        await socket.send_bytes(b"\x00typed into the void")
        await asyncio.wait_for(api.streams.exec.refused.wait(), 5)
        api.streams.exec.break_off()
        code, message = channels.parse_status((await received(socket))[1:])
        assert (code, "before the process did" in message) == (None, True)


async def test_why_a_provider_cannot_open_the_stream_is_told_inside_the_stream(api):
    # kubectl takes a refused upgrade for an old server, tries SPDY and shows what that answers.
    api.streams.exec_error = provider.TryLaterError("Busy", "cannot run commands now")
    async with execing(api, channels.V4) as socket:
        assert await received(socket) == b"\x01"
        code, message = channels.parse_status((await received(socket))[1:])
        assert (code, message) == (None, "cannot run commands now")
        assert (await asyncio.wait_for(socket.receive(), 5)).type is aiohttp.WSMsgType.CLOSE
