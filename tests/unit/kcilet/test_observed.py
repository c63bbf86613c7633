"""What the kcilet tells to who measures it, and what its groups use, on fakes."""

import msgspec
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kcilet.plan import usages
from kci.kube import models
from kci.link import types as link

on_virtual_time = kcilet_world.on_virtual_time
READINESS = 1


def of_kind(it, kind):
    return [told[1:] for told in it.observed if told[0] == kind]


@on_virtual_time
async def test_a_start_is_told_once_with_how_long_each_phase_took():
    async with kcilet_world.world() as it:
        it.runtime.delays_s["run_sandbox"] = 1.5
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.RUNNING)
        (sandbox_s, sandbox), (started_s, started) = of_kind(it, "start")
        assert (sandbox, started) == ("sandbox", "started")
        assert 1.5 <= sandbox_s <= started_s < 10
        # What runs already does not start again with a new kcilet.
        await it.kill()
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.RUNNING)
        assert len(of_kind(it, "start")) == 2


@on_virtual_time
async def test_pods_that_nobody_wants_are_counted():
    async with kcilet_world.world() as it:
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.RUNNING)
        await it.kill()
        await it.start()
        it.agent.sync(())
        await it.until(lambda: not any(it.left()))
        assert of_kind(it, "orphan") == [()]


@on_virtual_time
async def test_probes_are_counted_by_what_they_came_to():
    async with kcilet_world.world() as it:
        pod = it.cluster.pods["uid-1"]
        (probed,) = pod.spec.containers
        probe = models.Probe(tcp_socket=models.TCPSocketAction(port=READINESS), period_seconds=5)
        probed = msgspec.structs.replace(probed, readiness_probe=probe)
        spec = msgspec.structs.replace(pod.spec, containers=(probed,))
        it.cluster.put(msgspec.structs.replace(pod, spec=spec))
        it.probes = it.drivers.probes
        it.probes.answers[READINESS] = False
        await it.start(machine_world.group())
        await it.until(lambda: of_kind(it, "probe"))
        it.probes.answers[READINESS] = ports.DriverError("cannot probe")
        await it.until(lambda: ("Readiness", "unknown") in of_kind(it, "probe"))
        it.probes.answers[READINESS] = True
        await it.until(lambda: ("Readiness", "successful") in of_kind(it, "probe"))
        assert of_kind(it, "probe")[0] == ("Readiness", "failed")


# ---- usage -----------------------------------------------------------------------------------------


def seen(uid, *containers, ready=True):
    box = ports.SeenSandbox("box", models.PodUid(uid), "default", "web", 0, ready, created_at_ns=5)
    return ports.SeenPod(models.PodUid(uid), (box,), containers)


def container(name, phase=ports.ContainerPhase.RUNNING, attempt=0):
    return ports.SeenContainer(f"{name}{attempt}", "box", name, attempt, phase, started_at_ns=7)


def test_accounts_are_read_of_what_runs_alone():
    groups = {
        "g-1": seen("u", container("b"), container("a"), container("a", ports.ContainerPhase.EXITED, 1)),
        "g-2": seen("v", container("c"), ready=False),
        "g-3": ports.SeenPod(models.PodUid("w")),
    }
    assert usages.to_accounts(groups) == {"u": ("b0", "a0")}


def test_usage_is_told_by_group_and_by_name_in_order():
    used = link.Usage(time_ns=1)
    groups = {"g-1": seen("u", container("b"), container("a")), "g-2": seen("v", container("c"))}
    found = {"u": ports.PodUsage(used, link.Traffic(), {"b0": used, "a0": used})}
    (told,) = usages.to_usages(groups, found).groups
    assert (told.group_id, told.started_at_ns) == ("g-1", 5)
    assert [(one.name, one.started_at_ns) for one in told.containers] == [("a", 7), ("b", 7)]
