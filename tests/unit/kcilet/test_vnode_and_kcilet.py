"""A pod's status that the virtual node and the kcilet write, each of them the real one: the node tells of
creates that fail and of an instance that is gone, the kcilet of the containers. Both see the server late, and
their writes meet conflicts; neither takes back what the other has told.
"""

import asyncio

import hypothesis
import msgspec
import pytest
from fakes import kcilet_world, machine_world, virtual_time, vnode_process, vnode_world
from hypothesis import stateful
from hypothesis import strategies as st

from kci.kit import tasks
from kci.kube import errors, reflector
from kci.vnode import pods

UID = "uid-1"
STEPS = 30
SETTLED_S = 900.0


class Shared:
    """One API server for both: the kcilet's double holds the pods, and this is the node's side of it."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.copy, self.synced = {}, asyncio.Event()
        self.listener = self.cloud = None
        self.lags = False
        self.ended_in = ""
        self.restarts = 0
        self.violations = []

    def must(self, holds, otherwise):
        if not holds:
            self.violations.append(otherwise)

    def is_wanted(self, uid):
        found = self.cluster.pods.get(uid)
        return (
            found is not None
            and found.metadata.deletion_timestamp is None
            and found.status.phase not in pods.TERMINAL_PHASES
        )

    def changed(self):
        """After each write, whoever's it was."""
        found = self.cluster.pods[UID]
        if self.ended_in:
            self.must(found.status.phase == self.ended_in, f"{self.ended_in} became {found.status.phase}")
        elif found.status.phase in pods.TERMINAL_PHASES:
            self.ended_in = found.status.phase
        count = sum(one.restart_count for one in found.status.container_statuses)
        self.must(count >= self.restarts, f"{self.restarts} restarts became {count}")
        self.restarts = max(self.restarts, count)
        if not self.lags:
            self.show()

    def show(self):
        kind = reflector.ChangeKind.MODIFIED if UID in self.copy else reflector.ChangeKind.ADDED
        self.copy[UID] = self.cluster.pods[UID]
        if self.listener is not None:
            self.listener.on_change(reflector.Change(kind, self.copy[UID]))

    # ---- pod_api.PodApi and EventSink

    async def patch_status(self, target, patch):
        await asyncio.sleep(0.001)
        found = self.cluster.pods[UID]
        if patch["metadata"]["resourceVersion"] != found.metadata.resource_version:
            raise errors.ConflictError("changed since")
        status = dict(patch["status"])
        changes = status.pop("conditions", ())
        gone = {one["type"] for one in changes if "$patch" in one}
        kept = tuple(one for one in found.status.conditions if one.type not in gone)
        bare = msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, conditions=kept))
        status["conditions"] = [one for one in changes if "$patch" not in one]
        self.cluster.put(machine_world.apply(bare, {**patch, "status": status}))

    async def remove_pod(self, target):
        raise AssertionError("nobody deletes this pod")

    async def list_pod_uids(self):
        await asyncio.sleep(0.001)
        return set(self.cluster.pods)

    def warn(self, target, reason, message):
        pass

    tell = warn


class Cluster(machine_world.FakeCluster):
    shared = None

    def put(self, pod):
        made = super().put(pod)
        if self.shared is not None:
            self.shared.changed()
        return made


class Cloud(vnode_world.Cloud):
    """Its instances are what the kcilet is asked to run."""

    on_change = None

    def _publish(self, change):
        super()._publish(change)
        if self.on_change is not None:
            self.on_change()


class BothWrite(stateful.RuleBasedStateMachine):
    steps = 0

    @stateful.initialize(
        policy=st.sampled_from(["Always", "Never"]),
        # Five in a row are told on the pod.
        failures=st.sampled_from([0, 1, 6, 9]),
        last=st.sampled_from(["ok", "lost before", "lost after"]),
    )
    def begin(self, policy, failures, last):
        self.runner = asyncio.Runner(loop_factory=virtual_time.VirtualLoop)
        self.runner.run(self.start(policy, ["later"] * failures + [last]))

    async def start(self, policy, outcomes):
        self.it = kcilet_world.World()
        self.it.cluster = Cluster()
        self.shared = self.it.cluster.shared = Shared(self.it.cluster)
        self.cloud = Cloud(self.shared, asyncio.get_running_loop().time)
        self.cloud.on_change, self.cloud.outcomes = self.sync, outcomes
        self.node = None
        await self.it.start()
        await self.start_node()
        self.it.cluster.put(machine_world.pod(policy=policy))

    async def start_node(self):
        self.shared.listener, self.shared.copy, self.shared.synced = None, {}, asyncio.Event()
        controller = vnode_process.make(self.shared, self.cloud)

        async def process():
            async with tasks.Tasks() as group:
                group.run_forever("controller", controller.run())
                self.shared.listener = controller
                if UID in self.it.cluster.pods:
                    self.shared.show()
                self.shared.synced.set()

        self.node = asyncio.get_running_loop().create_task(process())
        await asyncio.sleep(0)

    async def kill_node(self):
        self.shared.listener = None
        self.node.cancel()
        await asyncio.wait([self.node])

    def sync(self):
        """What the service wants of the machine."""
        self.it.agent.sync([machine_world.group()] if self.cloud.live() else [])

    @stateful.rule()
    def the_instance_is_lost(self):
        self.runner.run(self.lose())

    async def lose(self):
        self.cloud.end(UID)

    @stateful.rule()
    def the_node_sees_the_server_late(self):
        self.shared.lags = True

    @stateful.rule()
    def the_node_catches_up(self):
        self.runner.run(self.catch_up())

    async def catch_up(self):
        self.shared.lags = False
        self.shared.show()

    @stateful.rule()
    def the_node_is_killed(self):
        self.runner.run(self.restart_node())

    async def restart_node(self):
        await self.kill_node()
        await self.start_node()

    @stateful.rule()
    def the_kcilet_is_killed(self):
        self.runner.run(self.restart_kcilet())

    async def restart_kcilet(self):
        await self.it.kill()
        await self.it.start()
        self.sync()

    @stateful.precondition(lambda self: any(c.phase.name == "RUNNING" for c in self.containers()))
    @stateful.rule(code=st.sampled_from([0, 1]))
    def the_container_exits(self, code):
        self.runner.run(self.exit(code))

    async def exit(self, code):
        # It may have been stopped just now.
        if any(one.phase.name == "RUNNING" for one in self.containers()):
            self.it.runtime.exit("app", code)

    @stateful.rule(seconds=st.sampled_from([0.01, 1, 20, 90]))
    def time_passes(self, seconds):
        self.runner.run(asyncio.sleep(seconds))

    def containers(self):
        return self.it.runtime.containers.values() if hasattr(self, "it") else ()

    @stateful.invariant()
    def nothing_was_taken_back(self):
        if hasattr(self, "it"):
            BothWrite.steps += 1
            assert self.shared.violations == []

    def teardown(self):
        if not hasattr(self, "it"):
            return
        try:
            self.runner.run(self.settle())
        finally:
            self.runner.close()

    async def settle(self):
        self.cloud.outcomes = []
        try:
            await self.catch_up()
            await asyncio.sleep(SETTLED_S)
            status = self.it.cluster.status(UID)
            assert self.shared.violations == []
            if self.shared.ended_in:
                assert status.phase == self.shared.ended_in
            else:
                assert self.cloud.live() == [UID]
                # What the node told of its failures is gone with them.
                assert pods.CONDITION not in {one.type for one in status.conditions}
                assert status.phase == "Running"
        finally:
            self.it.runtime.close()
            await self.kill_node()
            await self.it.kill()


@pytest.mark.requirement("R21")
def test_what_one_of_both_has_told_the_other_does_not_take_back(runs):
    examples = runs.scale(quick=10, faults=60, release=300)
    runs.is_seeded = True
    BothWrite.steps = 0
    stateful.run_state_machine_as_test(
        BothWrite,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
    runs.count = BothWrite.steps
    assert runs.count >= examples * STEPS / 3, "too few steps to prove anything"
