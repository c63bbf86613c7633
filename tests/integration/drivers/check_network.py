"""The network driver with the CNI plugin and a real containerd."""

import pytest
from drivers import machine as machines

from kci.kcilet import ports


def host_links():
    return [line for line in machines.run("ip", "-o", "link").splitlines() if ": kv" in line]


async def test_a_pod_has_the_address_it_was_given_and_reaches_the_gateway(machine):
    started = await machine.run("sleep", "1000")
    address = started.interface.address
    shown = await machine.ask(started, "ip", "address", "show", "eth0")
    assert f"inet {address}/32" in shown
    assert started.interface.mac_address in shown
    assert "UP" in await machine.ask(started, "ip", "link", "show", "lo")
    assert f"default via {machines.GATEWAY}" in await machine.ask(started, "ip", "route")
    assert "1 packets received" in await machine.ask(started, "ping", "-c1", "-W5", machines.GATEWAY)
    assert "1 packets received" in await machine.ask(started, "ping", "-c1", "-W5", address)


async def test_pods_reach_each_other(machine):
    first, second = await machine.run("sleep", "1000"), await machine.run("sleep", "1000")
    assert "1 packets received" in await machine.ask(first, "ping", "-c1", "-W5", second.interface.address)


async def test_a_pod_that_nobody_expects_gets_no_sandbox(machine):
    started = await machine.sandbox()
    await machine.runtime.stop_sandbox(started.sandbox_id)
    await machine.network.remove_network(started.pod.uid)
    spec = machine.sandbox_spec(started.pod, attempt=1)
    with pytest.raises(ports.DriverError, match="no interface is expected"):
        await machine.runtime.run_sandbox(spec)
    assert host_links() == []


async def test_stopping_an_old_sandbox_late_leaves_the_new_ones_link(machine):
    old = await machine.sandbox()
    new = await machine.sandbox(pod=old.pod, attempt=1)
    assert len(host_links()) == 1
    await machine.runtime.stop_sandbox(old.sandbox_id)
    assert len(host_links()) == 1
    await machine.runtime.stop_sandbox(new.sandbox_id)
    assert host_links() == []


async def test_a_sandbox_can_end_while_the_driver_is_away(machine):
    started = await machine.sandbox()
    async with machine.network_away():
        await machine.runtime.stop_sandbox(started.sandbox_id)
