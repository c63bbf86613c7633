"""The steps that a plan may ask for. Each may be carried out again after a crash without harm."""

from __future__ import annotations

import dataclasses
from typing import Final, TypeAlias

from kci.kcilet import ports


@dataclasses.dataclass(frozen=True)
class PrepareVolumes:
    """Fetch what the pod's volumes hold and lay it out on the machine; again when that has changed."""

    # The state that it is in (contents.state_of).
    content: str = ""


@dataclasses.dataclass(frozen=True)
class EnsureImage:
    """Have a container's image on the machine, by its pull policy."""

    container: str
    image: str
    policy: str


@dataclasses.dataclass(frozen=True)
class RunSandbox:
    attempt: int
    limits: ports.TrafficLimits = ports.NO_LIMITS


@dataclasses.dataclass(frozen=True)
class LimitTraffic:
    """Of a sandbox that there is: from now on, these limits."""

    limits: ports.TrafficLimits


@dataclasses.dataclass(frozen=True)
class StartContainer:
    """Create and start an attempt; with `created` that attempt exists already and is only started."""

    container: str
    attempt: int
    sandbox_id: ports.SandboxId
    created: ports.ContainerId | None = None
    # When the attempt before it ended (Unix seconds): from this the restart back-off goes on.
    after_exit_s: float | None = None
    # As PrepareVolumes.content.
    content: str = ""


@dataclasses.dataclass(frozen=True)
class StopContainer:
    container_id: ports.ContainerId
    container: str
    grace_s: int
    # The text of the Killing event; empty for none.
    message: str = ""


@dataclasses.dataclass(frozen=True)
class StopSandbox:
    sandbox_id: ports.SandboxId


@dataclasses.dataclass(frozen=True)
class RemoveContainer:
    """Remove a container's record and its log."""

    container_id: ports.ContainerId
    # As SeenContainer.log_path.
    log_path: str


@dataclasses.dataclass(frozen=True)
class RemoveSandbox:
    """Remove a stopped sandbox with its containers' records."""

    sandbox_id: ports.SandboxId


@dataclasses.dataclass(frozen=True)
class RemoveLeftovers:
    """Remove all that is not the runtime's: network, volumes, cgroup, logs."""


Action: TypeAlias = (
    PrepareVolumes
    | EnsureImage
    | RunSandbox
    | LimitTraffic
    | StartContainer
    | StopContainer
    | StopSandbox
    | RemoveContainer
    | RemoveSandbox
    | RemoveLeftovers
)


# What a pod refers to is missing or makes no sense: the kubelet's reason.
CONFIG_ERROR: Final = "CreateContainerConfigError"


def content(action: Action) -> str:
    """The state of what the action is made of; empty if that does not matter to it."""
    match action:
        case PrepareVolumes(content=state) | StartContainer(content=state):
            return state
        case _:
            return ""


def subject(action: Action) -> str:
    """What an action is about: failures and delays are kept per subject."""
    match action:
        case PrepareVolumes():
            return "volumes"
        case EnsureImage(container=name):
            return image_subject(name)
        case RunSandbox():
            return "sandbox"
        case LimitTraffic():
            return "traffic"
        case StartContainer(container=name):
            return container_subject(name)
        case StopContainer(container_id=identifier) | RemoveContainer(container_id=identifier):
            return f"end:{identifier}"
        case StopSandbox(sandbox_id=identifier) | RemoveSandbox(sandbox_id=identifier):
            return f"end:{identifier}"
        case RemoveLeftovers():
            return "leftovers"


def image_subject(container: str) -> str:
    return f"image:{container}"


def container_subject(container: str) -> str:
    return f"container:{container}"


def stopped_subject(container_id: ports.ContainerId) -> str:
    """A container that was stopped, but for the runtime's showing it."""
    return f"stopped:{container_id}"
