"""The invariants, each a plain function from a history to what is wrong with it in words.

I1 at most one live instance for a pod's UID      I2 no delete without evidence
I3 what was acknowledged stays, and is told       I4 a status never goes backwards, never crosses UIDs
I7 workloads go on while a control plane is away  I8 nothing is tried without bound

Shown elsewhere: I5 (another tenant's object looks like a missing one) needs two tenants, which the line does
not have, so the service's own tests do; I6 (no secret anywhere) is canaries.py; of I1 that an instance which
is not wanted ends, and of I8 that nothing grows, is leaks.py; of I7 that authorization fails closed is R50.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import history as histories

INSTANCE_ID = "k8s.ksyun.com/kci-instance-id"
INSTANCE_SPEC = "k8s.ksyun.com/kci-instance-spec"
NODE_USER = "system:node:"
TERMINAL = frozenset({"Succeeded", "Failed"})
KILLED = frozenset({137, 143})
TAKEN_BACK = 137
# Two accounts of one moment may differ by this, as their clocks are read at different places.
TOLERANCE_S = 0.5
# The runtime takes back a start whose asker is gone before it had its answer, and an asker that is killed is
# gone at once. On a busy machine the answer comes this long after the process.
START_S = 2.0
# More writes than this to one object within the window is a loop without back-off.
WINDOW_S = 10.0
WRITES_IN_WINDOW = 60

Invariant = Callable[[histories.History], Iterator[str]]


def check(history: histories.History) -> list[str]:
    """Everything that is wrong, each with the name of its invariant."""
    return [f"{name}: {problem}" for name, invariant in INVARIANTS.items() for problem in invariant(history)]


def one_instance_for_each_uid(history: histories.History) -> Iterator[str]:
    """By the runtime's own account, and by the service's."""
    for tasks in _lives(history):
        live: dict[str, set[str]] = collections.defaultdict(set)
        for task in tasks:
            if task.container or not task.pod_uid:
                continue
            if task.is_start:
                live[task.pod_uid].add(task.container_id)
                if len(live[task.pod_uid]) > 1:
                    yield f"pod {task.pod_uid} has sandboxes {sorted(live[task.pod_uid])} at {task.at_s:.3f}"
            else:
                live[task.pod_uid].discard(task.container_id)
    groups = collections.Counter(group.pod_uid for group in history.groups if group.pod_uid)
    for uid, count in groups.items():
        if count > 1:
            yield f"pod {uid} was given {count} groups"


def one_container_at_a_time(history: histories.History) -> Iterator[str]:
    """Two attempts of one container never run beside each other."""
    for tasks in _lives(history):
        live: dict[tuple[str, str], str] = {}
        for task in tasks:
            key = (task.pod_uid, task.container)
            if not task.container or not task.pod_uid:
                continue
            if task.is_start:
                if key in live:
                    yield f"container {task.container} of pod {task.pod_uid} runs twice at {task.at_s:.3f}"
                live[key] = task.container_id
            elif live.get(key) == task.container_id:
                del live[key]


def epochs_only_grow(history: histories.History) -> Iterator[str]:
    """A Lease's transitions are the epoch that the service fences by: they never fall. A Lease that was made
    anew begins anew, and its holder goes past what the service has seen before it may write.
    """
    last: dict[str, int] = {}
    for write in sorted(history.writes, key=lambda one: one.version):
        if write.resource != "leases" or not write.is_done or not write.answer:
            continue
        epoch = int(write.answer.get("spec", {}).get("leaseTransitions") or 0)
        if epoch < last.get(write.uid, 0):
            yield f"the Lease {write.name} went from epoch {last[write.uid]} to {epoch}"
        last[write.uid] = epoch


def deletes_have_evidence(history: histories.History) -> Iterator[str]:
    """A group goes, and the node removes a pod's object, only after somebody asked for the pod's deletion."""
    asked = _asked_deletions(history)
    for write in history.writes:
        if not _is_delete(write) or not write.user.startswith(NODE_USER):
            continue
        if (uid := _precondition(write)) and asked.get(uid, float("inf")) > write.at_s + TOLERANCE_S:
            yield f"the node removed pod {write.name} ({uid}), whose deletion nobody asked for"
        elif not uid:
            yield f"the node removed pod {write.namespace}/{write.name} without its UID as a precondition"
    known = history.pods()
    for group in history.groups:
        if group.deleted_at_s is None or group.pod_uid not in known:
            continue
        if asked.get(group.pod_uid, float("inf")) > group.deleted_at_s + TOLERANCE_S:
            yield f"group {group.group_id} was deleted, and nobody asked for that of pod {group.pod_uid}"


def acknowledged_groups_stay(history: histories.History) -> Iterator[str]:
    """An instance id that ever stood on a pod is a group that the store knows, for that pod."""
    owners = {group.group_id: group.pod_uid for group in history.groups}
    told: set[tuple[str, str]] = set()
    for uid, writes in history.pods().items():
        for write in writes:
            instance = _annotations(write).get(INSTANCE_ID)
            if instance and write.user == NODE_USER + history.node:
                told.add((instance, uid))
    for instance, uid in sorted(told):
        if instance not in owners:
            yield f"pod {uid} was told the group {instance}, which the store does not know"
        elif owners[instance] and owners[instance] != uid:
            yield f"pod {uid} was told the group {instance} of pod {owners[instance]}"


def running_pods_tell_their_instance(history: histories.History) -> Iterator[str]:
    """By the annotations of the last write to a pod, if it is the instance's own word that the pod runs. What
    somebody else writes over them counts for nothing here: it is repaired by the next write.
    """
    groups = {group.pod_uid: group for group in history.groups}
    for uid, writes in history.pods().items():
        last, group = writes[-1], groups.get(uid)
        runs = last.answer.get("status", {}).get("phase") == "Running" and last.verb != "delete"
        if group is None or not runs or last.user != NODE_USER + history.node:
            continue
        size = f"{group.cpu_milli / 1000:g}-{group.memory_mib / 1024:g}Gi"
        told = [_annotations(last).get(key) for key in (INSTANCE_ID, INSTANCE_SPEC)]
        if told != [group.group_id, size]:
            yield f"pod {uid} ({last.name}) runs as {group.group_id} {size}, and says {told}"


def objects_go_last(history: histories.History) -> Iterator[str]:
    """The node removes a pod's object once the service has confirmed that nothing of it is left, not before:
    an object that is gone tells everybody that its processes, its address and its volumes are free.
    """
    groups = {group.pod_uid: group for group in history.groups}
    for write in history.writes:
        if not _is_delete(write) or not write.user.startswith(NODE_USER):
            continue
        group = groups.get(_precondition(write))
        if group and (group.deleted_at_s is None or group.deleted_at_s > write.at_s + TOLERANCE_S):
            yield f"the node removed pod {write.name} ({group.pod_uid}) before its group {group.group_id}"


def statuses_go_forward(history: histories.History) -> Iterator[str]:
    for uid, writes in history.pods().items():
        before: Mapping[str, Any] = {}
        for write in writes:
            if write.verb == "delete":
                continue
            status = write.answer.get("status", {})
            yield from (f"pod {uid} ({write.name}): {what}" for what in _steps_back(before, status))
            before = status


def status_writes_name_their_pod(history: histories.History) -> Iterator[str]:
    """The UID in the body of a status patch is its precondition."""
    for write in history.writes:
        ours = write.user.startswith(NODE_USER) and write.subresource == "status" and write.resource == "pods"
        if not ours or not write.is_done:
            continue
        named = write.body.get("metadata", {}).get("uid")
        if not named:
            yield f"a status of pod {write.namespace}/{write.name} was written without its UID"
        elif write.uid and named != write.uid:
            yield f"a status of pod {named} was written to pod {write.uid} ({write.namespace}/{write.name})"


def workloads_outlive_their_control_plane(history: histories.History) -> Iterator[str]:
    """While a part was away nobody's containers were told to end (or killed: the harness' pods exit with 143
    when told), but those whose end was asked for before, and those whose start nobody had been told of yet:
    the runtime takes such a start back. Sandboxes are not looked at: that of a finished pod is stopped at any
    time, and none can be stopped without the containers in it.
    """
    asked = _asked_deletions(history)
    started_s = {task.container_id: task.at_s for task in history.tasks if task.is_start}
    killed_s = [note.at_s for note in history.notes if note.kind == "killed"]
    for what, begun_s, ended_s in histories.spans(history):
        for task in history.tasks:
            is_killed = not task.is_start and task.exit_code in KILLED and task.pod_uid and task.container
            if not is_killed or not begun_s < task.at_s < ended_s:
                continue
            if started_s.get(task.container_id, 0.0) > begun_s - START_S and task.exit_code == TAKEN_BACK:
                continue
            by_harness = any(at_s - TOLERANCE_S <= task.at_s <= at_s + 30 for at_s in killed_s)
            if asked.get(task.pod_uid, float("inf")) > task.at_s + TOLERANCE_S and not by_harness:
                after_s = task.at_s - begun_s
                yield (
                    f"while {what} was away, {task.container} of pod {task.pod_uid} was killed"
                    f" ({task.exit_code}, {after_s:.2f} s after it went)"
                )


def writes_are_bounded(history: histories.History) -> Iterator[str]:
    recent: dict[tuple[str, ...], collections.deque[float]] = collections.defaultdict(collections.deque)
    told = set()
    for write in history.writes:
        if not write.user.startswith(NODE_USER):
            continue
        key = (write.user, write.verb, write.resource, write.subresource, write.namespace, write.name)
        window = recent[key]
        window.append(write.at_s)
        while window[0] < write.at_s - WINDOW_S:
            window.popleft()
        if len(window) > WRITES_IN_WINDOW and key not in told:
            told.add(key)
            yield f"{' '.join(key)}: more than {WRITES_IN_WINDOW} writes in {WINDOW_S:g} s"


INVARIANTS: Mapping[str, Invariant] = {
    "I1 one instance for each UID": one_instance_for_each_uid,
    "I1 one container at a time": one_container_at_a_time,
    "I1 epochs only grow": epochs_only_grow,
    "I2 deletes have evidence": deletes_have_evidence,
    "I3 acknowledged groups stay": acknowledged_groups_stay,
    "I3 running pods tell their instance": running_pods_tell_their_instance,
    "I3 objects go last": objects_go_last,
    "I4 statuses go forward": statuses_go_forward,
    "I4 status writes name their pod": status_writes_name_their_pod,
    "I7 workloads outlive their control plane": workloads_outlive_their_control_plane,
    "I8 writes are bounded": writes_are_bounded,
}


def _lives(history: histories.History) -> Iterator[list[histories.Task]]:
    """The runtime's account, parted where the machine was off: everything ended there, and nobody told."""
    moments = [note.at_s for note in history.notes if note.kind == "off"]
    edges = [float("-inf"), *moments, float("inf")]
    for begun_s, ended_s in itertools.pairwise(edges):
        yield [task for task in history.tasks if begun_s <= task.at_s < ended_s]


def _steps_back(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What of a pod's status went backwards between two writes."""
    old, new = before.get("phase", "Pending"), after.get("phase", "Pending")
    if old in TERMINAL and new != old:
        yield f"the phase went from {old} to {new}"
    if old == "Running" and new == "Pending" and not _initializes(after):
        yield "the phase went from Running to Pending"
    if before.get("startTime") and after.get("startTime") != before["startTime"]:
        yield f"startTime changed from {before['startTime']} to {after.get('startTime')}"
    if before.get("podIP") and after.get("podIP") and after["podIP"] != before["podIP"]:
        yield f"the address changed from {before['podIP']} to {after['podIP']}"
    earlier = {one["name"]: one for one in _containers(before)}
    for one in _containers(after):
        known = earlier.get(one["name"])
        if known is None:
            continue
        restarts, were = one.get("restartCount", 0), known.get("restartCount", 0)
        if restarts < were:
            yield f"restarts of {one['name']} fell from {were} to {restarts}"
        same = one.get("containerID") and one.get("containerID") == known.get("containerID")
        if same and "terminated" in known.get("state", {}) and "running" in one.get("state", {}):
            yield f"the ended container {one['name']} runs again ({one['containerID']})"


def _initializes(status: Mapping[str, Any]) -> bool:
    """Whether an init container has still to succeed: in a new sandbox it is run again."""
    return any("terminated" not in one.get("state", {}) for one in status.get("initContainerStatuses", ()))


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _annotations(write: histories.Write) -> Mapping[str, str]:
    return write.answer.get("metadata", {}).get("annotations") or {}


def _precondition(write: histories.Write) -> str:
    return str((write.body.get("preconditions") or {}).get("uid") or "")


def _is_delete(write: histories.Write) -> bool:
    return write.resource == "pods" and write.verb in {"delete", "deletecollection"} and write.is_done


def _asked_deletions(history: histories.History) -> dict[str, float]:
    """By UID, when somebody else than the node first asked for a pod's deletion."""
    asked: dict[str, float] = {}
    uids: dict[tuple[str, str], str] = {}
    for write in history.writes:
        if write.resource != "pods" or not write.is_done:
            continue
        if write.uid:
            uids[write.namespace, write.name] = write.uid
        if write.user.startswith(NODE_USER):
            continue
        if write.subresource == "eviction":
            # It answers with no pod.
            asked.setdefault(uids.get((write.namespace, write.name), ""), write.at_s)
        elif _is_delete(write):
            for uid in _deleted_uids(write):
                asked.setdefault(uid, write.at_s)
    return asked


def _deleted_uids(write: histories.Write) -> list[str]:
    """A delete of many answers with a list."""
    items = write.answer.get("items")
    if items is not None:
        return [item["metadata"]["uid"] for item in items]
    uid = write.uid or _precondition(write)
    return [uid] if uid else []
