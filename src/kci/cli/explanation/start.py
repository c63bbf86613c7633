"""Where the time of a start went: each moment of it belongs to one phase, so that the phases are the whole.

Phases overlap in truth; a moment belongs to the one that ended last, which is what the start waited for.
Their names are those of the metrics where there is one. Times are Unix seconds.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence

from kci.cli.explanation import facts
from kci.kit import durations
from kci.kube import models

# In the order in which they mostly come.
ABOUT = {
    "scheduled": "the scheduler chose the node",
    "created": "the node saw the pod and took it up",
    "acknowledged": "the node's create call was answered by KCI",
    "wanted": "the service handed the group to its machine",
    "known": "the machine read the pod from the cluster",
    "instance": "the cloud made the instance, and has not told how",
    "volumes": "ConfigMaps, Secrets and tokens were fetched and laid out",
    "image": "the images were found or pulled",
    "sandbox": "the sandbox was made and its network wired",
    "init": "init containers ran to their end",
    "started": "the containers were created and started",
    "told": "the status that says so was written",
    "ready": "the readiness probes let the pod wait",
    "waited": "nothing that is known of was done for it",
}
_CREATED_IN = re.compile(r" in (\d+(?:\.\d+)?(?:ms|s))(?: \((\d+(?:\.\d+)?(?:ms|s)) after)?")
# Kubernetes keeps most moments in whole seconds.
_WHOLE_S = 1.0


@dataclasses.dataclass(frozen=True)
class Spell:
    """Work of one phase, from when to when."""

    phase: str
    began_s: float
    ended_s: float


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a phase had of the start: since when (from its beginning), and how much of it alone."""

    phase: str
    after_ms: int
    took_ms: int
    # From 0 to 1.
    share: float

    @property
    def about(self) -> str:
        return ABOUT.get(self.phase, "")


@dataclasses.dataclass(frozen=True)
class Start:
    """`total_ms` is the sum of the phases."""

    began_s: float
    total_ms: int
    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = ()


def explain(known: facts.Facts) -> Start | None:
    """None of a pod whose containers have not all been started."""
    pod = known.pod
    if pod.status.phase in {"", "Pending"} or not pod.status.container_statuses:
        return None
    created_s = facts.seconds(pod.metadata.creation_timestamp)
    if created_s is None:
        return None
    notes = []
    spells = [*_of_node(known), *_of_machine(known)]
    if not any(one.phase == "started" for one in spells):
        spells += _of_statuses(pod)
    scheduled_s = _scheduled_s(known)
    first_s = min([one.began_s for one in spells] + ([scheduled_s] if scheduled_s else []), default=created_s)
    began_s = created_s
    if 0 <= first_s - created_s < _WHOLE_S:
        # The second in which it was made began before it: that is not time that it took.
        began_s = first_s
        notes.append(
            "the wait for the scheduler was under a second; Kubernetes does not tell it more exactly"
        )
    elif scheduled_s is not None:
        spells.append(Spell("scheduled", created_s, scheduled_s))
    ended_s = max((one.ended_s for one in spells), default=began_s)
    ready_s = _ready_s(pod)
    if ready_s is not None and ready_s > ended_s:
        spells.append(Spell("ready", ended_s, ready_s))
        ended_s = ready_s
    if known.start is None or not known.start.steps:
        notes.append(
            "the service tells no steps of this start: the times are those of Kubernetes' events and statuses"
        )
    if any(one.restart_count for one in pod.status.all_containers):
        notes.append("containers were restarted since; this is the first start")
    phases = _divide(spells, began_s, ended_s)
    return Start(began_s, sum(one.took_ms for one in phases), phases, tuple(notes))


# ---- what is known of when ------------------------------------------------------------------------


def _scheduled_s(known: facts.Facts) -> float | None:
    told = [facts.moment_s(event) for event in known.told("Scheduled")]
    exact = [one for one in told if one is not None]
    if exact:
        return min(exact)
    bound = facts.condition(known.pod, "PodScheduled")
    return facts.seconds(bound.last_transition_time) if bound is not None and bound.status == "True" else None


def _of_node(known: facts.Facts) -> Iterable[Spell]:
    """From the Event that tells of the create call, and how long it took."""
    scheduled_s = _scheduled_s(known)
    for event in known.told("InstanceCreated")[:1]:
        answered_s, found = facts.moment_s(event), _CREATED_IN.search(event.message)
        if answered_s is None:
            return
        took_s = durations.to_seconds(found[1]) if found else 0.0
        called_s = answered_s - took_s
        yield Spell("acknowledged", called_s, answered_s)
        seen_s = answered_s - durations.to_seconds(found[2]) if found and found[2] else called_s
        yield Spell("created", min(seen_s, called_s, scheduled_s or called_s), called_s)
        return
    if known.start is not None and scheduled_s is not None:
        stored_s = known.start.stored_at_ms / 1000
        yield Spell("acknowledged", min(scheduled_s, stored_s), stored_s)


def _of_machine(known: facts.Facts) -> Iterable[Spell]:
    """As our machine tells; else as the events of whatever runs the pod do."""
    steps = known.start.steps if known.start is not None else ()
    if known.start is not None and steps:
        spells = [Spell(one.step, one.began_at_ms / 1000, one.ended_at_ms / 1000) for one in steps]
        yield Spell(
            "wanted", known.start.stored_at_ms / 1000, max(spells[0].began_s, known.start.stored_at_ms / 1000)
        )
        yield from spells
        return
    for phase, first, last in (("image", "Pulling", "Pulled"), ("started", "Created", "Started")):
        began = [facts.moment_s(event) for event in known.told(first)]
        ended = [facts.moment_s(event) for event in known.told(last)]
        moments_s = [one for one in (*began, *ended) if one is not None]
        if moments_s and any(one is not None for one in ended):
            yield Spell(phase, min(moments_s), max(moments_s))
    kubelets = [facts.moment_s(event) for event in known.told("Pulling", "Pulled", "Created")]
    first_s = min((one for one in kubelets if one is not None), default=None)
    created = [facts.moment_s(event) for event in known.told("InstanceCreated")]
    answered_s = created[0] if created else None
    if first_s is not None and answered_s is not None and first_s > answered_s:
        yield Spell("instance", answered_s, first_s)


def _of_statuses(pod: models.Pod) -> Iterable[Spell]:
    """Nothing but when containers ran; to the second."""
    for phase, statuses in (
        ("init", pod.status.init_container_statuses),
        ("started", pod.status.container_statuses),
    ):
        found = []
        for one in statuses:
            ended = one.state.terminated or one.last_state.terminated
            text = one.state.running.started_at if one.state.running else ended and ended.started_at
            found.append(facts.seconds(text or None))
            if phase == "init" and ended is not None:
                found.append(facts.seconds(ended.finished_at))
        known = [one for one in found if one is not None]
        if known:
            yield Spell(phase, min(known), max(known))


def _ready_s(pod: models.Pod) -> float | None:
    """When it became ready, where probes had to say so."""
    has_probes = any(one.readiness_probe or one.startup_probe for one in pod.spec.containers)
    found = facts.condition(pod, "Ready")
    if not has_probes or found is None or found.status != "True":
        return None
    return facts.seconds(found.last_transition_time)


# ---- whose each moment is --------------------------------------------------------------------------


def _divide(spells: Sequence[Spell], began_s: float, ended_s: float) -> tuple[Phase, ...]:
    """The time from beginning to end among the phases."""
    cuts = sorted(
        {began_s, ended_s}
        | {at_s for one in spells for at_s in (one.began_s, one.ended_s) if began_s < at_s < ended_s}
    )
    took_s: dict[str, float] = {}
    first_s: dict[str, float] = {}
    for from_s, to_s in itertools.pairwise(cuts):
        under_way = [one for one in spells if one.began_s <= from_s and one.ended_s >= to_s]
        phase = max(under_way, key=lambda one: one.ended_s).phase if under_way else "waited"
        took_s[phase] = took_s.get(phase, 0.0) + to_s - from_s
        first_s.setdefault(phase, from_s)
    whole_s = (ended_s - began_s) or 1.0
    return tuple(
        Phase(phase, round(1000 * (first_s[phase] - began_s)), round(1000 * one_s), one_s / whole_s)
        for phase, one_s in sorted(took_s.items(), key=lambda item: first_s[item[0]])
    )
