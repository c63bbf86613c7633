"""What is done about a pod follows from the pod and from what is known; each row is one situation."""

import datetime

import msgspec
import pytest
from fakes import vnode_world

from kci.kube import models
from kci.vnode import knowledge, pods, provider

ABSENT, PRESENT, UNKNOWN = knowledge.Belief.ABSENT, knowledge.Belief.PRESENT, knowledge.Belief.UNKNOWN
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ONE = provider.Instance(provider.InstanceId("i1"), models.PodUid("u"), provider.Phase.RUNNING, "1")
TWO = provider.Instance(provider.InstanceId("i2"), models.PodUid("u"), provider.Phase.PENDING, "2")
DEAD = provider.Instance(
    provider.InstanceId("i3"), models.PodUid("u"), provider.Phase.CREATE_FAILED, "3", "no"
)
REFUSAL = provider.Refusal("NotSupported", "spec.hostNetwork: use a pod network")
WANTED = vnode_world.pod("u")
LACKED = provider.Refusal("InvalidParameterValue", "no such subnet")


def changed(*, deleting=False, **status):
    meta = WANTED.metadata
    if deleting:
        meta = msgspec.structs.replace(meta, deletion_timestamp="2026-01-01T00:00:00Z")
    return msgspec.structs.replace(
        WANTED, metadata=meta, status=msgspec.structs.replace(WANTED.status, **status)
    )


def planned(pod, belief, *instances, gone=False, refusals=(), refused=None, retry_at_s=0.0, **known):
    return pods.plan(
        pod,
        knowledge.Known(belief, tuple(instances), **known),
        pod_is_gone=gone,
        refusals=refusals,
        refused=refused,
        retry_at_s=retry_at_s,
        now_s=100.0,
    )


def refused(until_s, fingerprint=None):
    return pods.Refused(LACKED, fingerprint or pods.fingerprint(WANTED), until_s)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (planned(WANTED, ABSENT), pods.Create()),
        (planned(WANTED, ABSENT, retry_at_s=101.0), pods.Wait(101.0)),
        (planned(WANTED, ABSENT, refusals=[REFUSAL]), pods.Refuse(REFUSAL)),
        (planned(WANTED, ABSENT, refused=refused(110.0)), pods.Refuse(LACKED, 110.0)),
        (planned(WANTED, ABSENT, refused=refused(100.0)), pods.Create()),
        (planned(WANTED, ABSENT, refused=refused(110.0, b"another")), pods.Create()),
        # Waiting does not help against what is wrong with the pod itself.
        (planned(WANTED, ABSENT, refusals=[REFUSAL], refused=refused(110.0)), pods.Refuse(REFUSAL)),
        (planned(WANTED, UNKNOWN), pods.Look()),
        (planned(WANTED, UNKNOWN, look_at_s=105.0), pods.Wait(105.0)),
        (planned(WANTED, UNKNOWN, look_at_s=100.0), pods.Look()),
        (planned(WANTED, PRESENT, ONE), pods.Nothing()),
        (planned(WANTED, PRESENT, ONE, TWO), pods.RemoveInstances((TWO.id,))),
        (planned(WANTED, PRESENT, DEAD), pods.Fail(provider.Refusal("CreateError", "no"))),
        (planned(changed(phase="Failed"), ABSENT), pods.Nothing()),
        (planned(changed(phase="Succeeded"), UNKNOWN), pods.Nothing()),
    ],
    ids=str,
)
def test_a_wanted_pod_is_created_once_its_absence_is_certain(action, expected):
    assert action == expected


def test_an_instance_just_created_is_the_newest_though_its_time_is_not_known_yet():
    known = knowledge.Knowledge()
    known.acknowledge(TWO.pod_uid, TWO.id, 9.0)
    known.apply(provider.Seen(ONE), window_s=0.0)
    assert [one.id for one in known.of(ONE.pod_uid, window_s=0.0).instances] == [ONE.id, TWO.id]


def test_of_two_instances_the_one_whose_removal_was_not_asked_for_stays():
    known = {"removals_s": {ONE.id: 99.0}}
    assert planned(WANTED, PRESENT, ONE, TWO, **known) == pods.Wait(99.0 + pods.RESEND_S)


@pytest.mark.parametrize("known", [{"existed": True}, {"status": {"start_time": "2026-01-01T00:00:00Z"}}])
def test_a_pod_whose_instance_is_certainly_lost_fails_and_is_not_created_again(known):
    status = known.pop("status", {})
    action = planned(changed(**status), ABSENT, **known)
    assert isinstance(action, pods.Fail)
    assert action.refusal.reason == "InstanceLost"


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (planned(changed(deleting=True), PRESENT, ONE), pods.RemoveInstances((ONE.id,))),
        (planned(changed(deleting=True), PRESENT, ONE, removals_s={ONE.id: 90.0}), pods.Wait(120.0)),
        (
            planned(changed(deleting=True), PRESENT, ONE, removals_s={ONE.id: 70.0}),
            pods.RemoveInstances((ONE.id,)),
        ),
        (
            planned(changed(deleting=True), PRESENT, ONE, removals_s={ONE.id: 99.0}, look_at_s=99.5),
            pods.Look(),
        ),
        (planned(changed(deleting=True), UNKNOWN), pods.Look()),
        # Nobody said how it ended, and somebody may wait for that.
        (planned(changed(deleting=True), ABSENT), pods.Fail()),
        (planned(changed(deleting=True, phase="Running"), ABSENT, existed=True), pods.Fail()),
        (planned(changed(deleting=True, phase="Failed"), ABSENT), pods.RemoveObject()),
        (planned(changed(deleting=True, phase="Succeeded"), ABSENT), pods.RemoveObject()),
        (planned(changed(deleting=True, phase="Failed"), PRESENT, ONE), pods.RemoveInstances((ONE.id,))),
        # A refused pod never had an instance.
        (planned(changed(deleting=True), ABSENT, refusals=[REFUSAL]), pods.Fail()),
        (planned(changed(deleting=True, phase="Failed"), ABSENT, refusals=[REFUSAL]), pods.RemoveObject()),
    ],
    ids=str,
)
def test_a_deleted_pod_leaves_the_api_only_after_its_instance(action, expected):
    assert action == expected


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (planned(None, PRESENT, ONE, gone=True), pods.RemoveInstances((ONE.id,))),
        (planned(None, PRESENT, ONE, gone=False), pods.Nothing()),
        (planned(None, UNKNOWN, gone=True), pods.Look()),
        (planned(None, ABSENT, gone=True), pods.Forget()),
    ],
    ids=str,
)
def test_an_instance_is_not_removed_because_its_pod_is_merely_missing(action, expected):
    assert action == expected


def test_a_refusal_is_said_once_and_taken_back_when_something_runs_the_pod():
    patch = pods.refused_patch(WANTED, REFUSAL, NOW)
    assert patch["metadata"] == {"uid": "u", "resourceVersion": "1"}
    assert patch["status"]["phase"] == "Pending"
    assert patch["status"]["reason"] == "NotSupported"
    said = changed(
        reason=REFUSAL.reason,
        message=REFUSAL.message,
        conditions=(
            models.PodCondition(
                type=pods.CONDITION, status="False", reason=REFUSAL.reason, message=REFUSAL.message
            ),
        ),
    )
    assert pods.refused_patch(said, REFUSAL, NOW) is None
    assert pods.refused_patch(said, provider.Refusal("Other", "x"), NOW) is not None
    assert planned(said, PRESENT, ONE) == pods.ClearStatus()
    assert pods.cleared_patch(said)["status"]["message"] is None


def test_the_kcilets_own_reason_is_not_taken_back():
    condition = models.PodCondition(type=pods.CONDITION, status="False", reason="NotSupported")
    pod = changed(reason="Evicted", conditions=(condition,))
    assert "reason" not in pods.cleared_patch(pod)["status"]


def test_a_lost_pod_shows_no_container_as_running_or_ready():
    ran = models.ContainerStatus(
        name="ran",
        ready=True,
        started=True,
        restart_count=3,
        container_id="containerd://1",
        state=models.ContainerState(running=models.ContainerStateRunning(started_at="2026-01-01T00:00:00Z")),
    )
    ended = models.ContainerStatus(
        name="ended", state=models.ContainerState(terminated=models.ContainerStateTerminated(exit_code=3))
    )
    patch = pods.failed_patch(changed(phase="Running", container_statuses=(ran, ended)), REFUSAL, NOW)
    lost, kept = patch["status"]["containerStatuses"]
    assert (lost["ready"], lost["restartCount"], lost["state"].get("running")) == (False, 3, None)
    end = lost["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (137, "ContainerStatusUnknown")
    assert (end["startedAt"], end["finishedAt"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
    assert kept["state"]["terminated"]["exitCode"] == 3
    assert "containerStatuses" not in pods.failed_patch(WANTED, REFUSAL, NOW)["status"]


def test_a_pod_that_is_deleted_before_it_ran_ends_and_keeps_what_it_says_of_why():
    waiting = models.ContainerStatus(
        name="c", state=models.ContainerState(waiting=models.ContainerStateWaiting(reason="ErrImagePull"))
    )
    deleted = changed(deleting=True, reason=REFUSAL.reason, message="x", container_statuses=(waiting,))
    status = pods.failed_patch(deleted, None, NOW)["status"]
    assert (status["phase"], status.keys() & {"reason", "message"}) == ("Failed", set())
    assert {(one["type"], one["status"], one["reason"]) for one in status["conditions"]} == {
        ("Ready", "False", "PodFailed"),
        ("ContainersReady", "False", "PodFailed"),
    }
    (told,) = status["containerStatuses"]
    assert told["state"]["terminated"]["reason"] == "ContainerStatusUnknown"


WAITS = models.ContainerState(waiting=models.ContainerStateWaiting(reason="PodInitializing"))
RUNS = models.ContainerState(running=models.ContainerStateRunning(started_at="2026-01-01T00:00:00Z"))
SUCCEEDED = models.ContainerState(terminated=models.ContainerStateTerminated(exit_code=0))
BROKE = models.ContainerState(terminated=models.ContainerStateTerminated(exit_code=1))


@pytest.mark.parametrize(
    ("init", "main", "sidecar", "left_waiting"),
    [
        ([], WAITS, False, ["c"]),
        ([WAITS, WAITS], WAITS, False, ["i1", "c"]),
        ([SUCCEEDED, RUNS], WAITS, False, ["c"]),
        ([SUCCEEDED, BROKE], WAITS, False, ["c"]),
        ([SUCCEEDED, SUCCEEDED], WAITS, False, []),
        ([SUCCEEDED, RUNS], WAITS, True, []),
        ([SUCCEEDED, SUCCEEDED], RUNS, False, []),
    ],
)
def test_of_a_pod_cut_off_within_its_start_only_what_had_its_turn_has_ended(
    init, main, sidecar, left_waiting
):
    policy = "Always" if sidecar else None
    spec = msgspec.structs.replace(
        WANTED.spec,
        init_containers=(
            models.Container(name="i0"),
            models.Container(name="i1", restart_policy=policy),
        ),
    )
    begun = changed(
        init_container_statuses=tuple(
            models.ContainerStatus(name=f"i{number}", state=state, started=True)
            for number, state in enumerate(init)
        ),
        container_statuses=(models.ContainerStatus(name="c", state=main),),
    )
    status = pods.failed_patch(msgspec.structs.replace(begun, spec=spec), REFUSAL, NOW)["status"]
    told = [*status.get("initContainerStatuses", ()), *status["containerStatuses"]]
    assert [one["name"] for one in told if one["state"].get("waiting")] == left_waiting
    assert [one["name"] for one in told if one["state"].get("running")] == []


class TestKnowledge:
    """Absence takes a positive word, or two whole listings far enough apart."""

    def listing(self, began_s, *instances):
        return provider.Listing(began_s, instances)

    def belief(self, known, window_s):
        return known.of(models.PodUid("u"), window_s=window_s).belief

    def test_a_doubtful_create_is_settled_by_two_misses_separated_by_the_window(self):
        known = knowledge.Knowledge()
        known.doubt(ONE.pod_uid, 10.0)
        for began_s, belief in (
            (9.0, UNKNOWN),
            (11.0, UNKNOWN),
            (12.0, UNKNOWN),
            (130.0, UNKNOWN),
            (131.0, ABSENT),
        ):
            known.apply(self.listing(began_s), window_s=120.0)
            assert self.belief(known, 120.0) is belief, began_s

    @pytest.mark.requirement("R06")
    @pytest.mark.parametrize("window_s", [0.0, 10.0, 120.0])
    @pytest.mark.parametrize("since_when", ["seen", "acknowledged", "before this process"])
    def test_what_ran_is_not_lost_by_two_bad_listings_within_a_short_time(self, since_when, window_s):
        known = knowledge.Knowledge()
        match since_when:
            case "seen":
                known.apply(provider.Seen(ONE), window_s=window_s)
            case "acknowledged":
                known.acknowledge(ONE.pod_uid, ONE.id, 9.0)
            case _:
                known.doubt(ONE.pod_uid, 9.0, has_run=True)
        settled_s = 10.0 + max(window_s, knowledge.LOST_LOOK_S)
        for began_s in (10.0, 10.1, 11.0, settled_s - 0.1):
            known.apply(self.listing(began_s), window_s=window_s)
            assert self.belief(known, window_s) is not ABSENT, began_s
        assert known.of(ONE.pod_uid, window_s=window_s).look_at_s == settled_s
        known.apply(self.listing(settled_s), window_s=window_s)
        assert self.belief(known, window_s) is ABSENT

    def test_a_listing_begun_while_a_create_is_under_way_settles_nothing(self):
        known = knowledge.Knowledge()
        known.doubt(ONE.pod_uid, float("inf"))
        for began_s in (11.0, 200.0, 400.0):
            known.apply(self.listing(began_s), window_s=0.0)
        assert self.belief(known, 0.0) is UNKNOWN

    def test_a_found_instance_ends_the_doubt(self):
        known = knowledge.Knowledge()
        known.doubt(ONE.pod_uid, 10.0)
        assert known.apply(provider.Seen(ONE), window_s=120.0) == {"u"}
        assert self.belief(known, 120.0) is PRESENT

    def test_an_instance_is_gone_at_once_when_the_provider_says_so(self):
        known = knowledge.Knowledge()
        known.acknowledge(ONE.pod_uid, ONE.id, 10.0)
        known.apply(provider.Gone(ONE.id, ONE.pod_uid), window_s=120.0)
        assert self.belief(known, 120.0) is ABSENT
        assert known.of(ONE.pod_uid, window_s=120.0).existed

    def test_an_instance_that_reappears_was_never_gone(self):
        known = knowledge.Knowledge()
        known.apply(provider.Seen(ONE), window_s=120.0)
        for began_s, found in ((10.0, ()), (100.0, (ONE,)), (140.0, ()), (150.0, ())):
            known.apply(self.listing(began_s, *found), window_s=120.0)
        assert self.belief(known, 120.0) is PRESENT

    def test_after_a_removal_a_short_second_look_is_enough(self):
        known = knowledge.Knowledge()
        known.apply(provider.Seen(ONE), window_s=120.0)
        known.removal_sent(ONE.pod_uid, ONE.id, 10.0)
        known.apply(self.listing(11.0), window_s=120.0)
        assert self.belief(known, 120.0) is PRESENT
        known.apply(self.listing(12.0), window_s=120.0)
        assert self.belief(known, 120.0) is ABSENT

    @pytest.mark.parametrize(
        ("orphans", "listed", "brake"), [(10, 10, False), (11, 11, True), (11, 55, False), (12, 55, True)]
    )
    def test_many_orphans_at_once_are_doubted(self, orphans, listed, brake):
        assert knowledge.needs_brake(orphans, listed) is brake
