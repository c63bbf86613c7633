"""Events (core/v1) about pods and nodes: told at once, sent in the background, never in anybody's way.

What is told again raises the count of the Event that exists. Many texts of one reason are combined, and an
object that never ceases to be told of is heard less often. `Aggregator` is the pure part; `EventRecorder`
sends. Ported from k8s.io/client-go v0.36 tools/record (event.go, events_cache.go). Differs: what waits to be
sent is merged per Event, so that an outage costs one write for each.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
from typing import Any, Generic, Protocol, TypeVar

import structlog

from kci.kit import backoff as backoffs
from kci.kit import clock as clocks
from kci.kube import errors, models, reasons, resources

V = TypeVar("V")
log = structlog.get_logger(__name__)

NORMAL = "Normal"
WARNING = "Warning"

REMEMBERED = 4096
WAITING = 5000
# After each Event the recorder rests this many times as long as sending it took: on a busy machine what is
# told yields to what is done (50 pods at once tell 200 Events), on an idle one it is sent at once.
REST = 3.0
LONGEST_REST_S = 1.0
SIMILAR_MAX = 10
SIMILAR_WITHIN = datetime.timedelta(seconds=600)
BURST = 25
REFILL_S = 300.0
TRIES = 12
_LONGEST_MESSAGE = 1024
_LONGEST_NAME = 230

Reference = models.ObjectReference


def of_pod(pod: models.Pod, *, container: str = "") -> Reference:
    """A pod, or one of its containers, as the kubelet refers to it."""
    is_init = any(one.name == container for one in pod.spec.init_containers)
    field = "spec.initContainers" if is_init else "spec.containers"
    return Reference(
        kind="Pod",
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        resource_version=pod.metadata.resource_version,
        field_path=f"{field}{{{container}}}" if container else "",
    )


def of_node(name: str) -> Reference:
    """A node. Its name stands for its UID: so `kubectl describe node` finds what a kubelet tells."""
    return Reference(kind="Node", name=name, uid=name)


@dataclasses.dataclass
class Pending:
    """An Event as it should be at the server. `name` and `count` go on from what was sent before."""

    reference: Reference
    name: str
    type: str
    reason: str
    message: str
    first: str
    last: str
    count: int = 1
    exists: bool = False


@dataclasses.dataclass
class _Similar:
    messages: set[str]
    last: datetime.datetime


@dataclasses.dataclass
class _Allowance:
    left: float
    at: datetime.datetime


class Aggregator:
    """Decides which Event something told belongs to; None when the object has told too much."""

    def __init__(self) -> None:
        self._events: _Recent[Pending] = _Recent()
        self._similar: _Recent[_Similar] = _Recent()
        self._allowed: _Recent[_Allowance] = _Recent()
        self._last_ns = 0

    def take(
        self,
        reference: Reference,
        *,
        type: str,  # noqa: A002
        reason: str,
        message: str,
        now: datetime.datetime,
    ) -> Pending | None:
        about = (reference.kind, reference.namespace, reference.name, reference.uid)
        if not self._allow((*about, type), now):
            return None
        group = (*about, type, reason)
        key: tuple[str, ...] = (*group, reference.field_path, message)
        if self._is_many(group, message, now):
            key, message = group, f"(combined from similar events): {message}"
        stamp = clocks.to_rfc3339(now)
        known = self._events.get(key)
        if known is None:
            # As client-go: the object's name and a time in nanoseconds, here never the same twice.
            self._last_ns = max(self._last_ns + 1, int(now.timestamp() * 1e6) * 1000)
            name = f"{reference.name[:_LONGEST_NAME]}.{self._last_ns:x}"
            known = Pending(reference, name, type, reason, message, first=stamp, last=stamp)
        else:
            known.count, known.last, known.message = known.count + 1, stamp, message
        self._events.put(key, known)
        return known

    def _is_many(self, group: tuple[str, ...], message: str, now: datetime.datetime) -> bool:
        similar = self._similar.get(group)
        if similar is None or now - similar.last > SIMILAR_WITHIN:
            similar = _Similar(set(), now)
        similar.last = now
        if len(similar.messages) < SIMILAR_MAX:
            similar.messages.add(message)
        self._similar.put(group, similar)
        return len(similar.messages) >= SIMILAR_MAX

    def _allow(self, key: tuple[str, ...], now: datetime.datetime) -> bool:
        known = self._allowed.get(key) or _Allowance(float(BURST), now)
        left = min(float(BURST), known.left + (now - known.at).total_seconds() / REFILL_S)
        self._allowed.put(key, _Allowance(max(left - 1, 0.0) if left >= 1 else left, now))
        return left >= 1


class _Recent(Generic[V]):
    """A mapping that forgets what was not used for long."""

    def __init__(self) -> None:
        self._values: collections.OrderedDict[tuple[str, ...], V] = collections.OrderedDict()

    def get(self, key: tuple[str, ...]) -> V | None:
        return self._values.get(key)

    def put(self, key: tuple[str, ...], value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > REMEMBERED:
            _ = self._values.popitem(last=False)


class Api(Protocol):
    """What a recorder needs of a client."""

    async def create(
        self, resource: resources.Resource[models.Event], body: object, *, namespace: str = ""
    ) -> models.Event: ...

    async def patch(
        self, resource: resources.Resource[models.Event], name: str, patch: object, *, namespace: str = ""
    ) -> models.Event: ...


class EventRecorder:
    """`record` at any time; `run` sends until cancelled."""

    def __init__(
        self,
        client: Api,
        *,
        component: str,
        host: str,
        clock: clocks.Clock | None = None,
        backoff: backoffs.Backoff | None = None,
    ) -> None:
        self._client = client
        self._source = {"component": component, "host": host}
        self._clock = clock or clocks.SystemClock()
        self._backoff = backoff or backoffs.Backoff(initial_s=0.5, cap_s=10.0)
        self._aggregator = Aggregator()
        self._waiting: collections.OrderedDict[str, Pending] = collections.OrderedDict()
        self._wake = asyncio.Event()
        self._dropped = 0

    def record(self, reference: Reference, *, type: str, reason: reasons.Reason, message: str) -> None:  # noqa: A002
        """Tell something; never waits and never fails. Beyond 5000 that wait, more is dropped and counted."""
        pending = self._aggregator.take(
            reference, type=type, reason=reason, message=message[:_LONGEST_MESSAGE], now=self._clock.now()
        )
        if pending is None:
            return
        if len(self._waiting) >= WAITING and pending.name not in self._waiting:
            self._dropped += 1
            return
        self._waiting[pending.name] = pending
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                _, pending = self._waiting.popitem(last=False)
                began_s = loop.time()
                await self._send_surely(pending)
                await asyncio.sleep(min(REST * (loop.time() - began_s), LONGEST_REST_S))
            if self._dropped:
                log.warning("events dropped", count=self._dropped)
                self._dropped = 0

    async def _send_surely(self, pending: Pending) -> None:
        for failures in range(1, TRIES + 1):
            try:
                await self._send(pending)
            except (errors.TryLaterError, errors.UnreachableError) as error:
                delay_s = self._backoff.delay_s(failures)
                if isinstance(error, errors.TryLaterError):
                    delay_s = max(delay_s, error.retry_after_s)
                await asyncio.sleep(delay_s)
            except errors.KubeError as error:
                # For instance a namespace that is being deleted takes no new Event.
                log.debug("event refused", event_reason=pending.reason, error=str(error))
                return
            else:
                return
        log.warning("event given up", event_reason=pending.reason, object=pending.reference.name)

    async def _send(self, pending: Pending) -> None:
        namespace = pending.reference.namespace or "default"
        if pending.exists:
            change = {"count": pending.count, "lastTimestamp": pending.last, "message": pending.message}
            try:
                _ = await self._client.patch(resources.EVENTS, pending.name, change, namespace=namespace)
                return
            except errors.NotFoundError:
                # Events live an hour at the server.
                pending.exists, pending.first, pending.count = False, pending.last, 1
        try:
            _ = await self._client.create(
                resources.EVENTS, self._body(pending, namespace), namespace=namespace
            )
        except errors.AlreadyExistsError:
            # An earlier try arrived, though its answer did not.
            log.debug("event exists", event=pending.name)
        pending.exists = True

    def _body(self, pending: Pending, namespace: str) -> dict[str, Any]:
        return {
            "metadata": {"name": pending.name, "namespace": namespace},
            "involvedObject": models.to_json_types(pending.reference),
            "type": pending.type,
            "reason": pending.reason,
            "message": pending.message,
            "firstTimestamp": pending.first,
            "lastTimestamp": pending.last,
            "count": pending.count,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source["host"],
        }
