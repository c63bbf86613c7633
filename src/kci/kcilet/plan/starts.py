"""Of which parts a pod's start is made here, and which action is which. The sandbox and the first container
that runs are called as in the metrics.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from kci.kcilet import ports
from kci.kcilet.plan import actions, moments
from kci.kube import models
from kci.link import types as link


class Step(enum.StrEnum):
    """In the order in which they mostly end."""

    # From when the group was wanted until its pod was read from the cluster.
    KNOWN = "known"
    # What the volumes hold was fetched and laid out.
    VOLUMES = "volumes"
    # The images were found, or pulled.
    IMAGE = "image"
    # The sandbox was made and its network wired.
    SANDBOX = "sandbox"
    # Init containers were created and started, and ran to their end.
    INIT = "init"
    # The containers were created and started.
    STARTED = "started"
    # The status that says so was written.
    TOLD = "told"


# Began and ended, Unix seconds.
Spell = tuple[float, float]


def step_of(action: actions.Action, pod: models.Pod | None) -> Step | None:
    """None: an action of another time of the pod's life."""
    match action:
        case actions.PrepareVolumes():
            return Step.VOLUMES
        case actions.EnsureImage():
            return Step.IMAGE
        case actions.RunSandbox():
            return Step.SANDBOX
        case actions.StartContainer(container=name):
            is_init = pod is not None and any(one.name == name for one in pod.spec.init_containers)
            return Step.INIT if is_init else Step.STARTED
        case _:
            return None


def container_of(action: actions.Action) -> str:
    match action:
        case actions.EnsureImage(container=name) | actions.StartContainer(container=name):
            return name
        case _:
            return ""


def lengthened(spells: Mapping[Step, Spell], step: Step, spell: Spell) -> Mapping[Step, Spell]:
    """A step with one more spell of work on it: from the first to the last."""
    began_s, ended_s = spells.get(step, spell)
    return {**spells, step: (min(began_s, spell[0]), max(ended_s, spell[1]))}


def with_init_ends(
    spells: Mapping[Step, Spell], pod: models.Pod, seen: ports.SeenPod
) -> Mapping[Step, Spell]:
    """Init containers take until the last of them has ended; sidecars run on."""
    ends_s = [
        moments.seconds(one.finished_at_ns)
        for one in seen.containers
        if one.finished_at_ns and any(init.name == one.name for init in pod.spec.init_containers)
    ]
    if Step.INIT not in spells or not ends_s:
        return spells
    return lengthened(spells, Step.INIT, (spells[Step.INIT][0], max(ends_s)))


def has_run_before(seen: ports.SeenPod, since_s: float) -> bool:
    """Whether a container ran before then: such a pod is not started, it goes on."""
    return any(one.started_at_ns and moments.seconds(one.started_at_ns) < since_s for one in seen.containers)


def to_link(spells: Mapping[Step, Spell]) -> tuple[link.StartStep, ...]:
    return tuple(
        link.StartStep(
            step=step.value, began_ms=round(1000 * spells[step][0]), ended_ms=round(1000 * spells[step][1])
        )
        for step in Step
        if step in spells
    )
