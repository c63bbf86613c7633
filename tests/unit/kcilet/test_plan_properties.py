"""Whatever happens in whatever order: what a plan and a status never do, and that every deletion ends."""

import dataclasses

import hypothesis
import msgspec
from fakes import machine_world
from hypothesis import stateful
from hypothesis import strategies as st

from kci.kcilet import ports
from kci.kcilet.plan import actions, histories, patches, records, statuses, steps
from kci.kube import models

Phase = ports.ContainerPhase
NS = 1_000_000_000
# Done by the runtime whether the asker lives or not.
LATE = (actions.RunSandbox, actions.StopContainer, actions.StopSandbox, actions.StartContainer)


class PodMachine(stateful.RuleBasedStateMachine):
    """A pod, a runtime that is only values, and a kcilet that may be killed at any time.

    Actions that the plan asked for are carried out later, in any order, or fail.
    """

    @stateful.initialize(
        policy=st.sampled_from(["Always", "OnFailure", "Never"]),
        two=st.booleans(),
        init=st.sampled_from([(), (), ("i",), ("i", "j"), ("i", "s", "j"), ("s", "t")]),
    )
    def begin(self, policy, two, init):
        containers = ("a", "b") if two else ("a",)
        self.pod = machine_world.pod(policy=policy, containers=containers, init=init, sidecars=("s", "t"))
        self.now_s = 1_000_000.0
        self.sandboxes = {}
        self.containers = {}
        self.count = 0
        self.wish = histories.Wish.RUN
        self.doing = []
        self.late = []
        self.history = histories.History(first_seen_s=self.now_s)
        self.stage = None
        self.restart_counts = {}
        # The init containers that succeeded and the sidecars that were started, by sandbox.
        self.turns = set()

    # ---- what happens -------------------------------------------------------------------------

    @stateful.rule()
    def plan(self):
        decision = steps.plan(self.world(), self.history)
        self.history, self.stage = decision.history, decision.stage
        for action in decision.cancel:
            self.doing.remove(action)
            self.history = histories.cancelled(self.history, action)
        for action in decision.asked:
            self.doing.append(action)
            self.history = histories.begin(self.history, action)
        self.publish()
        again = steps.plan(self.world(), self.history)
        # What waited for an action that is given up is asked for next.
        assert decision.cancel or not again.asked, "an action that is under way was asked for again"
        assert not again.told, "an event was told twice"
        assert again.stage is decision.stage

    @stateful.precondition(lambda self: self.doing)
    @stateful.rule(
        pick=st.integers(0, 9), outcome=st.sampled_from(["done", "done", "done", "failed", "lost"])
    )
    def carry_out(self, pick, outcome):
        """`lost`: it was done, but the answer said that it failed."""
        action = self.doing.pop(pick % len(self.doing))
        is_done = outcome != "failed" and self.act(action)
        if is_done and outcome == "done":
            image = ports.ImageRef("sha256:x") if isinstance(action, actions.EnsureImage) else None
            self.history = histories.succeed(self.history, action, now_s=self.now_s, image=image)
        else:
            self.history = histories.fail(self.history, action, "Failed", "no", now_s=self.now_s)

    @stateful.rule()
    def all_goes_well_for_a_while(self):
        for _ in range(3):
            self.plan()
            while self.doing:
                self.carry_out(0, "done")

    @stateful.precondition(lambda self: self.pod.spec.init_containers)
    @stateful.rule()
    def the_init_containers_succeed(self):
        for _ in range(8):
            self.all_goes_well_for_a_while()
            for one in [c for c in self.containers.values() if c.phase is Phase.RUNNING]:
                if one.name in {"i", "j"}:
                    self.exit(one, 0)

    @stateful.precondition(lambda self: any(c.phase is Phase.RUNNING for c in self.containers.values()))
    @stateful.rule(code=st.sampled_from([0, 0, 1]), pick=st.integers(0, 3))
    def a_container_exits(self, code, pick):
        running = [c for c in self.containers.values() if c.phase is Phase.RUNNING]
        self.exit(running[pick % len(running)], code)

    @stateful.precondition(lambda self: not self.late and not self.doing)
    @stateful.rule()
    def the_runtime_forgets_init_containers_that_ended(self):
        self.containers = {
            key: one
            for key, one in self.containers.items()
            if one.phase is not Phase.EXITED or one.name not in {"i", "j"}
        }

    @stateful.rule()
    def the_sandbox_dies(self):
        self.sandboxes = {k: dataclasses.replace(box, ready=False) for k, box in self.sandboxes.items()}

    @stateful.rule(seconds=st.sampled_from([0.01, 1, 15, 400]))
    def time_passes(self, seconds):
        self.now_s += seconds

    @stateful.rule()
    def the_kcilet_is_killed(self):
        """The pod's status and the runtime stay. What the runtime was asked for may still be done."""
        self.late += [action for action in self.doing if isinstance(action, LATE)]
        self.doing = []
        self.history = histories.History(first_seen_s=self.now_s)

    @stateful.precondition(lambda self: self.late)
    @stateful.rule()
    def an_action_of_a_killed_kcilet_is_done_late(self):
        _ = self.act(self.late.pop(0))

    @stateful.rule(grace_s=st.sampled_from([0, 5, 30]))
    def the_pod_is_deleted(self, grace_s):
        self.wish = histories.Wish.REMOVE
        meta = msgspec.structs.replace(
            self.pod.metadata,
            deletion_timestamp="2026-01-01T00:00:00Z",
            deletion_grace_period_seconds=grace_s,
        )
        self.pod = msgspec.structs.replace(self.pod, metadata=meta)

    # ---- what always holds ----------------------------------------------------------------------

    @stateful.invariant()
    def at_most_one_sandbox_lives(self):
        if hasattr(self, "sandboxes"):
            assert sum(box.ready for box in self.sandboxes.values()) <= 1

    @stateful.invariant()
    def at_most_one_attempt_of_a_container_runs(self):
        running = [c.name for c in getattr(self, "containers", {}).values() if c.phase is Phase.RUNNING]
        assert len(running) == len(set(running))

    @stateful.invariant()
    def init_containers_run_one_by_one_before_all_others(self):
        running = [c for c in getattr(self, "containers", {}).values() if c.phase is Phase.RUNNING]
        steps = [c.name for c in running if c.name in {"i", "j"}]
        assert len(steps) <= 1
        assert not steps or all(c.name in {*steps, "s", "t"} for c in running)

    def check_turn(self, name, box):
        """All init containers before it have had their turn in this sandbox."""
        before = [one.name for one in self.pod.spec.init_containers]
        for one in before[: before.index(name)] if name in before else before:
            assert (box.id, one) in self.turns, f"{name} was started before {one}"
        if name in {"s", "t"}:
            self.turns.add((box.id, name))

    def teardown(self):
        """A deletion ends, whatever was before, once things stop failing."""
        if not hasattr(self, "pod"):
            return
        self.the_pod_is_deleted(0)
        self.late = []
        for _ in range(100):
            self.plan()
            if self.stage is steps.Stage.GONE:
                break
            while self.doing:
                self.carry_out(0, "done")
            self.now_s += 60
        assert self.stage is steps.Stage.GONE
        assert not self.sandboxes
        assert not self.containers
        assert self.pod.status.phase in {"Succeeded", "Failed"}

    # ---- the world ------------------------------------------------------------------------------

    def seen(self):
        return ports.SeenPod("uid-1", tuple(self.sandboxes.values()), tuple(self.containers.values()))

    def world(self):
        return steps.World(wish=self.wish, pod=self.pod, seen=self.seen(), now_s=self.now_s)

    def publish(self):
        """Write the status to the server, and see that this only goes forward."""
        facts = statuses.Facts(
            pod=self.pod, seen=self.seen(), history=self.history, stage=self.stage, now_s=self.now_s
        )
        status = statuses.to_status(facts)
        patch = patches.to_patch(self.pod, status, {})
        before = self.pod.status
        if patch is not None:
            self.pod = machine_world.apply(self.pod, patch)
        facts = dataclasses.replace(facts, pod=self.pod)
        assert patches.to_patch(self.pod, statuses.to_status(facts), {}) is None, "a status was told twice"
        if before.phase in {"Succeeded", "Failed"}:
            assert self.pod.status.phase == before.phase
        for one in self.pod.status.all_containers:
            assert one.restart_count >= self.restart_counts.get(one.name, 0)
            self.restart_counts[one.name] = one.restart_count

    def act(self, action):
        self.count += 1
        match action:
            case actions.RunSandbox(attempt=attempt):
                if any(box.attempt == attempt for box in self.sandboxes.values()):
                    return False
                box = ports.SeenSandbox(
                    f"box{self.count}", "uid-1", "default", "web", attempt, True, self.count, "10.0.0.9"
                )
                self.sandboxes[box.id] = box
            case actions.StartContainer():
                return self.start(action)
            case actions.StopContainer(container_id=identifier):
                one = self.containers.get(identifier)
                if one is not None and one.phase is Phase.RUNNING:
                    self.exit(one, 137)
            case actions.StopSandbox(sandbox_id=identifier):
                self.stop(identifier)
            case actions.RemoveContainer(container_id=identifier):
                _ = self.containers.pop(identifier, None)
            case actions.RemoveSandbox(sandbox_id=identifier):
                self.stop(identifier)
                _ = self.sandboxes.pop(identifier, None)
                own = [c.id for c in self.containers.values() if c.sandbox_id == identifier]
                for key in own:
                    del self.containers[key]
            case _:
                pass
        return True

    def start(self, action):
        box = self.sandboxes.get(action.sandbox_id)
        names = {(one.name, one.attempt) for one in self.containers.values()}
        if box is None or not box.ready:
            return False
        if action.created is None and (action.container, action.attempt) in names:
            return False
        if action.created is not None:
            made = self.containers.get(action.created)
            if made is None or made.phase is not Phase.CREATED:
                return False
        if action.created is None:
            key = f"c{self.count}"
            self.containers[key] = ports.SeenContainer(
                key, box.id, action.container, action.attempt, Phase.CREATED, created_at_ns=self.count
            )
        else:
            key = action.created
        self.check_turn(action.container, box)
        started = int(self.now_s * NS)
        self.containers[key] = dataclasses.replace(
            self.containers[key], phase=Phase.RUNNING, started_at_ns=started
        )
        return True

    def stop(self, identifier):
        for one in [c for c in self.containers.values() if c.sandbox_id == identifier]:
            if one.phase is Phase.RUNNING:
                self.exit(one, 137)
        if identifier in self.sandboxes:
            self.sandboxes[identifier] = dataclasses.replace(self.sandboxes[identifier], ready=False)

    def exit(self, one, code):
        ended = int(self.now_s * NS)
        if code == 0:
            self.turns.add((one.sandbox_id, one.name))
        self.containers[one.id] = dataclasses.replace(
            one, phase=Phase.EXITED, exit_code=code, finished_at_ns=ended
        )


PodMachine.TestCase.settings = hypothesis.settings(
    max_examples=300, stateful_step_count=50, deadline=None, derandomize=True
)
TestPodMachine = PodMachine.TestCase


@hypothesis.given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_grace_is_never_less_than_two_seconds(asked, given):
    pod = machine_world.pod(termination_grace_period_seconds=int(given))
    meta = msgspec.structs.replace(pod.metadata, deletion_grace_period_seconds=int(asked))
    world = steps.World(
        wish=histories.Wish.REMOVE,
        pod=models.Pod(metadata=meta, spec=pod.spec),
        seen=ports.SeenPod("uid-1"),
        now_s=0.0,
    )
    assert steps.to_grace_s(world) == max(2, int(asked))


def test_an_unknown_container_is_ended_before_it_is_started_again():
    box = ports.SeenSandbox("box1", "uid-1", "default", "web", 0, True, 1, "10.0.0.9")
    lost = ports.SeenContainer("c1", "box1", "app", 0, Phase.UNKNOWN)
    world = steps.World(
        wish=histories.Wish.RUN,
        pod=machine_world.pod(),
        seen=ports.SeenPod("uid-1", (box,), (lost,)),
        now_s=100.0,
    )
    history = histories.History(
        first_seen_s=0.0,
        laid_out="",
        limited=ports.NO_LIMITS,
        images={"app": ports.ImageRef("sha256:x")},
    )
    asked = steps.plan(world, history).asked
    assert [type(action) for action in asked] == [actions.StopContainer]
    assert records.next_attempt(world.pod, "app", world.seen) == 1


def test_a_stop_without_effect_is_repeated_with_growing_pauses_and_delays_no_removal():
    box = ports.SeenSandbox("box1", "uid-1", "default", "web", 0, True, 1, "10.0.0.9")
    running = ports.SeenContainer("c1", "box1", "app", 0, Phase.RUNNING, started_at_ns=1)
    now_s, history, pauses = 100.0, histories.History(first_seen_s=0.0), []

    def decide(record, box=box):
        seen = ports.SeenPod("uid-1", (box,), (record,))
        world = steps.World(wish=histories.Wish.REMOVE, pod=machine_world.pod(), seen=seen, now_s=now_s)
        return steps.plan(world, history)

    for _ in range(4):
        decision = decide(running)
        (stop,) = decision.asked
        assert isinstance(stop, actions.StopContainer)
        history = histories.succeed(decision.history, stop, now_s=now_s)
        waiting = decide(running)
        assert not waiting.asked
        pauses.append(round(waiting.wake_at_s - now_s, 3))
        now_s = waiting.wake_at_s
    assert pauses == [0.1, 0.2, 0.4, 0.8]
    ended = dataclasses.replace(running, phase=Phase.EXITED, finished_at_ns=2)
    now_s -= 0.5
    down = dataclasses.replace(box, ready=False)
    assert actions.RemoveSandbox("box1") in decide(ended, down).asked
