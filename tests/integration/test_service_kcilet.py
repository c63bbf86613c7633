"""The service and the real kcilet over the link, on a simulated machine: both sides read it the same way."""

import asyncio
import contextlib
import pathlib

import pytest
import service_process
import service_world
from fakes import machine_world

from kci.client import errors
from kci.contract import groups as api
from kci.kcilet import ports, server
from kci.kcilet.drivers.served import file as served
from kci.kcilet.workers import agent, machine
from kci.kit import channels, tasks


class Kcilet:
    """The kcilet's own server and workers; what it runs outlives `serve`."""

    def __init__(self):
        self.runtime = machine_world.FakeRuntime()
        self.cluster = machine_world.FakeCluster()
        self.drivers = machine_world.drivers(self.runtime)
        self.served = machine_world.FakeServed()

    @contextlib.asynccontextmanager
    async def serve(self, socket):
        ours = machine.Machine(self.drivers, clock=machine_world.LoopClock())
        try:
            async with contextlib.AsyncExitStack() as stack:
                group = await stack.enter_async_context(tasks.Tasks())
                hired = agent.Agent(ours, self.cluster, group)
                running = [group.spawn("agent", hired.run())]
                await stack.enter_async_context(
                    server.Server(hired, self.drivers, self.served).listen(pathlib.Path(socket))
                )
                yield
                running[0].cancel()
                raise _Ended
        except _Ended:
            self.cluster.followers.clear()


class _Ended(Exception):  # noqa: N818
    """Cancels the kcilet's tasks."""


@pytest.fixture
def kcilet():
    made = Kcilet()
    yield made
    made.runtime.close()


def _has(group_id, status):
    return lambda change: change.group_id == group_id and change.group and change.group.status == status


def _lost(group_id):
    return lambda change: change.group_id == group_id and change.absent


async def test_a_group_runs_logs_takes_commands_and_goes(tmp_path, kcilet):
    kcilet.cluster.put(machine_world.pod())
    kcilet.drivers.streams.logs["app"] = [b"hello\n"]
    async with (
        service_world.running(tmp_path, kcilet=kcilet) as world,
        service_world.watching(world.alice) as watch,
    ):
        group_id = await world.alice.create_container_group(
            service_world.create_request(pod="web", pod_uid="uid-1")
        )
        await service_world.until(watch, _has(group_id, "Running"))

        options = api.StreamContainerLog(tail_lines=5, since_time="2026-01-01T00:00:00Z", timestamps=True)
        log = world.alice.stream_container_log(group_id, "app", options)
        assert b"".join([part async for part in log]) == b"hello\n"
        assert await world.alice.describe_container_log(group_id, "app", 10) == "hello\n"
        with pytest.raises(errors.NotFoundError):
            await world.alice.describe_container_log(group_id, "other", 10)

        uri = await world.alice.exec_container_command(group_id, "app", ["cat"], stdin=True)
        socket = await world.alice.open_exec(uri)
        sent = channels.frame(channels.Channel.STDIN, b"hi")
        await socket.send_bytes(sent)
        assert (await socket.receive()).data == sent
        await socket.close()

        await world.alice.delete_container_group(group_id)
        await service_world.until(watch, _lost(group_id))
    assert not kcilet.runtime.containers


async def test_a_group_that_was_deleted_while_the_kcilet_was_away_is_ended_by_the_next_one(tmp_path, kcilet):
    kcilet.cluster.put(machine_world.pod())
    async with (
        service_world.running(tmp_path, kcilet=kcilet) as world,
        service_world.watching(world.alice) as watch,
    ):
        group_id = await world.alice.create_container_group(
            service_world.create_request(pod="web", pod_uid="uid-1")
        )
        await service_world.until(watch, _has(group_id, "Running"))

    class Nobody:
        def serve(self, _socket):
            return contextlib.nullcontext()

    async with service_world.running(tmp_path, kcilet=Nobody()) as world:
        await world.alice.delete_container_group(group_id)
        (group,) = await world.alice.list_container_groups()
        assert group.container_group_id == group_id
    assert kcilet.runtime.containers

    async with (
        service_world.running(tmp_path, kcilet=kcilet) as world,
        service_world.watching(world.alice) as watch,
    ):
        await service_world.until(watch, _lost(group_id))
    assert not kcilet.runtime.containers


async def test_a_pod_that_is_deleted_in_the_cluster_leaves_its_group_to_the_caller(tmp_path, kcilet):
    kcilet.cluster.put(machine_world.pod())
    async with (
        service_world.running(tmp_path, kcilet=kcilet) as world,
        service_world.watching(world.alice) as watch,
    ):
        group_id = await world.alice.create_container_group(
            service_world.create_request(pod="web", pod_uid="uid-1")
        )
        await service_world.until(watch, _has(group_id, "Running"))
        kcilet.cluster.delete("uid-1", 1)
        # Containers end by the cluster's wish; the group is the caller's to delete.
        await service_world.until(watch, lambda change: change.group and change.group.status != "Running")
        assert len(await world.alice.list_container_groups()) == 1
        await world.alice.delete_container_group(group_id)
        await service_world.until(watch, _lost(group_id))


@contextlib.asynccontextmanager
async def _program(folder, kcilet):
    """The service's own program, and the kcilet that remembers which store it serves."""
    kcilet.served = served.ServedFile(folder / "served-store")
    program = service_process.ServiceProcess(folder)
    async with (
        asyncio.timeout(60),
        kcilet.serve(str(folder / "kcilet.sock")),
        service_process.ended(program),
    ):
        yield program


async def _run_pod(program, kcilet, name, uid):
    kcilet.cluster.put(machine_world.pod(name=name, uid=uid))
    async with program.client() as client, service_world.watching(client) as watch:
        group_id = await client.create_container_group(service_world.create_request(pod=name, pod_uid=uid))
        await service_world.until(watch, _has(group_id, "Running"))


def _running(kcilet):
    return sum(one.phase is ports.ContainerPhase.RUNNING for one in kcilet.runtime.containers.values())


@pytest.mark.requirement("R04")
async def test_a_service_that_lost_its_store_answers_nobody_and_ends_no_pod(tmp_path, kcilet):
    async with _program(tmp_path, kcilet) as program:
        await program.start()
        await _run_pod(program, kcilet, "web", "uid-1")
        await program.kill()
        for lost in tmp_path.glob("kci.db*"):
            lost.unlink()

        await program.start(may_end=True)
        assert await program.process.wait() == 1
        assert "cannot serve store" in program.log.read_text()
        assert f"remove {tmp_path}/served-store" in program.log.read_text()
        assert _running(kcilet) == 1

        # Somebody decided to go on with the new one.
        (tmp_path / "served-store").unlink()
        await program.start()
        while kcilet.runtime.containers:  # noqa: ASYNC110  (the fake runtime does not tell)
            await asyncio.sleep(0.01)
