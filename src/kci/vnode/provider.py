"""What the virtual node needs of whoever runs its pods: small protocols, and their values.

An *instance* is what runs one pod. The provider says what exists; what that means for a pod is
decided here (knowledge.py, pods.py). Its errors say what may be done next, nothing else.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import NewType, Protocol

from kci.kube import models, reasons

InstanceId = NewType("InstanceId", str)


class ProviderError(Exception):
    """The provider could not do what was asked. The text is shown to users: no secrets, no request ids."""


class RefusedError(ProviderError):
    """The request itself is wrong: a changed pod is tried anew at once, the same one now and then, as what it
    lacked may have come to be.
    """

    def __init__(self, reason: reasons.Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class TryLaterError(ProviderError):
    """Nothing was done; the same request may succeed later."""

    def __init__(self, reason: reasons.Reason, message: str, *, retry_after_s: float = 0.0) -> None:
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(message)


class UnavailableError(TryLaterError):
    """As TryLaterError, and no other request would do better: the provider is away or overloaded, or lets
    nobody of ours in.
    """


class OutcomeUnknownError(ProviderError):
    """It may have been done or not: look before doing it again."""


class NotFoundError(ProviderError):
    """There is no such instance or container, or nothing of it yet."""


class Phase(enum.Enum):
    """How far an instance is. Not the pod's phase: that one is written by what runs the pod."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    # It never came up and never will.
    CREATE_FAILED = "create failed"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Instance:
    """An instance of this node as the provider lists it. Oldest is smallest in `created_at`."""

    id: InstanceId
    pod_uid: models.PodUid
    phase: Phase
    created_at: str = ""
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """All instances of this node, complete. `began_s` is the loop's time when the listing was asked for."""

    began_s: float
    instances: tuple[Instance, ...]


@dataclasses.dataclass(frozen=True)
class Seen:
    """An instance appeared or changed."""

    instance: Instance


@dataclasses.dataclass(frozen=True)
class Gone:
    """The provider says positively that this instance is no more."""

    id: InstanceId
    pod_uid: models.PodUid


Change = Listing | Seen | Gone


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a pod cannot run as asked: the message names the field, and what to do about it."""

    reason: reasons.Reason
    message: str
    # Where it is in the pod, or what of the node; empty if it is no single one.
    field: str = ""


@dataclasses.dataclass(frozen=True)
class Notice:
    """What its owner should know of a pod that runs: how large it is, what was changed."""

    reason: reasons.Reason
    message: str
    is_warning: bool = False


class Provider(Protocol):
    """Runs pods. Every call has its own time limit and raises only ProviderError."""

    @property
    def consistency_window_s(self) -> float:
        """How long a created instance may be missing in listings."""
        ...

    def refusals(self, pod: models.Pod) -> Sequence[Refusal]:
        """What is wrong with the pod, found without asking anyone; empty if it can be tried."""
        ...

    def notices(self, pod: models.Pod) -> Sequence[Notice]:
        """What to tell of a pod without refusals, once it has its instance."""
        ...

    async def create_instance(self, pod: models.Pod) -> InstanceId:
        """Ask for an instance that runs this pod. The caller has made sure that there is none yet."""
        ...

    async def remove_instance(self, instance_id: InstanceId) -> None:
        """Ask for its removal; success if it is not there. Its end is seen in listings and changes."""
        ...

    async def list_instances(self) -> Listing:
        """Everything of this node, read now; raises rather than answer in part."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """Endless: a whole listing first, and again whenever something may have been missed."""
        ...


@dataclasses.dataclass(frozen=True)
class Target:
    """A container of a pod, as a stream addresses it."""

    pod: models.Pod
    container: str
    instance_id: InstanceId


@dataclasses.dataclass(frozen=True)
class PodTarget:
    """A pod, as a forwarded port addresses it."""

    pod: models.Pod
    instance_id: InstanceId


class LogProvider(Protocol):
    """Can show a container's log."""

    async def open_log(
        self, target: Target, options: models.PodLogOptions, *, has_ended: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        """The log's bytes as they come. Errors that can be known at once are raised here, not later.
        `has_ended` says whether the container's end is known by now: what follows a log ends with it.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """What a pod or a container has used up to a moment (Unix nanoseconds). Counters begin anew with it."""

    time_ns: int
    # Time on a core, of all cores together.
    cpu_core_ns: int = 0
    memory_bytes: int = 0
    working_set_bytes: int = 0
    rss_bytes: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    # 0 is none.
    memory_limit_bytes: int = 0
    processes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """What has passed a pod's interface, as the pod sees it."""

    received_bytes: int = 0
    received_errors: int = 0
    sent_bytes: int = 0
    sent_errors: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContainerUsage:
    name: str
    started_at_ns: int
    usage: Usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodUsage:
    """A pod as a whole, and those of its containers that run."""

    pod_uid: models.PodUid
    started_at_ns: int
    usage: Usage
    traffic: Traffic | None = None
    containers: tuple[ContainerUsage, ...] = ()


class UsageProvider(Protocol):
    """Can say what pods use."""

    async def read_usage(self) -> Sequence[PodUsage] | None:
        """Of all pods of this node of which something runs; None from one that can never tell."""
        ...


class ExecStream(Protocol):
    """A process's or a port's other end: messages of v5.channel.k8s.io (kit/channels.py)."""

    async def send(self, message: bytes) -> None: ...

    async def receive(self) -> bytes | None:
        """The next message; None once the other end has closed."""
        ...

    async def close(self) -> None: ...


class ExecProvider(Protocol):
    """Can run a command in a container."""

    async def open_exec(self, target: Target, options: models.PodExecOptions) -> ExecStream: ...


class AttachProvider(Protocol):
    """Can join the streams of a container's own process."""

    async def open_attach(self, target: Target, options: models.PodAttachOptions) -> ExecStream: ...


class PortForwardProvider(Protocol):
    """Can connect to a port of a pod. On the stream, STDIN is what goes to the pod, STDOUT what comes from
    it (an empty one first says that there is a connection), a close message the end of one direction, and a
    STATUS why there is no connection, or none any more.
    """

    async def open_port(self, target: PodTarget, port: int) -> ExecStream: ...
