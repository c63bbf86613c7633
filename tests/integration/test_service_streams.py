"""Logs and commands through the service, with the simulated kcilet behind it."""

import asyncio
import contextlib

import aiohttp
import pytest
import service_world

from kci.client import errors
from kci.contract import groups as api
from kci.kit import channels, tasks

STDIN = channels.Channel.STDIN


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


async def test_a_token_opens_once_even_when_many_try_at_once(world, group_id):
    uri = await world.alice.exec_container_command(group_id, "web", ["cat"], stdin=True)

    async def attempt():
        try:
            return await world.alice.open_exec(uri)
        except errors.RefusedError:
            return None

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        attempts = [group.create_task(attempt()) for _ in range(20)]
    opened = [task.result() for task in attempts if task.result()]
    assert len(opened) == 1
    await opened[0].close()


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
