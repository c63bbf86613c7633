"""The pod controller between a cluster and a cloud that misbehave; the doubles hold what must stay true."""

import hypothesis
import pytest
from fakes import vnode_process
from hypothesis import stateful
from hypothesis import strategies as st

from kci.vnode import pod_controller, pods, provider

SETTLED_S = 1500.0


@pytest.fixture
def world():
    made = vnode_process.World()
    yield made
    made.close()


def reason(world, uid):
    return world.cluster.pods[uid].status.reason


def test_a_bound_pod_is_created_and_a_deleted_one_is_gone_without_any_wait(world):
    world.cluster.bind("a")
    world.pass_time(0.001)
    assert world.cloud.created == ["a"]
    world.pass_time(0.1)
    world.cluster.ask_deletion("a")
    world.pass_time(0.02)
    assert world.cluster.pods == {}
    assert world.cloud.live() == []


def test_what_a_pod_gets_is_told_once_it_has_its_instance(world):
    world.cloud.outcomes = ["later", "lost before"]
    world.cluster.bind("a")
    world.cluster.annotate("a", note="4 cores")
    world.pass_time(300)
    assert world.cluster.events == [("a", "Accepted"), ("a", "InstanceCreated")]


def test_a_refused_pod_stays_pending_with_one_event_and_is_tried_again_when_it_changes(world):
    world.cluster.bind("a")
    world.cluster.annotate("a", refuse="no")
    world.pass_time(300)
    assert (reason(world, "a"), world.cloud.created) == ("NotSupported", [])
    assert world.cluster.events == [("a", "NotSupported")]
    world.cluster.pods["a"].metadata.annotations.pop("refuse")
    world.cluster.annotate("a", other="x")
    world.pass_time(1)
    assert world.cloud.live() == ["a"]
    assert reason(world, "a") == ""
    assert not world.cluster.pods["a"].status.conditions


def test_what_the_provider_refuses_is_tried_again_at_once_when_the_pod_changes(world):
    world.cloud.outcomes = ["refuse"]
    world.cluster.bind("a")
    world.pass_time(5)
    assert world.cloud.created == ["a"]
    assert reason(world, "a") == "InvalidParameterValue"
    world.cluster.annotate("a", size="other")
    world.pass_time(1)
    assert world.cloud.live() == ["a"]


def test_what_the_provider_refuses_is_tried_again_with_back_off_as_a_user_may_make_what_lacked(world):
    world.cloud.outcomes = ["refuse"] * 20
    world.cluster.bind("a")
    world.pass_time(3600)
    # Each 5 minutes in the end, and its owner is told once.
    assert 12 <= len(world.cloud.created) <= 20
    assert world.cluster.events == [("a", "InvalidParameterValue")]
    assert reason(world, "a") == "InvalidParameterValue"
    world.cloud.outcomes = []
    world.pass_time(300)
    assert world.cloud.live() == ["a"]
    assert reason(world, "a") == ""


def test_a_pod_that_is_wrong_by_itself_is_left_alone_whatever_the_provider_said_of_it_before(world):
    world.cloud.outcomes = ["refuse"]
    world.cluster.bind("a")
    world.pass_time(1)
    world.cluster.annotate("a", refuse="no")
    world.pass_time(1)
    looks = world.cloud.refusals_asked
    world.pass_time(60)
    assert (reason(world, "a"), world.cloud.refusals_asked - looks) == ("NotSupported", 0)
    assert world.cloud.created == ["a"]


def test_a_refused_pod_that_is_deleted_goes_at_once(world):
    world.cluster.bind("a")
    world.cluster.annotate("a", refuse="no")
    world.pass_time(1)
    world.cluster.ask_deletion("a")
    world.pass_time(0.01)
    assert world.cluster.pods == {}
    # And not before all can see that it has ended: a Job may wait for that. To its owner that is no news.
    last = world.cluster.removed["a"].status
    assert (last.phase, last.reason, last.message) == ("Failed", "NotSupported", "no")
    assert world.cluster.events == [("a", "NotSupported")]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_what_ran_a_pod_has_the_last_word_on_how_it_ended(world, phase):
    world.cluster.bind("a")
    world.pass_time(1)
    world.cluster.show("a", phase)
    world.cluster.ask_deletion("a")
    version = world.cluster.pods["a"].metadata.resource_version
    world.pass_time(0.02)
    assert world.cluster.pods == {}
    assert world.cluster.removed["a"].metadata.resource_version == version


def test_a_create_that_always_fails_is_tried_for_ever_and_said_on_the_pod(world):
    world.cloud.outcomes = ["later"] * 40
    world.cluster.bind("a")
    world.pass_time(1)
    assert reason(world, "a") == ""
    world.pass_time(20)
    assert reason(world, "a") == "QuotaExceeded"
    world.pass_time(1000)
    assert world.cloud.live() == ["a"]
    assert reason(world, "a") == ""


@pytest.mark.parametrize("outcome", ["lost before", "lost after"])
@pytest.mark.parametrize("window_s", [0.0, 120.0])
def test_after_a_lost_answer_the_instance_is_looked_for_before_another_is_made(outcome, window_s):
    world = vnode_process.World(window_s=window_s, watched=False)
    world.cloud.lag_s = window_s / 2
    world.cloud.outcomes = [outcome]
    world.cluster.bind("a")
    world.pass_time(400)
    assert world.cloud.live() == ["a"]
    assert len(world.cloud.created) == (2 if outcome == "lost before" else 1)
    world.close()


def test_while_listings_fail_nothing_is_created_or_removed_for_old_pods(world):
    world.cluster.bind("a")
    world.pass_time(1)
    world.cloud.list_fails = True
    world.restart()
    world.pass_time(300)
    assert (world.cloud.created, world.cloud.removed) == (["a"], [])
    world.cloud.list_fails = False
    world.pass_time(60)
    assert world.cloud.live() == ["a"]


def test_a_pod_deleted_while_nobody_watched_leaves_no_instance(world):
    world.cloud.plant("gone")
    world.pass_time(65)
    assert world.cloud.live() == []


def test_the_instance_of_a_pod_deleted_without_grace_goes_at_once(world):
    world.cluster.bind("a")
    world.pass_time(1)
    world.cluster.force_delete("a")
    world.pass_time(0.02)
    assert world.cloud.live() == []


@pytest.mark.parametrize("pods_lost", [3, 30])
def test_pods_that_a_list_merely_lacks_keep_their_instances(world, pods_lost):
    for number in range(pods_lost):
        world.cluster.bind(f"p{number}")
    world.pass_time(1)
    for number in range(pods_lost):
        world.cluster.lose(f"p{number}")
    world.pass_time(200)
    assert world.cloud.removed == []


def test_many_orphans_are_removed_only_after_a_second_listing(world):
    for number in range(20):
        world.cloud.plant(f"o{number}")
    world.cluster.bind("kept")
    world.pass_time(pod_controller.BRAKE_PAUSE_S - 1)
    assert world.cloud.removed == []
    world.pass_time(2)
    assert world.cloud.live() == ["kept"]


def test_an_instance_that_did_not_come_up_fails_its_pod(world):
    world.cluster.bind("a")
    world.pass_time(0.1)
    world.cloud.set_phase("a", provider.Phase.CREATE_FAILED, "no machine")
    world.pass_time(0.1)
    assert world.cluster.pods["a"].status.phase == "Failed"
    assert world.cluster.pods["a"].status.message == "no machine"


class Machine(stateful.RuleBasedStateMachine):
    """Anything in any order; then the faults end, and all must be as wanted."""

    uids = stateful.Bundle("uids")

    @stateful.initialize(window_s=st.sampled_from([0.0, 30.0]), watched=st.booleans(), lag=st.floats(0, 0.9))
    def begin(self, window_s, watched, lag):
        # A service that tells its changes has no window.
        self.world = vnode_process.World(window_s=0.0 if watched else window_s, watched=watched)
        self.world.cloud.lag_s = self.world.cloud.consistency_window_s * lag
        self.count = 0

    @stateful.rule(target=uids)
    def bind(self):
        self.count += 1
        uid = f"u{self.count}"
        self.world.cluster.bind(uid, name=f"web-{self.count % 3}")
        return uid

    @stateful.rule(uid=uids)
    def ask_deletion(self, uid):
        if uid in self.world.cluster.pods:
            self.world.cluster.ask_deletion(uid)

    @stateful.rule(uid=uids)
    def force_delete(self, uid):
        if uid in self.world.cluster.pods:
            self.world.cluster.force_delete(uid)

    @stateful.rule(outcomes=st.lists(st.sampled_from(["ok", "refuse", "later", "lost before", "lost after"])))
    def next_creates(self, outcomes):
        self.world.cloud.outcomes = outcomes

    @stateful.rule(fails=st.booleans())
    def cloud_list(self, fails):
        self.world.cloud.list_fails = fails

    @stateful.rule(fails=st.booleans())
    def cluster_list(self, fails):
        self.world.cluster.list_fails = fails

    @stateful.rule(uid=uids)
    def lose_from_the_copy(self, uid):
        self.world.cluster.lose(uid)

    @stateful.rule(uid=uids)
    def end_behind_our_back(self, uid):
        self.world.cloud.end(uid)

    @stateful.rule(number=st.integers(0, 3))
    def plant_an_orphan(self, number):
        uid = f"orphan{number}"
        if not self.world.cloud.exists(uid):
            self.world.cloud.plant(uid)

    @stateful.rule()
    def restart(self):
        self.world.restart()

    @stateful.rule(seconds=st.sampled_from([0.0, 0.001, 0.03, 0.3, 5.0, 70.0]))
    def pass_time(self, seconds):
        self.world.pass_time(seconds)

    def teardown(self):
        if not hasattr(self, "world"):
            return
        world, cluster, cloud = self.world, self.world.cluster, self.world.cloud
        cloud.outcomes, cloud.list_fails, cluster.list_fails = [], False, False
        cluster.heal()
        world.pass_time(SETTLED_S)
        wanted = sorted(uid for uid in cluster.pods if cluster.is_wanted(uid))
        refused = [uid for uid in wanted if cluster.pods[uid].status.reason == "InvalidParameterValue"]
        ended = [uid for uid, pod in cluster.pods.items() if pod.status.phase in pods.TERMINAL_PHASES]
        assert [uid for uid in cloud.live() if uid not in ended] == [
            uid for uid in wanted if uid not in refused
        ]
        assert not [uid for uid, pod in cluster.pods.items() if pod.metadata.deletion_timestamp]
        world.close()


TestAnythingInAnyOrder = Machine.TestCase
TestAnythingInAnyOrder.settings = hypothesis.settings(
    max_examples=100, stateful_step_count=30, deadline=None, derandomize=True
)
