"""Each invariant passes on what is right, and catches the violation it is there for."""

import json

import checker
import history as histories
import pytest

NODE = "system:node:virtual-kubelet"
UID = "uid-1"
PRECONDITION = {"preconditions": {"uid": UID}}


def write(
    at_s, verb="patch", *, user=NODE, subresource="status", uid=UID, body=None, resource="pods", **answer
):
    return histories.Write(
        at_s=at_s,
        verb=verb,
        resource=resource,
        subresource=subresource,
        namespace="default",
        name="web",
        user=user,
        code=200,
        body={"metadata": {"uid": uid}} if body is None else body,
        answer={
            "metadata": {"uid": uid, "resourceVersion": str(int(at_s * 10)), **answer.pop("meta", {})},
            **answer,
        },
    )


def asked_to_delete(at_s, **more):
    return write(at_s, "delete", user="admin", subresource="", body={}, **more)


def removed(at_s, body=PRECONDITION):
    return write(at_s, "delete", subresource="", body=body)


def group(group_id="g1", uid=UID, deleted_at_s=None):
    lifecycle = "deleted" if deleted_at_s else "wanted"
    return histories.Group(group_id, uid, lifecycle, 1.0, deleted_at_s, cpu_milli=1000, memory_mib=512)


def began(at_s, container_id, container="", uid=UID):
    return histories.Task(at_s, is_start=True, container_id=container_id, pod_uid=uid, container=container)


def ended(at_s, container_id, container="", exit_code=0, uid=UID):
    return histories.Task(at_s, False, container_id, uid, container, exit_code)


def status(at_s, **status):
    return write(at_s, status=status)


def told(at_s, *, identity="g1", size="1-0.5Gi", user=NODE, **status):
    """A status of a pod that has an instance."""
    annotations = {checker.INSTANCE_ID: identity, checker.INSTANCE_SPEC: size}
    return write(at_s, user=user, meta={"annotations": annotations}, status=status)


def container(restarts=0, identity="c1", state="running"):
    return {"name": "main", "restartCount": restarts, "containerID": identity, "state": {state: {}}}


def away(begun_s, ended_s):
    return [
        histories.Note(begun_s, "away", "kube-apiserver"),
        histories.Note(ended_s, "back", "kube-apiserver"),
    ]


INIT = {"name": "init", "state": {"running": {}}}
RIGHT = histories.History(
    writes=[
        write(1, "create", user="admin", subresource="", body={}, status={"phase": "Pending"}),
        write(2, meta={"annotations": {checker.INSTANCE_ID: "g1"}}, status={"phase": "Pending"}),
        told(3, phase="Running", podIP="10.0.0.2", startTime="t", containerStatuses=[container()]),
        told(4, phase="Running", podIP="10.0.0.2", startTime="t", containerStatuses=[container(1, "c2")]),
        told(5, phase="Pending", podIP="10.0.0.2", startTime="t", initContainerStatuses=[INIT]),
        asked_to_delete(10),
        removed(12),
    ],
    groups=[group(deleted_at_s=11)],
    tasks=[
        began(1, "s1"),
        began(2, "c1", "main"),
        ended(3, "c1", "main", 1),
        began(4, "c2", "main"),
        ended(10.5, "c2", "main", 143),
        ended(10.6, "s1", exit_code=137),
    ],
    notes=away(5, 12),
)


def test_what_is_right_passes():
    assert checker.check(RIGHT) == []


WRONG = {
    "I1 one instance for each UID": [
        histories.History(tasks=[began(1, "s1"), began(2, "s2")]),
        histories.History(groups=[group("g1"), group("g2")]),
    ],
    "I1 one container at a time": [histories.History(tasks=[began(1, "c1", "main"), began(2, "c2", "main")])],
    "I1 epochs only grow": [
        histories.History(
            writes=[
                write(at, resource="leases", subresource="", spec={"leaseTransitions": 3 - at})
                for at in (1, 2)
            ]
        )
    ],
    "I2 deletes have evidence": [
        histories.History(writes=[told(1, phase="Running")], groups=[group(deleted_at_s=5)]),
        histories.History(
            writes=[told(1, phase="Running"), asked_to_delete(9)], groups=[group(deleted_at_s=5)]
        ),
        histories.History(writes=[removed(5)]),
        histories.History(writes=[asked_to_delete(1), removed(5, body={})]),
    ],
    "I3 acknowledged groups stay": [
        histories.History(writes=[write(1, meta={"annotations": {checker.INSTANCE_ID: "lost"}})]),
        histories.History(
            writes=[write(1, meta={"annotations": {checker.INSTANCE_ID: "g1"}})],
            groups=[group(uid="another")],
        ),
    ],
    "I3 running pods tell their instance": [
        histories.History(writes=[status(1, phase="Running")], groups=[group()]),
        histories.History(writes=[told(1, size="2-4Gi", phase="Running")], groups=[group()]),
        histories.History(
            writes=[told(1, phase="Running"), told(2, size="", phase="Running")], groups=[group()]
        ),
    ],
    "I3 objects go last": [
        histories.History(writes=[asked_to_delete(1), removed(5)], groups=[group()]),
        histories.History(writes=[asked_to_delete(1), removed(5)], groups=[group(deleted_at_s=7)]),
    ],
    "I4 statuses go forward": [
        histories.History(writes=[status(1, phase="Running"), status(2, phase="Pending")]),
        histories.History(writes=[status(1, phase="Failed"), status(2, phase="Running")]),
        histories.History(writes=[status(1, startTime="a"), status(2, startTime="b")]),
        histories.History(writes=[status(1, podIP="10.0.0.2"), status(2, podIP="10.0.0.3")]),
        histories.History(
            writes=[status(1, containerStatuses=[container(2)]), status(2, containerStatuses=[container(1)])]
        ),
        histories.History(
            writes=[
                status(1, containerStatuses=[container(state="terminated")]),
                status(2, containerStatuses=[container(state="running")]),
            ]
        ),
    ],
    "I4 status writes name their pod": [
        histories.History(writes=[write(1, body={"status": {}})]),
        histories.History(writes=[write(1, body={"metadata": {"uid": "another"}})]),
    ],
    "I7 workloads outlive their control plane": [
        histories.History(tasks=[ended(6, "c1", "main", 137)], notes=away(5, 9)),
        histories.History(tasks=[began(2, "c1", "main"), ended(6, "c1", "main", 137)], notes=away(5, 9)),
        # Told to end: no start is taken back so.
        histories.History(tasks=[began(4.9, "c1", "main"), ended(6, "c1", "main", 143)], notes=away(5, 9)),
    ],
    "I8 writes are bounded": [histories.History(writes=[status(at / 20) for at in range(100)])],
}


@pytest.mark.parametrize(
    ("name", "wrong"), [(name, wrong) for name, several in WRONG.items() for wrong in several]
)
def test_each_invariant_catches_its_violation_and_no_other_does(name, wrong):
    assert {problem.split(":")[0] for problem in checker.check(wrong)} == {name}


def test_every_invariant_has_a_violation_here():
    assert WRONG.keys() == checker.INVARIANTS.keys()


def test_what_others_write_over_a_pods_instance_is_not_the_lines():
    overwritten = [told(1, phase="Running"), told(2, user="admin", size="much", phase="Running")]
    assert checker.check(histories.History(writes=overwritten, groups=[group()])) == []


def test_a_kill_by_the_harness_is_not_the_lines():
    killed = histories.History(
        tasks=[ended(6, "c1", "main", 137)], notes=[*away(5, 9), histories.Note(5.9, "killed", "shim")]
    )
    assert checker.check(killed) == []


def test_a_start_that_nobody_was_told_of_is_taken_back():
    taken_back = histories.History(
        tasks=[began(4.9, "c1", "main"), ended(5.1, "c1", "main", 137)], notes=away(5, 9)
    )
    assert checker.check(taken_back) == []


def test_what_ran_when_the_machine_was_switched_off_has_ended():
    tasks = [began(1, "s1"), began(2, "c1", "main"), began(8, "s2"), began(9, "c2", "main")]
    assert checker.check(histories.History(tasks=tasks, notes=[histories.Note(5, "off")])) == []
    assert len(checker.check(histories.History(tasks=tasks, notes=[histories.Note(15, "off")]))) == 2


def test_an_eviction_asks_for_a_deletion():
    evicted = histories.History(
        writes=[
            status(1, phase="Running"),
            write(2, "create", user="drainer", subresource="eviction", uid="", body={}),
            removed(3),
        ]
    )
    assert checker.check(evicted) == []


def test_the_audit_log_is_read_up_to_its_last_whole_line(tmp_path):
    event = {
        "verb": "patch",
        "stageTimestamp": "2026-01-02T03:04:05.678901Z",
        "user": {"username": NODE},
        "objectRef": {"resource": "pods", "subresource": "status", "namespace": "default", "name": "web"},
        "responseStatus": {"code": 200},
        "requestObject": {"metadata": {"uid": UID}},
        "responseObject": {"kind": "Pod", "metadata": {"uid": UID, "resourceVersion": "7"}},
    }
    log = tmp_path / "audit.jsonl"
    log.write_text(json.dumps(event) + "\n" + json.dumps(event)[:40])
    audit = histories.AuditLog(log)
    (read,) = audit.read()
    assert (read.uid, read.version, read.user, read.is_done) == (UID, 7, NODE, True)
    with log.open("a") as file:
        file.write(json.dumps(event)[40:] + "\n")
    assert audit.read() == [read, read]
    # What stands there besides.
    for change in (
        {"verb": "get"},
        {"verb": "watch", "objectRef": {"resource": "pods"}},
        {"verb": "create", "objectRef": {"resource": "serviceaccounts", "subresource": "token"}},
        {"objectRef": None},
    ):
        log.write_text(json.dumps(event | change) + "\n")
        assert histories.AuditLog(log).read() == []
    stream = {"verb": "get", "objectRef": {"resource": "pods", "subresource": "log"}}
    log.write_text(json.dumps(event | stream) + "\n")
    assert len(histories.AuditLog(log).read()) == 1
    assert histories.AuditLog(tmp_path / "none").read() == []


def test_events_of_the_runtime_are_read_and_others_are_not():
    line = (
        "2026-11-23 21:42:23.560994488 +0000 UTC k8s.io /tasks/exit "
        '{"container_id":"c","id":"c","pid":22070,"exit_status":137}\n'
    )
    at_s, topic, body = histories.to_runtime_event(line)
    assert (round(at_s % 60, 2), topic, body["exit_status"]) == (23.56, "/tasks/exit", 137)
    assert histories.to_runtime_event(line.replace("k8s.io", "moby")) is None
    assert histories.to_runtime_event("nonsense") is None
