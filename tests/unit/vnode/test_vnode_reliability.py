"""What the virtual node must stand: lost answers, bad lists, lagging clouds, outages, restarts, any order of
deletes. The doubles hold what must never happen (tests/fakes/vnode_world.py); here stands what must come.
"""

import contextlib
import itertools

import pytest
from fakes import vnode_process

from kci.vnode import knowledge, pod_controller, pods, provider

SETTLED_S = 400.0


@contextlib.contextmanager
def world(**how):
    made = vnode_process.World(**how)
    try:
        yield made
    finally:
        made.close()


def assert_as_wanted(made):
    """One instance for each pod that is wanted, none else, and no pod left that somebody deleted."""
    wanted = sorted(uid for uid in made.cluster.pods if made.cluster.is_wanted(uid))
    ended = {uid for uid, pod in made.cluster.pods.items() if pod.status.phase in pods.TERMINAL_PHASES}
    assert [uid for uid in made.cloud.live() if uid not in ended] == wanted
    assert not [uid for uid, pod in made.cluster.pods.items() if pod.metadata.deletion_timestamp]


@pytest.mark.requirement("R02")
def test_after_a_lost_answer_the_instance_is_adopted_within_two_windows(runs):
    for run in range(runs.scale(quick=50, faults=500, release=500)):
        chance = runs.random(run)
        window_s = chance.choice([0.0, 30.0, 120.0])
        with world(window_s=window_s, watched=window_s == 0 and chance.random() < 0.5) as made:
            made.cloud.lag_s = window_s * chance.random() * 0.95
            uids = [f"p{number}" for number in range(chance.randint(1, 4))]
            made.cloud.outcomes = [chance.choice(["lost after", "lost before", "ok"]) for _ in uids]
            lost_after = made.cloud.outcomes.count("lost after")
            for uid in uids:
                made.cluster.bind(uid)
                made.pass_time(chance.choice([0.0, 0.02, 1.0]))
            if chance.random() < 0.3:
                made.restart()
            # A create that did happen is found; one that did not is sent again once that is certain.
            made.pass_time(2 * window_s + 60)
            assert made.cloud.live() == uids
            assert len(made.cloud.created) <= len(uids) + len(uids) - lost_after
            assert made.cloud.removed == []


@pytest.mark.requirement("R06")
def test_lists_that_fail_lie_or_lack_items_delete_nothing(runs):
    for run in range(runs.scale(quick=50, faults=500, release=500)):
        chance = runs.random(run)
        with world(watched=chance.random() < 0.5) as made:
            uids = [f"p{number}" for number in range(chance.randint(11, 30))]
            for uid in uids:
                made.cluster.bind(uid)
            made.pass_time(30)
            for uid in uids:
                made.cluster.show_running(uid)
            faults = ["fail", "fail cloud", "lose", "lie", "cloud lies", "restart", "heal"]
            for _ in range(6):
                match chance.choice(faults):
                    case "fail":
                        made.cluster.list_fails = True
                    case "fail cloud":
                        made.cloud.list_fails = True
                    case "lose":
                        for uid in chance.sample(uids, chance.randint(1, len(uids))):
                            made.cluster.lose(uid)
                    case "lie":
                        # More than the brake lets pass: one false list is not believed.
                        for uid in uids:
                            made.cluster.lose(uid)
                        made.cluster.lies = 1
                        made.pass_time(70)
                        made.cluster.lies = 0
                    case "cloud lies":
                        # Once: two lies with no true listing in between cannot be told from a loss.
                        faults.remove("cloud lies")
                        made.cloud.lies_until_s = made.loop.time() + chance.uniform(0, knowledge.LOST_LOOK_S)
                    case "restart":
                        made.restart()
                    case _:
                        made.cluster.list_fails = made.cloud.list_fails = False
                made.pass_time(chance.choice([0.01, 1.0, 70.0]))
            made.cluster.list_fails = made.cloud.list_fails = False
            made.cluster.heal()
            made.pass_time(SETTLED_S)
            assert made.cloud.removed == []
            assert made.cloud.live() == sorted(uids)
            assert {pod.status.phase for pod in made.cluster.pods.values()} == {"Running"}


@pytest.mark.requirement("R10")
def test_a_cloud_that_lags_misleads_nobody(runs):
    for run in range(runs.scale(quick=50, faults=1000, release=1000)):
        chance = runs.random(run)
        with world(window_s=120.0, watched=False) as made:
            count = 0
            for _ in range(8):
                made.cloud.lag_s = chance.uniform(0, 119)
                known = sorted(made.cluster.pods)
                match chance.choice(["bind", "bind", "delete", "force", "restart", "lost", "pass"]):
                    case "bind":
                        count += 1
                        made.cluster.bind(f"p{count:02}", name=f"web-{count % 3}")
                    case "delete" if known:
                        made.cluster.ask_deletion(chance.choice(known))
                    case "force" if known:
                        made.cluster.force_delete(chance.choice(known))
                    case "restart":
                        made.restart()
                    case "lost":
                        made.cloud.outcomes = [chance.choice(["lost before", "lost after"])]
                    case _:
                        pass
                made.pass_time(chance.choice([0.0, 0.03, 2.0, 60.0, 130.0]))
            made.cloud.outcomes = []
            made.pass_time(4 * SETTLED_S)
            assert_as_wanted(made)
            assert "Failed" not in {pod.status.phase for pod in made.cluster.pods.values()}


@pytest.mark.requirement("R12")
def test_a_day_without_the_provider_loses_no_pod(runs):
    with world(retries=None) as made:
        uids = [f"p{number:02}" for number in range(runs.scale(quick=10, faults=50, release=100))]
        made.cloud.outcomes = ["later"] * 100_000
        for uid in uids:
            made.cluster.bind(uid)
        made.pass_time(600)
        first = uids[0]
        assert made.cluster.pods[first].status.reason == "QuotaExceeded"
        assert [condition.type for condition in made.cluster.pods[first].status.conditions] == [
            pods.CONDITION
        ]
        assert made.cluster.events.count((first, "QuotaExceeded")) == 1
        sent = len(made.cloud.created)
        made.cloud.list_fails = True
        made.pass_time(24 * 3600)
        # Never given up, and never more often than each few minutes.
        assert len(uids) * 24 * 12 * 0.9 <= len(made.cloud.created) - sent <= len(uids) * 24 * 12 * 12
        made.cluster.ask_deletion(uids.pop())
        made.cloud.outcomes, made.cloud.list_fails = [], False
        made.pass_time(400)
        assert made.cloud.live() == uids
        assert_as_wanted(made)


@pytest.mark.requirement("R12")
@pytest.mark.parametrize("failures", [1, 4, 5])
def test_a_create_that_failed_five_times_is_told_on_the_pod_and_a_blip_is_not(failures):
    with world() as made:
        made.cloud.outcomes = ["later"] * failures
        made.cluster.bind("a")
        made.pass_time(60)
        assert made.cluster.events.count(("a", "QuotaExceeded")) == (failures == 5)
        assert made.cloud.live() == ["a"]


@pytest.mark.requirement("R12")
def test_three_of_ten_that_fail_keep_no_other_waiting_and_come_when_they_can():
    with world() as made:
        uids = [f"p{number}" for number in range(10)]
        failing = set(uids[2:9:3])
        made.cloud.failing_uids = set(failing)
        for uid in uids:
            made.cluster.bind(uid)
        made.pass_time(1)
        assert made.cloud.live() == sorted(set(uids) - failing)
        made.pass_time(3600)
        # Each is told by itself, once, and the others know nothing of it.
        told = [event for event in made.cluster.events if event[1] != "InstanceCreated"]
        assert sorted(told) == [(uid, "QuotaExceeded") for uid in sorted(failing)]
        assert {uid for uid, pod in made.cluster.pods.items() if pod.status.conditions} == failing
        assert set(made.cloud.created[len(uids) :]) == failing
        made.cloud.failing_uids.clear()
        made.pass_time(SETTLED_S)
        assert made.cloud.live() == uids
        assert_as_wanted(made)


@pytest.mark.requirement("R12")
def test_an_instance_that_cannot_be_removed_is_told_once_and_removed_in_the_end():
    with world() as made:
        made.cluster.bind("a")
        made.pass_time(10)
        made.cloud.removal_fails = True
        made.cluster.ask_deletion("a")
        made.pass_time(3600)
        assert made.cluster.events.count(("a", "InstanceNotRemoved")) == 1
        assert made.cloud.live() == ["a"]
        made.cloud.removal_fails = False
        made.pass_time(600)
        assert made.cloud.live() == []
        assert made.cluster.pods == {}


EVENTS = ("delete", "force", "restart", "lost after", "lost before", "lose", "end", "list fails")


@pytest.mark.requirement("R14", "R20")
@pytest.mark.parametrize("watched", [True, False])
def test_every_order_of_four_events_ends_without_a_leak(runs, watched):
    """`delete` comes twice in some orders and before the create was answered in others."""
    orders = [
        order
        for order in itertools.permutations((*EVENTS, "delete"), 4)
        if "delete" in order or "force" in order
    ]
    chance = runs.random()
    gaps_s = (0.0, 0.03, 70.0)
    quick = runs.scale(quick=150, faults=len(orders), release=len(orders))
    for order in chance.sample(orders, quick):
        with world(window_s=0.0 if watched else 30.0, watched=watched) as made:
            made.cloud.outcomes = [event for event in order if event.startswith("lost")]
            made.cluster.bind("a")
            for event in order:
                made.pass_time(chance.choice(gaps_s))
                happen(made, event)
            made.cloud.list_fails = False
            made.cluster.heal()
            made.pass_time(SETTLED_S)
            assert made.cloud.live() == [], order
            assert made.cluster.pods == {}, order


def happen(made, event):
    match event:
        case "delete" if "a" in made.cluster.pods:
            made.cluster.ask_deletion("a")
        case "force" if "a" in made.cluster.pods:
            made.cluster.force_delete("a")
        case "restart":
            made.restart()
        case "lose":
            made.cluster.lose("a")
        case "end":
            made.cloud.end("a")
        case "list fails":
            made.cloud.list_fails = True
        case _:
            pass


@pytest.mark.requirement("R18")
@pytest.mark.parametrize("away_s", [5, 45, 600])
def test_what_was_deleted_while_the_node_was_away_is_gone_within_a_minute_and_nothing_else(away_s):
    with world() as made:
        for uid in ("kept", "deleted", "asked"):
            made.cluster.bind(uid)
        made.pass_time(5)
        made.kill()
        made.cluster.force_delete("deleted")
        made.cluster.ask_deletion("asked")
        made.pass_time(away_s)
        assert made.cloud.live() == ["asked", "deleted", "kept"]
        made.restart()
        made.pass_time(60)
        assert made.cloud.live() == ["kept"]
        assert_as_wanted(made)


@pytest.mark.requirement("R18")
def test_a_lost_delete_event_costs_an_orphan_at_most_a_minute():
    with world() as made:
        made.cluster.bind("a")
        made.pass_time(5)
        # The pod is gone, and all that the copy of the pods ever learns is that a list lacks it.
        made.cluster.pods.pop("a")
        made.cluster.lose("a")
        made.pass_time(pod_controller.SWEEP_INTERVAL_S)
        assert made.cloud.live() == []


@pytest.mark.requirement("R18")
def test_an_instance_that_no_pod_ever_stood_for_goes_though_listings_fail_for_a_while():
    with world() as made:
        made.pass_time(5)
        made.cloud.plant("orphan")
        made.cloud.list_fails = made.cluster.list_fails = True
        made.pass_time(300)
        assert made.cloud.live() == ["orphan"]
        made.cloud.list_fails = made.cluster.list_fails = False
        made.pass_time(pod_controller.SWEEP_INTERVAL_S + pod_controller.AWAY_PAUSE_S)
        assert made.cloud.live() == []


@pytest.mark.requirement("R19")
def test_a_name_used_five_times_never_mixes_its_pods(runs):
    for run in range(runs.scale(quick=20, faults=200, release=500)):
        chance = runs.random(run)
        with world(window_s=30.0, watched=False) as made:
            made.cloud.lag_s = chance.uniform(0, 29)
            for number in range(5):
                uid = f"u{number}"
                made.cluster.bind(uid, name="web")
                made.cloud.outcomes = [chance.choice(["ok", "lost after", "later", "refuse"])]
                made.pass_time(chance.choice([0.0, 0.03, 5.0, 70.0]))
                if number < 4:
                    # The next one comes while this one still ends.
                    (made.cluster.force_delete if chance.random() < 0.5 else made.cluster.ask_deletion)(uid)
            made.cloud.outcomes = []
            made.cluster.annotate("u4", tried="again")
            made.pass_time(4 * SETTLED_S)
            assert made.cloud.live() == ["u4"]
            assert list(made.cluster.pods) == ["u4"]


@pytest.mark.requirement("R20")
@pytest.mark.parametrize("when", ["pending", "creating", "running", "outage", "collected while away"])
def test_a_forced_deletion_ends_the_instance_within_a_minute_of_the_provider_being_back(when):
    with world(retries=None) as made:
        made.cluster.bind("kept")
        made.pass_time(5)
        made.cloud.outcomes = ["later"] * 3 if when == "pending" else []
        made.cluster.bind("a")
        made.pass_time({"pending": 0.5, "creating": 0.02}.get(when, 5))
        if when == "outage":
            made.cloud.list_fails = made.cloud.removal_fails = True
        if when == "collected while away":
            # The Node object vanished, and the control plane collected its pods.
            made.kill()
        made.cluster.force_delete("a")
        made.pass_time(600)
        made.cloud.list_fails = made.cloud.removal_fails = False
        if when == "collected while away":
            made.restart()
        made.pass_time(60)
        assert made.cloud.live() == ["kept"]


@pytest.mark.requirement("R22")
def test_a_restart_writes_nothing_about_pods_that_run():
    with world() as made:
        for number in range(10):
            made.cluster.bind(f"p{number}")
        made.pass_time(5)
        for number in range(10):
            made.cloud.set_phase(f"p{number}", provider.Phase.RUNNING)
        before = dict(made.cluster.pods)
        for _ in range(20):
            made.restart()
            made.pass_time(70)
        assert made.cluster.pods == before, "every write would have changed a version"
        assert made.cloud.removed == []
        assert len(made.cloud.created) == 10
