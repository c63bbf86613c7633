"""What to do about a pod next: from the pod, what is known of its instance, and what was tried. Pure.

The virtual node writes a pod's status only while nothing runs it: refused, waiting for a create, or
when its instance failed to come up or was lost, or its pod is to go and nobody said how it ended. All
other status comes from what runs the pod.

    deleting:  instance there ─► remove it ─► absence confirmed ─► ended for all to see ─► remove the object
    wanted:    absent ─► create (or refuse) ─► there: nothing more to do
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import msgspec

from kci.kit import clock
from kci.kube import models, reasons
from kci.vnode import knowledge, provider

# Written only while nothing runs the pod; gone again once something does.
CONDITION = "virtual-kubelet.io/InstanceCreated"
TERMINAL_PHASES = ("Succeeded", "Failed")
# A removal that shows no effect is asked for again.
RESEND_S = 30.0


@dataclasses.dataclass(frozen=True)
class Nothing:
    """All is as it should be."""


@dataclasses.dataclass(frozen=True)
class Forget:
    """Neither pod nor instance is left."""


@dataclasses.dataclass(frozen=True)
class Wait:
    """Look at this UID again then."""

    until_s: float


@dataclasses.dataclass(frozen=True)
class Look:
    """Ask for a whole listing: it is not known whether there is an instance."""


@dataclasses.dataclass(frozen=True)
class Create:
    pass


@dataclasses.dataclass(frozen=True)
class Refuse:
    """Keep the pod Pending and say why; without a time only a change of the pod can help."""

    refusal: provider.Refusal
    until_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Fail:
    """End the pod: nothing runs it, and nothing will. Without a reason it ends because it was deleted."""

    refusal: provider.Refusal | None = None


@dataclasses.dataclass(frozen=True)
class ClearStatus:
    """Something runs the pod now: take back what was said about refusing or waiting."""


@dataclasses.dataclass(frozen=True)
class RemoveInstances:
    ids: tuple[provider.InstanceId, ...]


@dataclasses.dataclass(frozen=True)
class RemoveObject:
    """Remove the pod from the API: its instance is known to be gone, or never was."""


Action = (
    Nothing | Forget | Wait | Look | Create | Refuse | Fail | ClearStatus | RemoveInstances | RemoveObject
)


@dataclasses.dataclass(frozen=True)
class Refused:
    """What the provider refused: not asked again before `until_s` for a pod with this fingerprint."""

    refusal: provider.Refusal
    fingerprint: bytes
    until_s: float


def plan(
    pod: models.Pod | None,
    known: knowledge.Known,
    *,
    pod_is_gone: bool,
    refusals: Sequence[provider.Refusal],
    refused: Refused | None,
    retry_at_s: float,
    now_s: float,
) -> Action:
    """The next step. `pod_is_gone` says that a missing pod is known to be deleted, not just not listed;
    `refusals` is what is wrong with the pod whomever one asks, `refused` what the provider said of it.
    """
    if pod is None:
        ended = _end(known, now_s)
        if ended is None:
            return Forget()
        # Missing is not deleted: such an instance is left to the sweep, which asks the API server again.
        return ended if pod_is_gone or isinstance(ended, Look | Wait) else Nothing()
    if pod.metadata.deletion_timestamp is not None:
        return _end(known, now_s) or _let_go(pod)
    if pod.status.phase in TERMINAL_PHASES:
        return Nothing()
    match known.belief:
        case knowledge.Belief.PRESENT:
            return _keep(pod, known, now_s)
        case knowledge.Belief.UNKNOWN:
            return _look(known, now_s)
        case knowledge.Belief.ABSENT:
            return _start(pod, known, refusals=refusals, refused=refused, retry_at_s=retry_at_s, now_s=now_s)


def _start(
    pod: models.Pod,
    known: knowledge.Known,
    *,
    refusals: Sequence[provider.Refusal],
    refused: Refused | None,
    retry_at_s: float,
    now_s: float,
) -> Action:
    if known.existed or is_lost_without_instance(pod):
        return Fail(provider.Refusal("InstanceLost", "the instance that ran this pod is gone"))
    if refusals:
        return Refuse(refusals[0] if len(refusals) == 1 else _joined(refusals))
    if refused is not None and now_s < refused.until_s and refused.fingerprint == fingerprint(pod):
        return Refuse(refused.refusal, refused.until_s)
    return Wait(retry_at_s) if now_s < retry_at_s else Create()


def is_lost_without_instance(pod: models.Pod) -> bool:
    """Whether something ran this pod and should still: if that is gone, the pod has failed."""
    return pod.status.start_time is not None and pod.metadata.deletion_timestamp is None


def _end(known: knowledge.Known, now_s: float) -> Action | None:
    """The way to certain absence; None once there."""
    match known.belief:
        case knowledge.Belief.ABSENT:
            return None
        case knowledge.Belief.UNKNOWN:
            return _look(known, now_s)
        case knowledge.Belief.PRESENT:
            return _remove(known, known.instances, now_s)


def _let_go(pod: models.Pod) -> Action:
    """No pod goes in another phase than a terminal one, as with a kubelet: whoever holds the object by a
    finalizer may wait for that (the Job controller does).
    """
    return RemoveObject() if pod.status.phase in TERMINAL_PHASES else Fail()


def _keep(pod: models.Pod, known: knowledge.Known, now_s: float) -> Action:
    # The oldest stays, but never one whose removal was asked for already: else both would go.
    first = min(known.instances, key=lambda instance: instance.id in known.removals_s)
    others = [instance for instance in known.instances if instance is not first]
    if others:
        # Two creates had effect though one answer was lost.
        return _remove(known, others, now_s)
    if known.look_at_s is not None:
        return _look(known, now_s)
    if first.phase is provider.Phase.CREATE_FAILED:
        message = first.message or "the instance did not come up"
        return Fail(provider.Refusal("CreateError", message))
    return Nothing() if _own_condition(pod) is None else ClearStatus()


def _remove(known: knowledge.Known, instances: Sequence[provider.Instance], now_s: float) -> Action:
    sent = known.removals_s
    due = [one.id for one in instances if one.id not in sent or now_s >= sent[one.id] + RESEND_S]
    if due:
        return RemoveInstances(tuple(due))
    if known.look_at_s is not None:
        return _look(known, now_s)
    return Wait(min(sent[one.id] for one in instances) + RESEND_S)


def _look(known: knowledge.Known, now_s: float) -> Action:
    return Wait(known.look_at_s) if known.look_at_s is not None and now_s < known.look_at_s else Look()


def _joined(refusals: Sequence[provider.Refusal]) -> provider.Refusal:
    return provider.Refusal(refusals[0].reason, "; ".join(refusal.message for refusal in refusals))


def fingerprint(pod: models.Pod) -> bytes:
    """Changes when something changes that a refusal can depend on."""
    return msgspec.json.encode((pod.spec, pod.metadata.annotations), order="deterministic")


# ---- status patches (strategic merge, so that others' conditions stay) ---------------------------


def refused_patch(
    pod: models.Pod, refusal: provider.Refusal, now: datetime.datetime
) -> dict[str, Any] | None:
    """Pending, with the reason; None if the pod says exactly that already."""
    condition = _own_condition(pod)
    said = (pod.status.reason, pod.status.message, condition and condition.message)
    if said == (refusal.reason, refusal.message, refusal.message):
        return None
    return _patch(
        pod,
        {
            "phase": "Pending",
            "reason": refusal.reason,
            "message": refusal.message,
            "conditions": [_condition(CONDITION, refusal.reason, refusal.message, now)],
        },
    )


def failed_patch(pod: models.Pod, refusal: provider.Refusal | None, now: datetime.datetime) -> dict[str, Any]:
    """Failed, and not ready; of a container that had its turn and of which no end is known nobody saw it.
    Without a refusal the pod keeps what it says of why.
    """
    why: tuple[reasons.Reason | reasons.OfCondition, str] = (
        ("PodFailed", "") if refusal is None else (refusal.reason, refusal.message)
    )
    status: dict[str, Any] = {
        "phase": "Failed",
        "conditions": [_condition(kind, *why, now) for kind in ("Ready", "ContainersReady")],
    }
    if refusal is not None:
        status |= {"reason": refusal.reason, "message": refusal.message}
    init, turns = len(pod.status.init_container_statuses), _turns(pod)
    ended = [
        models.to_json_types(_ended(one, now) if number < turns else one)
        for number, one in enumerate(pod.status.all_containers)
    ]
    # A patch replaces these lists whole.
    lists = {"initContainerStatuses": ended[:init], "containerStatuses": ended[init:]}
    return _patch(pod, status | {field: found for field, found in lists.items() if found})


def _turns(pod: models.Pod) -> int:
    """How many containers, init containers first, had their turn: later ones wait for ever (a kubelet's
    TerminatePod, hasPodInitialized and initializedContainers).
    """
    init, others = pod.status.init_container_statuses, pod.status.container_statuses
    is_initialized = (
        not pod.spec.init_containers
        or any(_has_begun(status) for status in others)
        or (bool(init) and _is_done(pod, init[-1]))
    )
    if is_initialized:
        return len(init) + len(others)
    # Somebody was to begin: the first, if none of them did.
    begun = [number for number, status in enumerate(init, start=1) if _has_begun(status)]
    return min(len(init), max(begun, default=1))


def _has_begun(status: models.ContainerStatus) -> bool:
    return status.state.waiting is None or status.last_state.terminated is not None


def _is_done(pod: models.Pod, last: models.ContainerStatus) -> bool:
    """Whether containers could begin after this init container."""
    if any(container.is_sidecar and container.name == last.name for container in pod.spec.init_containers):
        return last.state.running is not None and bool(last.started)
    ends = (last.state.terminated, last.last_state.terminated)
    return any(end is not None and end.exit_code == 0 for end in ends)


def _ended(status: models.ContainerStatus, now: datetime.datetime) -> models.ContainerStatus:
    """As a kubelet shows a container that vanished: nobody saw the end."""
    if status.state.terminated is not None:
        return status
    running = status.state.running
    terminated = models.ContainerStateTerminated(
        exit_code=137,
        reason="ContainerStatusUnknown",
        message="what ran this container is gone, and how it ended is not known",
        started_at=running.started_at if running is not None else None,
        finished_at=clock.to_rfc3339(now),
        container_id=status.container_id,
    )
    return msgspec.structs.replace(
        status, ready=False, started=False, state=models.ContainerState(terminated=terminated)
    )


def cleared_patch(pod: models.Pod) -> dict[str, Any]:
    """Without our condition, and without reason and message if they are ours."""
    condition = _own_condition(pod)
    status: dict[str, Any] = {"conditions": [{"$patch": "delete", "type": CONDITION}]}
    if condition is not None and pod.status.reason == condition.reason:
        status |= {"reason": None, "message": None}
    return _patch(pod, status)


def _patch(pod: models.Pod, status: dict[str, Any]) -> dict[str, Any]:
    # The version as well: what runs the pod may have written since, and must not be overwritten.
    metadata = {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version}
    return {"metadata": metadata, "status": status}


def _condition(
    kind: str, reason: reasons.Reason | reasons.OfCondition, message: str, now: datetime.datetime
) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": clock.to_rfc3339(now),
    }


def _own_condition(pod: models.Pod) -> models.PodCondition | None:
    return next((condition for condition in pod.status.conditions if condition.type == CONDITION), None)
