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
    since_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Failure:
    """The last attempt at a subject failed; not before `retry_at_s` the next. Without a reason it came to
    nothing through no fault of the pod's, as when the runtime was away: nothing is told of it.
    """

    reason: str
    message: str
    at_s: float
    delay: backoff.Delay
    # As actions.content.
    content: str = ""

    @property
    def retry_at_s(self) -> float:
        return self.at_s + self.delay.delay_s

    def is_outdated_by(self, action: actions.Action) -> bool:
        """Whether the action may go well now because what it lacked has changed."""
        if self.content == actions.content(action):
            return False
        return isinstance(action, actions.PrepareVolumes) or self.reason == actions.CONFIG_ERROR


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    first_seen_s: float
    # Actions being carried out now.
    doing: frozenset[actions.Action] = frozenset()
    # Containers whose image is being pulled now: a look whether it is there does not count.
    pulling: frozenset[str] = frozenset()
    # What the volumes were laid out with last (actions.PrepareVolumes.content); None before the first time.
    laid_out: str | None = None
    # What the traffic was limited to last; None before the first time.
    limited: ports.TrafficLimits | None = None
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

    @property
    def volumes_ready(self) -> bool:
        return self.laid_out is not None


_NO_DELAY = backoff.Delay(0.0, 0.0)


def begin(history: History, action: actions.Action) -> History:
    return dataclasses.replace(history, doing=history.doing | {action})


def succeed(
    history: History, action: actions.Action, *, now_s: float, image: ports.ImageRef | None = None
) -> History:
    """The action was carried out."""
    failures = {key: value for key, value in history.failures.items() if key != actions.subject(action)}
    history = dataclasses.replace(_tried(history, action, now_s), failures=failures)
    match action:
        case actions.PrepareVolumes(content=content):
            return dataclasses.replace(history, laid_out=content)
        case actions.RunSandbox(limits=limits) | actions.LimitTraffic(limits=limits):
            return dataclasses.replace(history, limited=limits)
        case actions.EnsureImage(container=name) if image is not None:
            return dataclasses.replace(history, images={**history.images, name: image})
        case actions.RemoveLeftovers():
            return dataclasses.replace(history, leftovers_removed=True)
        case actions.StopContainer(container_id=identifier):
            # A runtime that lost the exit says at once that all is well, and shows it as running.
            subject = actions.stopped_subject(identifier)
            again = _failed(history, subject, Failure("", "", now_s, _NO_DELAY), backoff.AWAY)
            return dataclasses.replace(history, failures=again)
        case actions.RemoveContainer(container_id=identifier):
            stopped = actions.stopped_subject(identifier)
            failures = {key: value for key, value in failures.items() if key != stopped}
            return dataclasses.replace(history, failures=failures)
        case _:
            return history


def fail(history: History, action: actions.Action, reason: str, message: str, *, now_s: float) -> History:
    """The action failed; it will be asked for again after a delay that grows."""
    failed = Failure(reason, message, now_s, _NO_DELAY, actions.content(action))
    failures = _failed(history, actions.subject(action), failed, _limits(action))
    return dataclasses.replace(_tried(history, action, now_s), failures=failures)


def put_off(history: History, action: actions.Action, message: str, *, now_s: float) -> History:
    """The action came to nothing through no fault of the pod's; it will be asked for again soon."""
    failed = Failure("", message, now_s, _NO_DELAY, actions.content(action))
    failures = _failed(history, actions.subject(action), failed, backoff.AWAY)
    pulling = (
        history.pulling - {action.container} if isinstance(action, actions.EnsureImage) else history.pulling
    )
    return dataclasses.replace(history, doing=history.doing - {action}, pulling=pulling, failures=failures)


def is_away_long(history: History, action: actions.Action) -> bool:
    """Whether an action was put off again and again, so that its pod should say so."""
    last = history.failures.get(actions.subject(action))
    return last is not None and (bool(last.reason) or last.delay.delay_s >= backoff.AWAY.cap_s)


def _failed(
    history: History, subject: str, failure: Failure, limits: backoff.Limits
) -> Mapping[str, Failure]:
    """The failures with one more, whose delay follows from the one before."""
    last, now_s = history.failures.get(subject), failure.at_s
    if last is not None and bool(last.reason) != bool(failure.reason):
        last = None
    delay = backoff.lengthen(
        last.delay if last else None, limits, event_at_s=last.at_s if last else now_s, now_s=now_s
    )
    return {**history.failures, subject: dataclasses.replace(failure, delay=delay)}


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
