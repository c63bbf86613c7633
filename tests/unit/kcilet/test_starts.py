"""How a pod's start is noted on the machine: its trace, and the steps that its report tells."""

import msgspec
from fakes import kcilet_world, machine_world, tracer

from kci.kcilet.plan import starts
from kci.kcilet.workers import machine
from kci.kit import observing
from kci.kube import models
from kci.link import types as link

on_virtual_time = kcilet_world.on_virtual_time
PARENT = f"00-{'b' * 32}-{'c' * 16}-01"


class World(kcilet_world.World):
    def __init__(self):
        super().__init__()
        self.spans = tracer.Tracer()

    def _observers(self):
        return machine.Observers(tracer=self.spans)


def report(it):
    return it.agent.reports.get("g-1")


def traced():
    return msgspec.structs.replace(machine_world.group(), traceparent=PARENT)


def world(**pod_changes):
    it = World()
    it.cluster.put(machine_world.pod(**pod_changes))
    return it


async def end(it):
    it.runtime.close()
    await it.kill()


@on_virtual_time
async def test_a_start_is_told_once_its_status_is_written():
    it = world()
    try:
        it.runtime.delays_s["run_sandbox"] = 1.5
        await it.start(traced())
        await it.until_phase(link.Phase.RUNNING)
        await it.until(lambda: report(it).start)
        steps = {one.step: one for one in report(it).start}
        assert steps.keys() == {"known", "volumes", "image", "sandbox", "started", "told"}
        assert 1500 <= steps["sandbox"].ended_ms - steps["sandbox"].began_ms < 3000
        assert steps["known"].began_ms <= steps["sandbox"].began_ms <= steps["started"].ended_ms
        assert steps["started"].ended_ms <= steps["told"].ended_ms
        # A few hundred bytes.
        assert len(msgspec.json.encode(report(it).start)) < 600
    finally:
        await end(it)


@on_virtual_time
async def test_its_spans_are_below_the_services():
    it = world()
    try:
        await it.start(traced())
        await it.until(lambda: report(it) and report(it).start)
        (run,) = it.spans.named("run pod")
        assert (run.parent, run.code) == (PARENT, observing.OK)
        assert run.attributes["k8s.pod.uid"] == "uid-1"
        for name in (
            "read pod",
            "prepare volumes",
            "ensure image",
            "run sandbox",
            "start container",
            "write status",
        ):
            (found,) = it.spans.named(name)
            assert (it.spans.parent_of(found), found.code) == ("run pod", observing.OK)
    finally:
        await end(it)


@on_virtual_time
async def test_what_runs_already_and_what_is_restarted_is_no_start():
    it = world()
    try:
        await it.start(traced())
        await it.until(lambda: report(it) and report(it).start)
        await it.kill()
        count = len(it.spans.spans)
        await it.start(traced())
        await it.until_phase(link.Phase.RUNNING)
        assert report(it).start == ()
        restarts = kcilet_world.app(it).restart_count
        it.runtime.exit("app", 1)
        await it.until(lambda: kcilet_world.app(it).restart_count > restarts)
        assert len(it.spans.spans) == count
    finally:
        await end(it)


def test_steps_of_init_containers_end_with_them():
    pod = msgspec.convert(
        {"spec": {"initContainers": [{"name": "a"}], "containers": [{"name": "b"}]}}, models.Pod
    )
    from kci.kcilet import ports

    ended = ports.SeenContainer("1", "box", "a", 0, ports.ContainerPhase.EXITED, finished_at_ns=5_000_000_000)
    seen = ports.SeenPod("u", (), (ended,))
    spells = {starts.Step.INIT: (1.0, 2.0)}
    assert starts.with_init_ends(spells, pod, seen) == {starts.Step.INIT: (1.0, 5.0)}
    assert starts.with_init_ends({}, pod, seen) == {}
    assert [one.step for one in starts.to_link({starts.Step.TOLD: (1, 2), **spells})] == ["init", "told"]
