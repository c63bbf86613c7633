"""What a worker remembers of a pod between two plans, and how it changes. Lost at a restart without harm:
all that must survive is in the runtime (sandboxes, attempts) or at the API server (status).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from kci.kcilet import ports
from kci.kcilet.plan import actions, backoff


class Wish(enum.IntEnum):
    """What should become of a pod. It only rises: going back would start what others already released."""

    RUN = 0
    # Nothing of it runs any more; its records and logs stay, to be read.
    END = 1
    REMOVE = 2


@dataclasses.dataclass(frozen=True)
class Ending:
    """Since when and how a pod ends. The grace period can only become shorter."""

    wish: Wish
    grace_s: int
    reason: str = ""
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """The last attempt at a subject failed; not before `retry_at_s` the next."""

    reason: str
    message: str
    at_s: float
    delay: backoff.Delay

    @property
    def retry_at_s(self) -> float:
        return self.at_s + self.delay.delay_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    first_seen_s: float
    # Actions being carried out now.
    doing: frozenset[actions.Action] = frozenset()
    # Containers whose image is being pulled now: a look whether it is there does not count.
    pulling: frozenset[str] = frozenset()
    volumes_ready: bool = False
    # Container name -> its image, ensured for the next start and used up by it.
    images: Mapping[str, ports.ImageRef] = dataclasses.field(default_factory=dict)
    # Subject (actions.subject) -> its last failure; absent after a success.
    failures: Mapping[str, Failure] = dataclasses.field(default_factory=dict)
    # Container name -> the restart back-off.
    restarts: Mapping[str, backoff.Delay] = dataclasses.field(default_factory=dict)
    # Containers' termination messages, read once after the exit.
    messages: Mapping[ports.ContainerId, str] = dataclasses.field(default_factory=dict)
    # What was told last of a state that is to be told once: the state's name -> which one it was.
    announced: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ending: Ending | None = None
    leftovers_removed: bool = False


def begin(history: History, action: actions.Action) -> History:
    return dataclasses.replace(history, doing=history.doing | {action})


def succeed(
    history: History, action: actions.Action, *, now_s: float, image: ports.ImageRef | None = None
) -> History:
    """The action was carried out."""
    failures = {key: value for key, value in history.failures.items() if key != actions.subject(action)}
    history = dataclasses.replace(_tried(history, action, now_s), failures=failures)
    match action:
        case actions.PrepareVolumes():
            return dataclasses.replace(history, volumes_ready=True)
        case actions.EnsureImage(container=name) if image is not None:
            return dataclasses.replace(history, images={**history.images, name: image})
        case actions.RemoveLeftovers():
            return dataclasses.replace(history, leftovers_removed=True)
        case _:
            return history


def fail(history: History, action: actions.Action, reason: str, message: str, *, now_s: float) -> History:
    """The action failed; it will be asked for again after a delay that grows."""
    subject, limits = actions.subject(action), _limits(action)
    last = history.failures.get(subject)
    delay = backoff.lengthen(
        last.delay if last else None, limits, event_at_s=last.at_s if last else now_s, now_s=now_s
    )
    failure = Failure(reason, message, now_s, delay)
    return dataclasses.replace(
        _tried(history, action, now_s), failures={**history.failures, subject: failure}
    )


def cancelled(history: History, action: actions.Action) -> History:
    """The action was given up because the plan no longer wants it."""
    return _ended(history, action)


def _ended(history: History, action: actions.Action) -> History:
    changes = dataclasses.replace(history, doing=history.doing - {action})
    match action:
        case actions.EnsureImage(container=name):
            return dataclasses.replace(changes, pulling=history.pulling - {name})
        case actions.StartContainer(container=name):
            # The next start looks for its image again: it may be gone, or the policy may be Always.
            images = {key: value for key, value in history.images.items() if key != name}
            return dataclasses.replace(changes, images=images)
        case _:
            return changes


def _tried(history: History, action: actions.Action, now_s: float) -> History:
    """One more start of a container lengthens its restart back-off, whether it went well or not."""
    history = _ended(history, action)
    if not isinstance(action, actions.StartContainer) or action.after_exit_s is None:
        return history
    last = history.restarts.get(action.container)
    delay = backoff.lengthen(last, backoff.RESTART, event_at_s=action.after_exit_s, now_s=now_s)
    return dataclasses.replace(history, restarts={**history.restarts, action.container: delay})


def _limits(action: actions.Action) -> backoff.Limits:
    match action:
        case actions.PrepareVolumes():
            return backoff.VOLUMES
        case actions.EnsureImage():
            return backoff.IMAGE
        case actions.RunSandbox():
            return backoff.SANDBOX
        case actions.StartContainer():
            return backoff.CONTAINER
        case _:
            return backoff.ENDING
