"""Probes of pods on fakes: when they are run, what is told, and what becomes of the container."""

import asyncio
import collections
import contextlib
import itertools

import msgspec
import pytest
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kube import models
from kci.link import types as link

pytestmark = pytest.mark.guide("limit probes")
Program = machine_world.Program
on_virtual_time = kcilet_world.on_virtual_time
app, ready = kcilet_world.app, kcilet_world.ready


def on_port(port, **fields):
    return models.Probe(tcp_socket=models.TCPSocketAction(port=port), **fields)


READINESS, LIVENESS, STARTUP = 1, 2, 3


@contextlib.asynccontextmanager
async def world(policy="Always", **probes):
    """A world with one pod whose container has these probes."""
    async with kcilet_world.world(policy=policy) as it:
        pod = it.cluster.pods["uid-1"]
        containers = tuple(msgspec.structs.replace(one, **probes) for one in pod.spec.containers)
        it.cluster.put(
            msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, containers=containers))
        )
        it.probes = it.drivers.probes
        yield it


def now_s():
    return asyncio.get_running_loop().time()


def condition(it, kind):
    found = {one.type: one for one in it.cluster.status("uid-1").conditions}
    return found[kind].status, found[kind].reason, found[kind].message


async def running(it):
    await it.start(machine_world.group())
    await it.until(lambda: it.cluster.status("uid-1").phase == "Running")


@on_virtual_time
async def test_a_pod_is_ready_when_its_readiness_probe_succeeds_and_not_before():
    async with world(readiness_probe=on_port(READINESS, period_seconds=5)) as it:
        it.probes.answers[READINESS] = False
        await running(it)
        await it.until(lambda: len(it.probes.checks) == 3)
        assert not app(it).ready
        assert app(it).started
        expected = ("False", "ContainersNotReady", "containers with unready status: [app]")
        assert condition(it, "Ready") == condition(it, "ContainersReady") == expected
        assert ("Warning", "Unhealthy", "Readiness probe failed: no") in it.cluster.events
        it.probes.answers[READINESS] = True
        await it.until(lambda: len(it.probes.checks) == 4)
        before_s = now_s()
        await it.until(lambda: ready(it) == "True")
        # What changed is told at once, not at the next look at the machine.
        assert now_s() - before_s < 0.1
        assert it.probes.checks[0][1] == ports.TcpCheck("box1", "10.0.0.9", READINESS)


@on_virtual_time
async def test_a_probe_keeps_its_period_and_waits_for_its_delay():
    probe = on_port(LIVENESS, initial_delay_seconds=7, period_seconds=3)
    async with world(liveness_probe=probe) as it:
        it.probes.delays_s[LIVENESS] = 0.9
        await running(it)
        started_s = next(iter(it.runtime.containers.values())).started_at_ns / machine_world.NS
        began_s = started_s - machine_world.EPOCH.timestamp()
        await it.until(lambda: len(it.probes.checks) == 5)
        times = it.probes.times(LIVENESS)
        assert times[0] == pytest.approx(began_s + 7, abs=0.1)
        assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([3.0] * 4)


@on_virtual_time
async def test_a_probe_that_takes_longer_than_its_period_never_runs_twice_at_once():
    async with world(liveness_probe=on_port(LIVENESS, period_seconds=1, timeout_seconds=5)) as it:
        it.probes.delays_s[LIVENESS] = 2.5
        await running(it)
        await it.until(lambda: len(it.probes.checks) == 4)
        assert it.probes.most_at_once[LIVENESS] == 1
        times = it.probes.times(LIVENESS)
        assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([2.5] * 3)


@on_virtual_time
async def test_a_container_that_is_not_live_is_stopped_and_restarted():
    probe = on_port(LIVENESS, period_seconds=2, failure_threshold=3, termination_grace_period_seconds=5)
    async with world(liveness_probe=probe, readiness_probe=on_port(READINESS)) as it:
        await running(it)
        await it.until(lambda: ready(it) == "True")
        it.probes.answers[LIVENESS] = False
        it.runtime.programs["app:1"] = Program(stops_in_s=60)
        await it.until(lambda: "stop_container" in it.runtime.names())
        failed = [event for event in it.cluster.events if event[1] == "Unhealthy"]
        assert failed == [("Warning", "Unhealthy", "Liveness probe failed: no")] * 3
        # The grace period is the probe's own; on its way out the container is not probed again.
        assert next(call for call in it.runtime.calls if call[0] == "stop_container")[2] == 5
        checked, stopped_s = len(it.probes.times(LIVENESS)), now_s()
        it.probes.answers[LIVENESS] = True
        await it.until(lambda: app(it).restart_count == 1)
        assert not [at_s for at_s in it.probes.times(LIVENESS)[checked:] if at_s < stopped_s + 4]
        text = "Container app failed liveness probe, will be restarted"
        assert it.cluster.events.count(("Normal", "Killing", text)) == 1
        assert app(it).last_state.terminated.exit_code == 137
        await it.until(lambda: ready(it) == "True")
        await it.until(lambda: len(it.probes.times(LIVENESS)) > checked)


@on_virtual_time
async def test_without_restarts_a_container_that_is_not_live_ends_its_pod():
    async with world("Never", liveness_probe=on_port(LIVENESS, failure_threshold=1)) as it:
        it.probes.answers[LIVENESS] = False
        it.runtime.programs["app:1"] = Program(stop_code=2)
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.FAILED)
        assert ("Normal", "Killing", "Container app failed liveness probe") in it.cluster.events


@on_virtual_time
async def test_a_stopped_container_did_not_succeed_even_if_it_says_so():
    """It ends in order when it is told to: a Job must not take that for its work being done."""
    async with world("OnFailure", liveness_probe=on_port(LIVENESS, failure_threshold=1)) as it:
        it.probes.answers[LIVENESS] = False
        await running(it)
        await it.until(lambda: app(it).restart_count == 1)
        assert app(it).last_state.terminated.exit_code == 0


@on_virtual_time
async def test_nothing_is_probed_before_the_startup_probe_has_succeeded():
    probes = {
        "startup_probe": on_port(STARTUP, period_seconds=2, failure_threshold=30),
        "readiness_probe": on_port(READINESS),
        "liveness_probe": on_port(LIVENESS),
    }
    async with world(**probes) as it:
        it.probes.answers[STARTUP] = False
        await running(it)
        await it.until(lambda: len(it.probes.times(STARTUP)) == 5)
        assert not it.probes.times(READINESS) + it.probes.times(LIVENESS)
        assert not app(it).started
        it.probes.answers[STARTUP] = True
        await it.until(lambda: ready(it) == "True")
        assert app(it).started
        checked = len(it.probes.times(STARTUP))
        await asyncio.sleep(60)
        assert len(it.probes.times(STARTUP)) == checked
        assert it.probes.times(LIVENESS)
        assert it.runtime.names().count("start_container") == 1


@on_virtual_time
async def test_a_container_that_does_not_start_in_time_is_restarted():
    async with world(startup_probe=on_port(STARTUP, period_seconds=1, failure_threshold=4)) as it:
        it.probes.answers[STARTUP] = False
        await running(it)
        await it.until(lambda: app(it).restart_count == 1)
        text = "Container app failed startup probe, will be restarted"
        assert ("Normal", "Killing", text) in it.cluster.events


@on_virtual_time
async def test_a_pod_that_ends_is_not_killed_by_its_probe():
    async with world(liveness_probe=on_port(LIVENESS, period_seconds=1, failure_threshold=1)) as it:
        await running(it)
        it.runtime.programs["app:1"] = Program(stops_in_s=20)
        it.probes.answers[LIVENESS] = False
        checked = len(it.probes.checks)
        it.cluster.delete("uid-1", 30)
        await it.until_phase(link.Phase.GONE)
        assert len(it.probes.checks) <= checked + 1
        assert not [event for event in it.cluster.events if "failed liveness" in event[2]]
        assert it.probes.left


@pytest.mark.requirement("R22")
@pytest.mark.parametrize("was_ready", [True, False])
def test_a_restart_of_ours_changes_no_readiness(was_ready):
    @on_virtual_time
    async def scenario():
        probes = {
            "startup_probe": on_port(STARTUP),
            "readiness_probe": on_port(READINESS, period_seconds=10),
        }
        async with world(**probes) as it:
            it.probes.answers[READINESS] = was_ready
            await running(it)
            await it.until(lambda: app(it).started and it.probes.times(READINESS))
            await it.until(lambda: (ready(it) == "True") is was_ready)
            await it.kill()
            patches = len(it.cluster.patches)
            it.probes.delays_s[READINESS] = 0.9
            began_s = now_s()
            it.probes.checks.clear()
            await it.start(machine_world.group())
            await it.until(lambda: len(it.probes.times(READINESS)) == 2)
            # Not all pods of a machine are probed at once; and nothing was told that had not changed.
            assert it.probes.times(READINESS)[0] - began_s < 10.1
            assert not it.probes.times(STARTUP)
            assert len(it.cluster.patches) == patches
            assert (ready(it) == "True") is was_ready

    scenario()


@on_virtual_time
async def test_what_cannot_be_checked_says_nothing_of_the_container():
    async with world(liveness_probe=on_port(LIVENESS, period_seconds=1, failure_threshold=1)) as it:
        it.probes.answers[LIVENESS] = ports.DriverError("cannot find the network")
        await running(it)
        await it.until(lambda: len(it.probes.checks) > 5)
        text = "Liveness probe errored and resulted in unknown state: cannot find the network"
        assert ("Warning", "Unhealthy", text) in it.cluster.events
        it.cluster.events.clear()
        it.probes.answers[LIVENESS] = ports.UnavailableError("cannot ask the runtime")
        checked = len(it.probes.checks)
        await it.until(lambda: len(it.probes.checks) > checked + 5)
        assert not [event for event in it.cluster.events if "cannot ask" in event[2]]
        assert "stop_container" not in it.runtime.names()


@on_virtual_time
async def test_a_port_without_a_name_is_told_and_nothing_else_suffers():
    probe = models.Probe(tcp_socket=models.TCPSocketAction(port="nowhere"), period_seconds=1)
    async with world(readiness_probe=probe, liveness_probe=on_port(LIVENESS, period_seconds=1)) as it:
        await running(it)
        await it.until(lambda: len(it.probes.times(LIVENESS)) > 3)
        assert [event for event in it.cluster.events if "no port named 'nowhere'" in event[2]]
        assert not app(it).ready


@on_virtual_time
async def test_commands_of_many_pods_run_a_few_at_once_and_connections_do_not_wait_for_them():
    async with kcilet_world.world() as it:
        groups = []
        for number in range(80):
            name, uid = f"p{number}", f"u{number}"
            pod = machine_world.pod(name, uid)
            probe = models.Probe(exec=models.ExecAction(command=("sleep",)), timeout_seconds=30)
            container = msgspec.structs.replace(
                pod.spec.containers[0],
                liveness_probe=probe,
                readiness_probe=on_port(READINESS, period_seconds=1),
            )
            it.cluster.put(
                msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, containers=(container,)))
            )
            groups.append(machine_world.group(name, uid, group_id=f"g-{number}"))
        it.drivers.probes.delays_s["sleep"] = 20.0
        await it.start(*groups)
        await it.until(lambda: len(it.drivers.probes.times("sleep")) >= 100)
        assert it.drivers.probes.most_at_once["sleep"] == 64
        by_sandbox = collections.defaultdict(list)
        for at_s, check in it.drivers.probes.checks:
            if isinstance(check, ports.TcpCheck):
                by_sandbox[check.sandbox_id].append(at_s)
        assert len(by_sandbox) == 80
        gaps = [b - a for times in by_sandbox.values() for a, b in itertools.pairwise(times)]
        assert max(gaps) < 1.1


@on_virtual_time
async def test_what_changes_while_the_api_server_is_away_is_told_when_it_is_back():
    async with world(readiness_probe=on_port(READINESS, period_seconds=1, failure_threshold=1)) as it:
        await running(it)
        await it.until(lambda: ready(it) == "True")
        it.cluster.is_away = True
        it.probes.answers[READINESS] = False
        checked = len(it.probes.checks)
        await it.until(lambda: len(it.probes.checks) > checked + 60)
        assert ready(it) == "True"
        it.cluster.is_away = False
        await it.until(lambda: ready(it) == "False", within_s=60)


@on_virtual_time
async def test_the_others_wait_until_a_sidecar_has_started():
    async with kcilet_world.world(init=("s",), sidecars=("s",)) as it:
        it.runtime.images.add("s:1")
        pod = it.cluster.pods["uid-1"]
        sidecar = msgspec.structs.replace(
            pod.spec.init_containers[0], startup_probe=on_port(STARTUP, period_seconds=1)
        )
        it.cluster.put(
            msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, init_containers=(sidecar,)))
        )
        it.drivers.probes.answers[STARTUP] = False
        await it.start(machine_world.group())
        await it.until(lambda: len(it.drivers.probes.checks) == 2)
        assert it.runtime.names().count("start_container") == 1
        it.drivers.probes.answers[STARTUP] = True
        await it.until(lambda: ready(it) == "True")
        assert it.runtime.names().count("start_container") == 2
