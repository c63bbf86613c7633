"""Logs and commands through the service, with the simulated kcilet behind it."""

import asyncio
import base64
import contextlib
import itertools
import pathlib
import resource

import aiohttp
import pytest
import service_world
from fakes import engine as engines

from kci.client import errors
from kci.contract import errors as contract_errors
from kci.contract import groups as api
from kci.kit import channels, clock, tasks
from kci.link import types as link
from kci.service.app import accounts, streams

STDIN = channels.Channel.STDIN
# What a machine may be late that does other things as well.
MARGIN_S = 2.0


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


@pytest.fixture
async def group_id(world):
    made = await world.alice.create_container_group(service_world.create_request())
    async with service_world.watching(world.alice) as watch:
        await service_world.until(watch, lambda change: change.group and change.group.status == "Running")
    return made


async def test_a_log_is_read_whole_and_as_a_stream(world, group_id):
    world.kcilet.logs[group_id, "web"] = b"one\ntwo \xff\n"
    assert (
        await world.alice.describe_container_log(group_id, "web", 7) == "one\ntwo \N{REPLACEMENT CHARACTER}\n"
    )
    assert world.kcilet.queries[-1]["tailLines"] == ["7"]

    options = api.StreamContainerLog(timestamps=True, since_seconds=9, limit_bytes=100)
    stream = world.alice.stream_container_log(group_id, "web", options)
    assert b"".join([chunk async for chunk in stream]) == b"one\ntwo \xff\n"
    assert world.kcilet.queries[-1] == {
        "follow": ["false"],
        "previous": ["false"],
        "timestamps": ["true"],
        "sinceSeconds": ["9"],
        "limitBytes": ["100"],
    }


async def test_a_log_can_be_followed_and_left(world, group_id):
    world.kcilet.logs[group_id, "web"] = b"begin\n"
    stream = world.alice.stream_container_log(group_id, "web", api.StreamContainerLog(follow=True))
    seen = b""
    async with asyncio.timeout(5), contextlib.aclosing(stream):
        async for chunk in stream:
            seen += chunk
            if b"line 3\n" in seen:
                break
    assert seen.startswith(b"begin\nline 0\n")


async def test_a_missing_log_is_an_error_before_the_first_byte(world, group_id):
    with pytest.raises(errors.NotFoundError) as caught:
        await anext(world.alice.stream_container_log(group_id, "web"))
    assert caught.value.code == "ContainerNotFound"
    with pytest.raises(errors.NotFoundError):
        await world.alice.describe_container_log(group_id, "web", 10)
    with pytest.raises(errors.InvalidError):
        await world.alice.describe_container_log(group_id, "../../../v1", 10)


async def test_a_command_gets_its_input_and_gives_its_output_and_status(world, group_id):
    uri = await world.alice.exec_container_command(group_id, "web", ["cat", ""], stdin=True)
    socket = await world.alice.open_exec(uri)
    assert socket.protocol == channels.V5
    assert world.kcilet.queries[-1] == {
        "command": ["cat", ""],
        "stdin": ["true"],
        "stdout": ["true"],
        "stderr": ["true"],
        "tty": ["false"],
    }
    # More than any buffer on the way: both directions must keep each other in step.
    sent = bytes(range(256)) * 128
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:

        async def write():
            for _ in range(100):
                await socket.send_bytes(channels.frame(STDIN, sent))
            await socket.send_bytes(channels.close_frame(STDIN))

        group.create_task(write())
        received = [channels.parse(message.data) async for message in socket]
    output = b"".join(data for channel, data in received if channel is channels.Channel.STDOUT)
    assert output == sent * 100
    assert received[-1][0] is channels.Channel.STATUS
    assert channels.parse_status(received[-1][1]) == (0, "")


async def test_two_equal_commands_in_one_second_are_two_commands(world, group_id):
    calls = [world.alice.exec_container_command(group_id, "web", ["cat"]) for _ in range(2)]
    assert len(set(await tasks.wait_all(calls, name="exec"))) == 2


async def test_an_old_client_is_spoken_to_in_v4(world, group_id):
    uri = await world.alice.exec_container_command(group_id, "web", ["cat"], stdin=True)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(uri, protocols=(channels.V4,)) as socket,
    ):
        assert socket.protocol == channels.V4
        await socket.send_bytes(channels.frame(STDIN, b"hi"))
        assert (await socket.receive(timeout=5)).data == channels.frame(channels.Channel.STDOUT, b"hi")
        # In v4 this closes nothing.
        await socket.send_bytes(channels.close_frame(STDIN))
        await socket.send_bytes(channels.frame(STDIN, b"again"))
        assert (await socket.receive(timeout=5)).data == channels.frame(channels.Channel.STDOUT, b"again")


OPENED = {
    "exec": lambda client, group_id: client.exec_container_command(group_id, "web", ["cat"], stdin=True),
    "attach": lambda client, group_id: client.attach_container(group_id, "web", stdin=True),
    "ports/8080": lambda client, group_id: client.forward_port(group_id, 8080),
}


@pytest.mark.parametrize("what", OPENED)
async def test_each_kind_of_stream_reaches_what_its_token_names(world, group_id, what):
    uri = await OPENED[what](world.alice, group_id)
    socket = await world.alice.open_exec(uri)
    assert world.kcilet.calls[-1].endswith(what)
    await socket.send_bytes(channels.frame(STDIN, b"hi"))
    assert (await socket.receive(timeout=5)).data == channels.frame(channels.Channel.STDOUT, b"hi")
    await socket.send_bytes(channels.close_frame(STDIN))
    answers = [message.data async for message in socket]
    assert answers[0] == channels.close_frame(channels.Channel.STDOUT)
    assert socket.close_code == aiohttp.WSCloseCode.OK


@pytest.mark.parametrize("what", OPENED)
async def test_streams_of_what_is_not_the_callers_are_refused_as_missing(world, group_id, what):
    for client, of in ((world.bob, group_id), (world.alice, "11111111-2222-4333-8444-555555555555")):
        with pytest.raises(errors.NotFoundError) as caught:
            await OPENED[what](client, of)
        assert caught.value.code == "ContainerGroupNotFound"


async def test_what_makes_no_sense_is_refused_by_its_name(world, group_id):
    for call, name in (
        (world.alice.forward_port(group_id, 0), "Port"),
        (world.alice.forward_port(group_id, 65536), "Port"),
        (world.alice.attach_container(group_id, "../x"), "ContainerName"),
        (world.alice.attach_container(group_id, "web", stdout=False, stderr=False), "Stdout"),
    ):
        with pytest.raises(errors.InvalidError, match=name):
            await call


@pytest.mark.parametrize("text", ["yesterday", "2026-01-31", "2026-13-01T00:00:00Z", "2026-01-31T08:00:00"])
async def test_a_log_since_what_is_no_time_is_refused_by_its_name(world, group_id, text):
    world.kcilet.logs[group_id, "web"] = b"one\n"
    with pytest.raises(errors.InvalidError, match="SinceTime"):
        await anext(
            world.alice.stream_container_log(group_id, "web", api.StreamContainerLog(since_time=text))
        )


async def test_why_the_machine_cannot_is_in_the_answer_and_in_the_log(world, group_id, capfd):
    world.kcilet.refusal = "cannot read the log of container 'web': Input/output error"
    calls = [
        anext(world.alice.stream_container_log(group_id, "web")),
        world.alice.describe_container_log(group_id, "web", 10),
    ]
    for call in calls:
        with pytest.raises(errors.TryLaterError, match="Input/output error"):
            await call
    uri = await world.alice.exec_container_command(group_id, "web", ["id"])
    with pytest.raises(errors.TryLaterError, match="Input/output error"):
        await world.alice.open_exec(uri)
    printed = "".join(capfd.readouterr())
    told = [line for line in printed.splitlines() if "warning" in line and "Input/output error" in line]
    assert len(told) == 3, printed


@pytest.mark.requirement("R48")
@pytest.mark.parametrize("what", OPENED)
async def test_a_token_opens_once_even_when_many_try_at_once(world, group_id, what, runs, capsys):
    for _ in range(runs.scale(quick=2, faults=20, release=200)):
        uri = await OPENED[what](world.alice, group_id)
        token = uri.partition("token=")[2]
        # 32 random bytes: more than 128 bits.
        assert len(base64.urlsafe_b64decode(token + "=")) == 32

        async def attempt(uri=uri):
            try:
                return await world.alice.open_exec(uri)
            except errors.RefusedError:
                return None

        async with asyncio.timeout(20):
            opened = [one for one in await tasks.wait_all([attempt() for _ in range(50)], name="open") if one]
        assert len(opened) == 1
        await opened[0].close()
        with pytest.raises(errors.RefusedError):
            await world.alice.open_exec(uri)
        shown = capsys.readouterr()
        assert token not in shown.out + shown.err


@pytest.mark.requirement("R48")
async def test_a_token_is_good_for_a_minute_and_few_may_wait(world, group_id):
    now_s = 1000.0
    limits = streams.Limits(of_group=2, of_tenant=3, in_all=4)
    service = streams.StreamService(
        world.service, None, replays=AnyCall(), limits=limits, monotonic=lambda: now_s
    )
    other = await world.alice.create_container_group(service_world.create_request(pod="web-1"))

    async def issue(number, group=group_id):
        now = clock.SystemClock().now()
        identity = accounts.Identity(service_world.ALICE.tenant_id, "AKALICE", f"{number:064x}", now)
        request = api.PortForwardContainerGroup(container_group_id=group, port=80)
        return await service.forward_port(identity, request)

    first, _, _ = await issue(1), await issue(2), await issue(3, other)
    for number, group in ((4, group_id), (5, other)):
        with pytest.raises(contract_errors.ApiError) as caught:
            await issue(number, group)
        assert caught.value.entry is contract_errors.TOO_MANY_REQUESTS
    now_s += 60
    with pytest.raises(contract_errors.ApiError) as caught:
        await service.redeem(first)
    assert caught.value.entry is contract_errors.ACCESS_DENIED
    # What has expired makes room again.
    fresh = await issue(6)
    assert (await service.redeem(fresh)).target == streams.Port(80)


async def test_open_streams_are_counted_for_each_group(world, group_id):
    engine = engines.MemoryEngine()
    limits = streams.Limits(of_group=2, of_tenant=3, in_all=9)
    service = streams.StreamService(world.service, engine, replays=AnyCall(), limits=limits)
    async with engine.observe(), contextlib.AsyncExitStack() as opened:
        await engine.sync([link_of(group_id), link_of("other")])

        async def open_one(of):
            ticket = streams.Ticket(service_world.ALICE.tenant_id, of, streams.Port(80), 0)
            return await opened.enter_async_context(service.open_stream(ticket))

        for of, fits in (
            (group_id, True),
            (group_id, True),
            (group_id, False),
            ("other", True),
            ("other", False),
        ):
            if fits:
                await open_one(of)
            else:
                with pytest.raises(contract_errors.ApiError):
                    await open_one(of)
        await opened.aclose()
        await open_one(group_id)


class AnyCall:
    """No call is known (app/replays.py)."""

    async def refuse(self, identity):
        pass


def link_of(group_id):
    interface = link.Interface(address="10.9.0.9", prefix_length=24, gateway="10.9.0.1", mac_address="")
    return link.WantedGroup(
        group_id=group_id,
        generation=1,
        cluster=link.Cluster(cluster_id="c", kubeconfig="k"),
        namespace="default",
        pod_name="web",
        interface=interface,
    )


@pytest.mark.requirement("R27")
@pytest.mark.parametrize("what", OPENED)
async def test_a_client_that_is_gone_ends_the_stream_even_while_nobody_reads(world, group_id, what):
    world.kcilet.reads_streams = False
    socket = await world.alice.open_exec(await OPENED[what](world.alice, group_id))

    async def send():
        while True:
            await socket.send_bytes(channels.frame(STDIN, bytes(1 << 16)))

    async with asyncio.timeout(10):
        await until_value(world.kcilet.open_streams, 1)
        # Everything on the way is full when nothing more is taken.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send(), 1.0)
    async with asyncio.timeout(1.0 + MARGIN_S):
        await socket.close()
        await until_value(world.kcilet.open_streams, 0)


@pytest.mark.requirement("R27")
async def test_streams_of_clients_that_are_gone_leave_nothing(tmp_path, runs):
    count = runs.scale(quick=100, faults=100, release=100)
    async with service_world.running(tmp_path) as world:
        created = await world.alice.create_container_group(service_world.create_request())
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, lambda change: change.group and change.group.status == "Running")
        before = await tasks.in_thread(descriptors)
        kinds = itertools.islice(itertools.cycle(OPENED), count)
        uris = [await OPENED[what](world.alice, created) for what in kinds]
        sockets_ = await tasks.wait_all(map(world.alice.open_exec, uris), name="open", limit=20)
        assert world.kcilet.open_streams.value == count
        async with asyncio.timeout(1.0 + MARGIN_S):
            for socket in sockets_:
                socket._response.connection.transport.abort()
            await until_value(world.kcilet.open_streams, 0)
        async with asyncio.timeout(30):
            while await tasks.in_thread(descriptors) > before + 20:  # noqa: ASYNC110  (the kernel tells nobody)
                await asyncio.sleep(0.05)


async def test_a_stream_that_stands_still_is_closed(tmp_path):
    async with service_world.running(tmp_path, stream_idle_s=0.3) as world:
        created = await world.alice.create_container_group(service_world.create_request())
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, lambda change: change.group and change.group.status == "Running")
        socket = await world.alice.open_exec(await OPENED["exec"](world.alice, created))
        for _ in range(4):
            await asyncio.sleep(0.15)
            await socket.send_bytes(channels.frame(STDIN, b"alive"))
            assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.BINARY
        assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        async with asyncio.timeout(5):
            await until_value(world.kcilet.open_streams, 0)


@pytest.mark.requirement("R38")
async def test_readers_that_stand_still_fill_no_memory_and_hold_up_nobody(tmp_path, runs):
    count = runs.scale(quick=200, faults=200, release=200)
    content = b"0123456789abcde\n" * (2 << 20)  # 32 MiB
    async with service_world.running(tmp_path) as world, contextlib.AsyncExitStack() as stack:
        group_ids = [
            await world.alice.create_container_group(service_world.create_request(pod=f"web-{number}"))
            for number in range(2)
        ]
        async with service_world.watching(world.alice) as watch:
            for group_id in group_ids:
                world.kcilet.logs[group_id, "web"] = content
                await service_world.until(
                    watch, lambda change: change.group and change.group.status == "Running"
                )
        before_mib = await tasks.in_thread(memory_mib)
        opened = []
        # Clients of their own: one keeps no more than some hundred connections.
        clients = [
            await stack.enter_async_context(service_world.client_of(world.endpoint, service_world.ALICE))
            for _ in range(4)
        ]
        for number in range(count):
            stream = clients[number % 4].stream_container_log(group_ids[number % 2], "web")
            opened.append(await stack.enter_async_context(contextlib.aclosing(stream)))
            await anext(stream)
        async with asyncio.timeout(1.0 + MARGIN_S):
            assert len(await world.alice.list_container_groups()) == 2
        # Each has a reader, a service and a kcilet in this process.
        assert await tasks.in_thread(memory_mib) - before_mib < 256
        async with asyncio.timeout(60):
            assert b"".join([chunk async for chunk in opened[-1]]) == content


def memory_mib():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def descriptors():
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))


async def until_value(latest, value):
    async for seen in latest.changes():
        if seen == value:
            return


async def test_a_token_dies_with_its_group(world, group_id):
    waiting = await world.alice.exec_container_command(group_id, "web", ["cat"], stdin=True)
    used = await world.alice.exec_container_command(group_id, "web", ["cat", "-"], stdin=True)
    socket = await world.alice.open_exec(used)
    await world.alice.delete_container_group(group_id)
    assert (await socket.receive(timeout=5)).type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}
    with pytest.raises(errors.NotFoundError):
        await world.alice.open_exec(waiting)


async def test_web_pages_and_plain_requests_get_no_stream(world, group_id):
    uri = await world.alice.exec_container_command(group_id, "web", ["cat"], stdin=True)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(uri, origin="http://evil.example")
        assert caught.value.status == 403
        async with session.get(uri.replace("ws://", "http://")) as answer:
            assert answer.status == 400
            assert uri.partition("token=")[2] not in await answer.text()
    await (await world.alice.open_exec(uri)).close()


async def test_a_watch_ends_with_the_service_and_does_not_hold_it_up(tmp_path):
    async with asyncio.timeout(10), contextlib.AsyncExitStack() as outside:
        async with service_world.running(tmp_path) as world:
            own = service_world.client_of(world.endpoint, service_world.ALICE)
            watch = (await outside.enter_async_context(own)).watch_container_groups()
            assert (await anext(watch)).synced
        with pytest.raises(errors.UnreachableError):
            await anext(watch)
