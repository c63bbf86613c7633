"""What is known of the instances of each pod UID, from evidence. Pure: times are passed in.

The rule that everything rests on: a failed read is no evidence. Presence is believed at once;
absence only when the provider said so positively (`Gone`), or when two whole listings, far enough
apart, did not have it. "Far enough" is a short second look for an instance whose removal was asked for,
the provider's consistency window for a create in doubt, and at least LOST_LOOK_S for one that ran: on
its absence the pod is ended, and a provider that answers wrongly for a moment must not end live work.

    nothing tried ──► ABSENT ──create sent──► UNKNOWN ──acknowledged or seen──► PRESENT
                        ▲                        │                                │
                        └──────── two misses ────┴──────── Gone, or two misses ◄──┘
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from kci.kube import models
from kci.vnode import provider

# Between the two listings that must both miss an instance whose removal was asked for.
SECOND_LOOK_S = 1.0
# Between the two listings that must both miss an instance that ran and that nobody asked to be removed.
LOST_LOOK_S = 30.0
# So many orphans at once look like a bad listing rather than like orphans.
BRAKE_COUNT = 10
BRAKE_SHARE = 0.2


class Belief(enum.Enum):
    ABSENT = "absent"
    PRESENT = "present"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of one UID's instances. `instances` is oldest first."""

    belief: Belief
    instances: tuple[provider.Instance, ...] = ()
    # An instance was acknowledged or seen at some time in this process' life.
    existed: bool = False
    # A listing missed something: when a further one can settle that.
    look_at_s: float | None = None
    # Instances whose removal was asked for, and when.
    removals_s: Mapping[provider.InstanceId, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Trace:
    """One instance; or, without one, a create of which nobody knows what came of it."""

    instance: provider.Instance | None
    # Listings begun earlier say nothing about it.
    since_s: float
    # Its pod is ended if this is taken for absent.
    has_run: bool
    first_miss_s: float | None = None
    removal_sent_s: float | None = None


@dataclasses.dataclass
class _Record:
    traces: dict[provider.InstanceId | None, _Trace] = dataclasses.field(default_factory=dict)
    existed: bool = False


class Knowledge:
    """Evidence by pod UID. A UID that is not tracked has no instance as far as anybody knows."""

    def __init__(self) -> None:
        self._records: dict[models.PodUid, _Record] = {}

    def of(self, uid: models.PodUid, *, window_s: float) -> Known:
        """What is known now; `window_s` is the provider's consistency window."""
        record = self._records.get(uid)
        if record is None:
            return Known(Belief.ABSENT)
        traces = record.traces.values()
        found = sorted(
            (trace.instance for trace in traces if trace.instance is not None),
            # Of one that was only just acknowledged no time is known yet: it is the newest.
            key=lambda instance: (not instance.created_at, instance.created_at, instance.id),
        )
        looks = [
            trace.first_miss_s + _gap_s(trace, window_s) for trace in traces if trace.first_miss_s is not None
        ]
        return Known(
            belief=Belief.PRESENT if found else Belief.UNKNOWN if traces else Belief.ABSENT,
            instances=tuple(found),
            existed=record.existed,
            look_at_s=min(looks, default=None),
            removals_s={
                trace.instance.id: trace.removal_sent_s
                for trace in traces
                if trace.instance is not None and trace.removal_sent_s is not None
            },
        )

    def doubt(self, uid: models.PodUid, since_s: float, *, has_run: bool = False) -> None:
        """An instance may exist: the pod is older than this process (`has_run` says that it had one then),
        or a create was sent. Only listings begun after `since_s` can settle it.
        """
        self._record(uid).traces[None] = _Trace(instance=None, since_s=since_s, has_run=has_run)

    def settle_not_created(self, uid: models.PodUid) -> None:
        """The create that was sent certainly did nothing."""
        self._record(uid).traces.pop(None, None)

    def acknowledge(self, uid: models.PodUid, instance_id: provider.InstanceId, now_s: float) -> None:
        """The create was answered with this instance."""
        record = self._record(uid)
        record.traces.pop(None, None)
        record.existed = True
        # The change stream may have been quicker than the answer.
        if instance_id not in record.traces:
            instance = provider.Instance(instance_id, uid, provider.Phase.PENDING)
            record.traces[instance_id] = _Trace(instance=instance, since_s=now_s, has_run=True)

    def removal_sent(self, uid: models.PodUid, instance_id: provider.InstanceId, now_s: float) -> None:
        trace = self._record(uid).traces.get(instance_id)
        if trace is not None:
            trace.removal_sent_s = now_s

    def forget(self, uid: models.PodUid) -> None:
        self._records.pop(uid, None)

    def apply(self, change: provider.Change, *, window_s: float) -> set[models.PodUid]:
        """Take in evidence; returns the UIDs of which something new is known."""
        match change:
            case provider.Seen(instance):
                return {instance.pod_uid} if self._see(instance) else set()
            case provider.Gone(instance_id, uid):
                record = self._records.get(uid)
                gone = record is not None and record.traces.pop(instance_id, None) is not None
                return {uid} if gone else set()
            case provider.Listing():
                return self._apply_listing(change, window_s)

    def _apply_listing(self, listing: provider.Listing, window_s: float) -> set[models.PodUid]:
        changed = {instance.pod_uid for instance in listing.instances if self._see(instance)}
        listed = {instance.id for instance in listing.instances}
        for uid, record in self._records.items():
            for instance_id in [missed for missed in record.traces if missed not in listed]:
                changed.add(uid)
                if _miss(record.traces[instance_id], listing.began_s, window_s):
                    del record.traces[instance_id]
        return changed

    def _see(self, instance: provider.Instance) -> bool:
        record = self._record(instance.pod_uid)
        record.existed = True
        doubted = record.traces.pop(None, None) is not None
        trace = record.traces.get(instance.id)
        if trace is None:
            record.traces[instance.id] = _Trace(instance=instance, since_s=0.0, has_run=True)
            return True
        news = doubted or trace.instance != instance or trace.first_miss_s is not None
        trace.instance, trace.first_miss_s = instance, None
        return news

    def _record(self, uid: models.PodUid) -> _Record:
        return self._records.setdefault(uid, _Record())


def needs_brake(orphans: int, listed: int) -> bool:
    """So many are never removed on the word of one listing."""
    return orphans > BRAKE_COUNT and orphans > BRAKE_SHARE * listed


def find_orphans(
    listing: provider.Listing, wanted: AbstractSet[models.PodUid]
) -> dict[models.PodUid, provider.InstanceId]:
    """Instances whose pods are not there, by UID."""
    return {instance.pod_uid: instance.id for instance in listing.instances if instance.pod_uid not in wanted}


def _miss(trace: _Trace, began_s: float, window_s: float) -> bool:
    """Count a whole listing that lacks it; true once that settles its absence."""
    if began_s < trace.since_s:
        return False
    if trace.first_miss_s is None:
        trace.first_miss_s = began_s
        return False
    return began_s > trace.first_miss_s and began_s >= trace.first_miss_s + _gap_s(trace, window_s)


def _gap_s(trace: _Trace, window_s: float) -> float:
    if trace.removal_sent_s is not None:
        return min(SECOND_LOOK_S, window_s)
    return max(LOST_LOOK_S, window_s) if trace.has_run else window_s
