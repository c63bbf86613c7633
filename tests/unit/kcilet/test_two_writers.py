"""A pod's status that two write: the kcilet, and somebody who knows nothing of it. The kcilet sees the server
late, its writes meet conflicts and lost answers, and it is killed; what it writes never goes backwards.
"""

import asyncio

import hypothesis
import msgspec
import pytest
from fakes import kcilet_world, machine_world, virtual_time
from hypothesis import stateful
from hypothesis import strategies as st

from kci.kcilet.plan import told
from kci.kube import models
from kci.source import errors

UID = "uid-1"
GATE = "example.com/gate"
TERMINAL = {"Succeeded", "Failed"}
RESYNC_S = 300.0
# An example has up to so many steps, and some have few.
STEPS = 50


class Cluster(machine_world.FakeCluster):
    """An API server whose watch shows what others write only when it is told to."""

    def __init__(self):
        super().__init__()
        self.shown = {}
        self.lags = False
        # How the next writes of the kcilet fail: before they reach the server, or after.
        self.faults = []
        self.counts = {}
        self.ended_in = ""
        self.writes = []

    def join(self, group, on_change):
        return Pod(self, group, on_change)

    def put(self, pod):
        meta = pod.metadata
        made = super().put(pod)
        if not self.lags:
            self.shown[meta.uid] = made
        return made

    def catch_up(self):
        self.lags = False
        self.shown = dict(self.pods)
        self._tell()

    def overwrite(self, **changes):
        pod = self.pods[UID]
        self.put(msgspec.structs.replace(pod, status=msgspec.structs.replace(pod.status, **changes)))

    def set_condition(self, kind, status):
        others = tuple(one for one in self.status(UID).conditions if one.type != kind)
        mine = models.PodCondition(type=kind, status=status, last_transition_time="2026-01-01T00:00:00Z")
        self.overwrite(conditions=(*others, mine))

    def foreign(self):
        return {one.type: one for one in self.status(UID).conditions if one.type == GATE}


class Pod(machine_world.FakePod):
    def _find(self):
        return self._cluster.shown.get(UID)

    async def patch_status(self, pod, patch):
        cluster = self._cluster
        fault = cluster.faults.pop() if cluster.faults else ""
        if fault == "conflict":
            raise errors.SourceError("conflict")
        foreign = cluster.foreign()
        await super().patch_status(pod, patch)
        # What the answer shows, the kcilet knows.
        cluster.shown[UID] = cluster.pods[UID] if fault != "lost" else cluster.shown[UID]
        cluster.writes.append(asyncio.get_running_loop().time())
        assert cluster.foreign() == foreign, "somebody else's condition was overwritten"
        self._check(patch.get("status", {}))
        if fault == "lost":
            raise errors.SourceError("no answer in time")

    def _check(self, written):
        cluster, status = self._cluster, self._cluster.status(UID)
        if "phase" in written:
            if cluster.ended_in:
                assert status.phase == cluster.ended_in, "an end was taken back"
            if status.phase in TERMINAL:
                cluster.ended_in = status.phase
        if "containerStatuses" in written:
            for one in status.container_statuses:
                assert one.restart_count >= cluster.counts.get(one.name, 0), "a restart count fell"
                cluster.counts[one.name] = one.restart_count


class TwoWriters(stateful.RuleBasedStateMachine):
    steps = 0

    def __init__(self):
        super().__init__()
        self.was_killed = self.has_forgotten = False

    @stateful.initialize(policy=st.sampled_from(["Always", "OnFailure", "Never"]))
    def begin(self, policy):
        self.runner = asyncio.Runner(loop_factory=virtual_time.VirtualLoop)
        self.runner.run(self.start(policy))

    async def start(self, policy):
        self.it = kcilet_world.World()
        self.it.cluster = Cluster()
        gates = (models.PodReadinessGate(condition_type=GATE),)
        self.it.cluster.put(machine_world.pod(policy=policy, readiness_gates=gates))
        await self.it.start(machine_world.group())
        await asyncio.sleep(5)

    # ---- what the other one writes ----------------------------------------------------------------

    @stateful.rule(status=st.sampled_from(["True", "False"]))
    def a_gate_is_set(self, status):
        self.it.cluster.set_condition(GATE, status)

    @stateful.rule()
    def the_node_is_called_not_ready(self):
        self.it.cluster.set_condition("Ready", "False")

    @stateful.rule(phase=st.sampled_from(["Pending", "Running"]))
    def the_phase_is_overwritten(self, phase):
        self.it.cluster.overwrite(phase=phase)

    @stateful.rule()
    def the_containers_are_overwritten(self):
        self.it.cluster.overwrite(container_statuses=(), pod_ip="", pod_ips=())

    @stateful.rule()
    def the_restart_counts_are_overwritten(self):
        containers = self.it.cluster.status(UID).container_statuses
        fallen = tuple(msgspec.structs.replace(one, restart_count=0) for one in containers)
        self.it.cluster.overwrite(container_statuses=fallen)

    # ---- what else happens --------------------------------------------------------------------------

    @stateful.rule(faults=st.lists(st.sampled_from(["conflict", "lost"]), max_size=3))
    def the_next_writes_fail(self, faults):
        self.it.cluster.faults = faults

    @stateful.rule()
    def the_watch_lags(self):
        self.it.cluster.lags = True

    @stateful.rule()
    def the_watch_catches_up(self):
        self.it.cluster.catch_up()

    # Who was killed knows only what the server shows: with the runtime's records lost as well, nobody knows.
    @stateful.precondition(lambda self: not self.has_forgotten)
    @stateful.rule()
    def the_kcilet_is_killed(self):
        self.was_killed = True
        self.runner.run(self.restart())

    @stateful.precondition(lambda self: not self.was_killed)
    @stateful.rule()
    def the_runtime_forgets(self):
        self.has_forgotten = True
        self.runner.run(self.forget())

    @stateful.precondition(lambda self: any(c.phase.name == "RUNNING" for c in self.containers()))
    @stateful.rule(code=st.sampled_from([0, 1]))
    def the_container_exits(self, code):
        self.runner.run(self.exit(code))

    @stateful.rule(seconds=st.sampled_from([0.01, 1, 20, 90]))
    def time_passes(self, seconds):
        self.runner.run(asyncio.sleep(seconds))

    def containers(self):
        return self.it.runtime.containers.values() if hasattr(self, "it") else ()

    @stateful.invariant()
    def count(self):
        TwoWriters.steps += hasattr(self, "it")

    async def restart(self):
        await self.it.kill()
        await self.it.start(machine_world.group())
        await asyncio.sleep(1)

    async def forget(self):
        self.it.runtime.sandboxes.clear()
        self.it.runtime.containers.clear()
        self.it.agent.sync([machine_world.group()])
        await asyncio.sleep(1)

    async def exit(self, code):
        self.it.runtime.exit("app", code)

    def teardown(self):
        """Once the other one is quiet, its overwriting is repaired soon, and nothing more is written."""
        if not hasattr(self, "it"):
            return
        try:
            self.runner.run(self.settle())
        finally:
            self.runner.close()

    async def settle(self):
        cluster = self.it.cluster
        cluster.faults = []
        cluster.catch_up()
        try:
            await asyncio.sleep(RESYNC_S)
            status = cluster.status(UID)
            assert self.was_killed or status.pod_ip == "10.0.0.9"
            assert kcilet_world.app(self.it).restart_count == cluster.counts["app"]
            if cluster.ended_in:
                assert status.phase == cluster.ended_in
            is_running = any(one.phase.name == "RUNNING" for one in self.containers())
            gate = cluster.foreign().get(GATE)
            is_ready = is_running and gate is not None and gate.status == "True"
            assert kcilet_world.ready(self.it) == str(is_ready)
        finally:
            self.it.runtime.close()
            await self.it.kill()


@pytest.mark.requirement("R21")
def test_a_status_of_two_writers_never_goes_backwards(runs):
    examples = runs.scale(quick=10, faults=150, release=300)
    runs.is_seeded = True
    TwoWriters.steps = 0
    stateful.run_state_machine_as_test(
        TwoWriters,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
    runs.count = TwoWriters.steps
    assert runs.count >= examples * STEPS / 2, "too few steps to prove anything"


@pytest.mark.requirement("R21")
@kcilet_world.on_virtual_time
async def test_against_another_writer_it_writes_once_a_minute():
    async with kcilet_world.world() as it:
        await it.start(machine_world.group())
        await it.until(lambda: kcilet_world.ready(it) == "True")
        before = len(it.cluster.patches)
        for _ in range(600):
            pod = it.cluster.pods[UID]
            status = msgspec.structs.replace(pod.status, phase="Pending")
            it.cluster.put(msgspec.structs.replace(pod, status=status))
            await asyncio.sleep(1)
        written = len(it.cluster.patches) - before
        assert 2 <= written <= 600 / told.REPAIR_AFTER_S + 2
        await asyncio.sleep(RESYNC_S)
        assert it.cluster.status(UID).phase == "Running"


@pytest.mark.requirement("R21")
@pytest.mark.parametrize("start_s", [1.9, 2.0, 2.1])
def test_a_start_of_two_seconds_costs_at_most_two_writes(start_s):
    @kcilet_world.on_virtual_time
    async def run():
        async with kcilet_world.world() as it:
            it.runtime.delays_s["start_container"] = start_s
            await it.start(machine_world.group())
            await it.until(lambda: kcilet_world.ready(it) == "True")
            assert len(it.cluster.patches) <= 2

    run()
