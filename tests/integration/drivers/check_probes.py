"""The probe driver on a real containerd: commands in containers, and servers at pods' own addresses."""

import asyncio
import time

import pytest
from drivers import machine as machines

from kci.kcilet import ports
from kci.kcilet.drivers.probes import driver

# Pods have addresses of their own.
pytestmark = pytest.mark.integration

WEB = ("sh", "-c", "mkdir /www; echo fine > /www/up; exec httpd -f -p 8080 -h /www")


@pytest.fixture
def probes(machine):
    return driver.MachineProbes(
        run_command=machine.runtime.run_command, open_network=machine.streams.open_network
    )


def run(started, *command):
    return ports.ExecCheck(started.container_id, command)


async def test_a_command_succeeds_by_its_exit_code_and_its_output_is_told(machine, probes):
    started = await machine.run("sleep", "1000")
    assert await probes.check(run(started, "true"), timeout_s=10) == ports.CheckResult(True)
    script = "echo out; echo err >&2; exit 3"
    failed = await probes.check(run(started, "sh", "-c", script), timeout_s=10)
    assert failed == ports.CheckResult(False, "out\nerr\n")
    long = await probes.check(run(started, "sh", "-c", "yes | head -c 1000000; exit 1"), timeout_s=20)
    assert (long.succeeded, len(long.output)) == (False, 10 << 10)


async def test_a_command_that_takes_too_long_is_a_failure_and_is_ended(machine, probes):
    started = await machine.run("sleep", "1000")
    began_s = time.monotonic()
    late = await probes.check(run(started, "sleep", "4711"), timeout_s=1)
    assert time.monotonic() - began_s < machines.WITHIN_S
    assert late == ports.CheckResult(False, 'command timed out: "sleep 4711" timed out after 1s')
    async with asyncio.timeout(machines.WITHIN_S):
        while "4711" in await machine.ask(started, "ps"):  # noqa: ASYNC110  (nobody tells of it)
            await asyncio.sleep(0.1)


async def test_a_command_that_cannot_be_run_says_nothing_of_its_container(machine, probes):
    started = await machine.run("sleep", "1000")
    with pytest.raises(ports.DriverError, match="no-such-program"):
        await probes.check(run(started, "no-such-program"), timeout_s=10)
    with pytest.raises(ports.NotFoundError):
        await probes.check(ports.ExecCheck(ports.ContainerId("0" * 64), ("true",)), timeout_s=10)


async def test_a_server_is_reached_at_the_pods_address_from_inside(machine, probes):
    started = await machine.run(*WEB)
    address = started.interface.address

    async def until(check, succeeded):
        async with asyncio.timeout(machines.WITHIN_S):
            while (result := await probes.check(check, timeout_s=2)).succeeded is not succeeded:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            return result

    get = ports.HttpCheck(started.sandbox_id, "http", address, 8080, "/up")
    connect = ports.TcpCheck(started.sandbox_id, address, 8080)
    await until(get, True)
    await until(connect, True)
    missing = ports.HttpCheck(started.sandbox_id, "http", address, 8080, "/down")
    result = await probes.check(missing, timeout_s=2)
    assert result == ports.CheckResult(False, "HTTP probe failed with statuscode: 404")
    await machine.runtime.stop_container(started.container_id, 0)
    # The sandbox and so its network are there without the container.
    assert (await until(connect, False)).output.endswith("connect: connection refused")
    probes.leave(started.sandbox_id)
    await machine.runtime.stop_sandbox(started.sandbox_id)
    with pytest.raises(ports.NotFoundError):
        await probes.check(connect, timeout_s=2)
