"""The link as both sides know it: the service's engine against the kcilet's own server, on a fake machine."""

import asyncio
import contextlib
import stat

import pytest
from fakes import machine_world

from kci.kcilet import server
from kci.kcilet.workers import agent, machine
from kci.kit import channels, tasks
from kci.link import types as link
from kci.service.engines import local, port


class Line:
    def __init__(self, engine, socket):
        self.engine = engine
        self.socket = socket
        self.runtime = machine_world.FakeRuntime()
        self.cluster = machine_world.FakeCluster()
        self.drivers = machine_world.drivers(self.runtime)
        self.cluster.put(machine_world.pod())


@pytest.fixture
async def line(tmp_path):
    """The engine, connected to a kcilet."""
    socket = tmp_path / "run" / "kcilet.sock"
    async with asyncio.timeout(20), local.LocalEngine(str(socket)) as engine:
        it = Line(engine, socket)
        with contextlib.suppress(_End):
            async with tasks.Tasks() as group:
                ours = machine.Machine(it.drivers, clock=machine_world.LoopClock())
                hired = agent.Agent(ours, it.cluster, group)
                group.run_forever("agent", hired.run())
                async with server.Server(hired, it.drivers).listen(socket):
                    yield it
                    raise _End
        it.runtime.close()


class _End(Exception):  # noqa: N818  (no error: leaves the group of tasks)
    pass


async def until(reports, phase):
    async for report in reports:
        if report.phase is phase:
            return report
    raise AssertionError("the reports ended")


async def test_a_group_runs_and_goes_and_each_change_is_reported(line):
    async with line.engine.observe() as reports:
        await line.engine.sync([])
        await line.engine.ensure(machine_world.group())
        report = await until(reports, link.Phase.RUNNING)
        assert (report.address, report.pod_uid, report.generation) == ("10.0.0.9", "uid-1", 1)
        await line.engine.remove("g-1")
        await until(reports, link.Phase.GONE)
        await line.engine.remove("g-1")
        await line.engine.remove("unknown")
        assert (await until(reports, link.Phase.GONE)).group_id == "unknown"
    async with line.engine.observe() as reports:
        assert {(await anext(reports)).group_id for _ in range(2)} == {"g-1", "unknown"}


async def test_an_older_generation_is_ignored(line):
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group(generation=5)])
        await until(reports, link.Phase.RUNNING)
        await line.engine.ensure(machine_world.group(generation=4))
        await line.engine.ensure(machine_world.group(generation=6))
        assert (await anext(reports)).generation == 6


async def test_logs_and_commands_reach_their_container(line):
    line.drivers.streams.logs["app"] = [b"one\n", b"two\n"]
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
        async with line.engine.open_log("g-1", "app", link.LogOptions(tail_lines=2, follow=True)) as parts:
            assert b"".join([part async for part in parts]) == b"one\ntwo\n"
        options = link.ExecOptions(command=("sh", "-c", "echo a b"), stdin=True)
        async with line.engine.open_exec("g-1", "app", options) as stream:
            await stream.send(channels.frame(channels.Channel.STDIN, b"hello"))
            assert channels.parse(await stream.receive()) == (channels.Channel.STDIN, b"hello")
        for container in ("other", "app"):
            with pytest.raises(port.NotFoundError):
                async with line.engine.open_log("none", container, link.LogOptions()):
                    pass
        with pytest.raises(port.NotFoundError):
            async with line.engine.open_exec("g-1", "other", options):
                pass
        with pytest.raises(port.InvalidError):
            async with line.engine.open_exec("g-1", "app", link.ExecOptions()):
                pass


async def test_the_socket_is_its_owners_alone(line):
    assert stat.S_IMODE(line.socket.stat().st_mode) == 0o600


async def test_a_request_that_makes_no_sense_is_refused_without_its_content(line):
    async with line.engine.observe():
        await line.engine.sync([])
        with pytest.raises(port.InvalidError) as caught:
            await line.engine._put("v1/groups/g-1", link.LogOptions(), 5.0)  # no group at all
        assert "kubeconfig" not in str(caught.value)
        with pytest.raises(port.InvalidError):
            await line.engine._put("v1/groups/other", machine_world.group(), 5.0)
