"""Processes of this machine: small ones that the tests start themselves."""

import asyncio
import dataclasses
import pathlib
import signal
import subprocess
import sys

import msgspec
import pytest

from kci.kit import tasks
from kci.stack import board, commands, errors, layout, links, parts, processes, record, runner

SERVER = """
import socket, sys, time
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""


@pytest.fixture
def where(tmp_path):
    made = layout.Layout(tmp_path)
    made.logs.mkdir()
    return made


@pytest.fixture
def account(where):
    return board.Board(where, board.new_state("run", None, None))


def command(code, *arguments, port, ready_timeout_s=20.0):
    return commands.Command(
        argv=(sys.executable, "-c", code, *arguments),
        probe=commands.TcpProbe("127.0.0.1", port),
        version="1",
        ready_timeout_s=ready_timeout_s,
    )


async def until(look):
    async with asyncio.timeout(30):
        while not look():  # noqa: ASYNC110  (an outside process has no event of ours)
            await asyncio.sleep(0.01)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


async def test_a_process_that_is_not_our_child_is_ended_and_seen_to_end(sleeper):
    identity = processes.observe(sleeper.pid)
    assert processes.is_alive(identity)
    assert await processes.stop(identity, 10.0)
    assert sleeper.wait() == -15
    assert await processes.stop(identity, 10.0)


async def test_one_that_somebody_stopped_is_alive_and_paused(sleeper):
    identity = processes.observe(sleeper.pid)
    assert not processes.is_paused(identity)
    processes.send(identity, signal.SIGSTOP)
    await until(lambda: processes.is_paused(identity))
    assert processes.is_alive(identity)
    processes.send(identity, signal.SIGCONT)
    await until(lambda: not processes.is_paused(identity))


async def test_a_pid_that_means_another_process_now_is_not_touched(sleeper):
    identity = processes.observe(sleeper.pid)
    earlier = msgspec.structs.replace(identity, start_ticks=identity.start_ticks - 1)
    assert await processes.stop(earlier, 10.0)
    assert sleeper.poll() is None


async def test_one_that_ignores_the_request_is_killed(tmp_path):
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    log_file = tmp_path / "deaf.log"
    process = await processes.start(command(code, port=1), log_file)
    await until(log_file.read_text)
    assert await processes.stop(processes.observe(process.pid), 0.2)
    assert await process.wait() == -9


async def test_a_part_that_cannot_be_started_again_is_tried_until_it_can(where, account, tmp_path):
    """As on a machine that has no room for a process just now."""
    program, port = tmp_path / "program", links.free_ports(1)[0]
    program.symlink_to(sys.executable)
    served = dataclasses.replace(command(SERVER, port=port), argv=(str(program), "-c", SERVER, str(port)))
    one = runner.Runner(parts.Part.API_SERVER, served, where, account, asyncio.Event())

    def told():
        return account.state.part(parts.Part.API_SERVER)

    async with tasks.background("part", one.run()):
        await until(lambda: told().state is record.PartState.RUNNING)
        program.unlink()
        processes.send(told().process, signal.SIGKILL)
        await until(lambda: "No such file" in told().detail)
        program.symlink_to(sys.executable)
        await until(lambda: told().state is record.PartState.RUNNING)
    assert await processes.stop(told().process, 10.0)
    # Else its transport would outlive the loop.
    _ = await one._process.wait()


async def test_an_account_that_cannot_be_written_ends_nothing_and_is_written_once_it_can(where, account):
    where.state.mkdir()
    async with tasks.background("state file", account.run()):
        account.update(node_name="tells")
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="Is a directory"):
            account.write()
        where.state.rmdir()
        await until(where.state.is_file)
    assert record.read_state(where).node_name == "tells"


async def test_a_part_that_cannot_start_fails_with_the_last_lines_of_its_log(where, account):
    where.log("etcd").write_text("a line of an earlier run\n")
    code = "import sys; print('cannot read the plan'); sys.exit(7)"
    one = runner.Runner(
        parts.Part.ETCD, command(code, port=links.free_ports(1)[0]), where, account, asyncio.Event()
    )
    with pytest.raises(errors.PartFailedError, match="exit code 7") as caught:
        await one.run()
    assert set(caught.value.log_tail) == {"cannot read the plan"}


async def test_a_taken_port_is_named_before_anything_starts(where, account, sleeper):
    port = links.free_ports(1)[0]
    wanted = command(SERVER, str(port), port=port)
    taken = dataclasses.replace(wanted, listens=(("127.0.0.1", port, "--api-port"),))
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)
    async with server:
        one = runner.Runner(parts.Part.API_SERVER, taken, where, account, asyncio.Event())
        with pytest.raises(errors.PartFailedError, match=f"127.0.0.1:{port} is taken.*--api-port"):
            await one.run()


async def test_a_part_that_crashes_is_started_again(where, account):
    port = links.free_ports(1)[0]
    ready = asyncio.Event()
    one = runner.Runner(parts.Part.SERVICE, command(SERVER, str(port), port=port), where, account, ready)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run())
        await ready.wait()
        first = account.state.part(parts.Part.SERVICE).process
        assert await processes.stop(first, 10.0)

        def is_back():
            part = account.state.part(parts.Part.SERVICE)
            return part.state is record.PartState.RUNNING and part.process != first

        await until(is_back)
        assert account.state.part(parts.Part.SERVICE).restarts == 1
        running.cancel()
    # Cancelling leaves the process: the way down ends it in its order.
    second = account.state.part(parts.Part.SERVICE).process
    assert processes.is_alive(second)
    assert await processes.stop(second, 10.0)
    # Its exit status is asyncio's to take, before the loop is closed.
    await one._process.wait()


def test_a_log_that_grew_too_long_is_cut_and_its_older_part_kept(tmp_path):
    log_file = pathlib.Path(tmp_path / "x.log")
    log_file.write_bytes(b"y" * (processes.LOG_LIMIT_BYTES + 1))
    processes.rotate(log_file)
    assert log_file.stat().st_size == 0
    assert (tmp_path / "x.log.1").stat().st_size > processes.LOG_LIMIT_BYTES
