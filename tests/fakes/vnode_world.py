"""Doubles of the two sides of the pod controller: a cluster with pods, and a cloud with instances.

Both hold the truth, and assert what must never happen: a second instance for a UID, an instance for
a pod that nobody wants, the removal of one that somebody does, a pod failed while it runs or removed before
it has ended.
"""

import asyncio
import collections
import dataclasses
import datetime

import msgspec

from kci.kube import errors, models, reflector
from kci.vnode import pods, provider

# Nobody has reason to look at one pod so often within a second.
SPINNING = 200


def pod(uid, *, name="web", namespace="default", **status):
    return models.Pod(
        metadata=models.ObjectMeta(name=name, namespace=namespace, uid=uid, resource_version="1"),
        spec=models.PodSpec(node_name="vn", containers=(models.Container(name="c", image="nginx"),)),
        status=models.PodStatus(phase="Pending", **status),
    )


class Cluster:
    """An API server with the pods of one node, and a reflector on it that misses nothing by itself."""

    def __init__(self):
        self.pods = {}
        self.copy = {}
        self.synced = asyncio.Event()
        self.listener = None
        self.events = []
        # As they were when they went.
        self.removed = {}
        self.list_fails = False
        # So many lists are empty though they should not be.
        self.lies = 0
        self.cloud = None
        # What must never happen and did; a worker's own error handling must not hide it.
        self.violations = []
        self._version = 1

    def must(self, holds, otherwise):
        if not holds:
            self.violations.append(otherwise)

    # -- what a person or the control plane does

    def bind(self, uid, **how):
        self.store(pod(uid, **how))

    def ask_deletion(self, uid):
        self._change(uid, lambda meta: {"deletion_timestamp": "2026-01-01T00:00:00Z"})

    def annotate(self, uid, **annotations):
        self._change(uid, lambda meta: {"annotations": {**meta.annotations, **annotations}})

    def show_running(self, uid):
        self.show(uid, "Running")

    def show(self, uid, phase):
        """What runs the pod tells its status."""
        found = self.pods[uid]
        status = msgspec.structs.replace(found.status, phase=phase, start_time="2026-01-01T00:00:00Z")
        self.store(msgspec.structs.replace(found, status=status))

    def force_delete(self, uid):
        gone = self.removed[uid] = self.pods.pop(uid)
        self.copy.pop(uid, None)
        self._tell(reflector.ChangeKind.DELETED, gone)

    def is_wanted(self, uid):
        found = self.pods.get(uid)
        return (
            found is not None
            and found.metadata.deletion_timestamp is None
            and found.status.phase not in pods.TERMINAL_PHASES
        )

    # -- the reflector

    def start(self, listener):
        """A new process begins: its reflector lists everything."""
        self.listener = listener
        self.copy.update(self.pods)
        for found in list(self.pods.values()):
            self._tell(reflector.ChangeKind.ADDED, found)
        self.synced.set()

    def lose(self, uid):
        """A list that wrongly lacks a pod: the reflector can only take it for deleted."""
        lost = self.copy.pop(uid, None)
        if lost is not None:
            self._tell(reflector.ChangeKind.DELETED, lost, final_state_unknown=True)

    def heal(self):
        for uid, found in list(self.pods.items()):
            if uid not in self.copy:
                self.copy[uid] = found
                self._tell(reflector.ChangeKind.ADDED, found)

    def store(self, changed):
        self._version += 1
        meta = msgspec.structs.replace(changed.metadata, resource_version=str(self._version))
        changed = msgspec.structs.replace(changed, metadata=meta)
        known = changed.metadata.uid in self.copy
        self.pods[changed.metadata.uid] = self.copy[changed.metadata.uid] = changed
        self._tell(reflector.ChangeKind.MODIFIED if known else reflector.ChangeKind.ADDED, changed)

    def _change(self, uid, fields):
        found = self.pods[uid]
        meta = msgspec.structs.replace(found.metadata, **fields(found.metadata))
        self.store(msgspec.structs.replace(found, metadata=meta))

    def _tell(self, kind, found, **more):
        if self.listener is not None:
            self.listener.on_change(reflector.Change(kind, found, **more))

    # -- pod_api.PodApi and EventSink

    async def patch_status(self, target, patch):
        await asyncio.sleep(0.001)
        found = self.pods.get(target.uid)
        if found is None:
            raise errors.NotFoundError("no such pod")
        self.must(patch["metadata"]["uid"] == target.uid, f"a write for {target.uid} names another UID")
        if patch["metadata"]["resourceVersion"] != found.metadata.resource_version:
            raise errors.ConflictError("changed since")
        if patch["status"].get("phase") == "Failed":
            self.must(not self.cloud.runs(target.uid), f"{target.uid} was failed while its instance runs")
        self.store(msgspec.structs.replace(found, status=_merged(found.status, patch["status"])))

    async def remove_pod(self, target):
        await asyncio.sleep(0.001)
        if target.uid not in self.pods:
            raise errors.NotFoundError("no such pod")
        deleted = self.pods[target.uid].metadata.deletion_timestamp is not None
        self.must(deleted, f"{target.uid} was removed though nobody deleted it")
        self.must(not self.cloud.exists(target.uid), f"{target.uid} was removed before its instance")
        # Else whoever keeps it by a finalizer until it has ended keeps it for ever.
        ended = self.pods[target.uid].status.phase in pods.TERMINAL_PHASES
        self.must(ended, f"{target.uid} was removed in phase {self.pods[target.uid].status.phase}")
        self.force_delete(target.uid)

    async def list_pod_uids(self):
        await asyncio.sleep(0.001)
        if self.list_fails:
            raise errors.UnreachableError("cannot list pods")
        if self.lies > 0:
            self.lies -= 1
            return set()
        return set(self.pods)

    def warn(self, target, reason, message):
        self.events.append((target.uid, reason))

    def tell(self, target, reason, message):
        self.events.append((target.uid, reason))


def _merged(status, patch):
    """A strategic merge, as far as the controller uses it."""
    plain = {key: value or "" for key, value in patch.items() if key in {"phase", "reason", "message"}}
    conditions = {condition.type: condition for condition in status.conditions}
    for change in patch.get("conditions", ()):
        conditions.pop(change["type"], None)
        if "$patch" not in change:
            conditions[change["type"]] = models.PodCondition(
                type=change["type"], status="False", reason=change["reason"], message=change["message"]
            )
    return msgspec.structs.replace(status, conditions=tuple(conditions.values()), **plain)


@dataclasses.dataclass
class _Made:
    instance: provider.Instance
    made_s: float
    ended_s: float | None = None


class Cloud:
    """A provider whose listings lag behind the truth by up to its consistency window."""

    def __init__(self, cluster, now_s, *, window_s=0.0, watched=True):
        self._now_s = now_s
        self.consistency_window_s = window_s
        self.cluster = cluster
        cluster.cloud = self
        self.lag_s = 0.0
        self.list_fails = self.removal_fails = False
        # Until then its listings are whole and empty, whatever there is.
        self.lies_until_s = 0.0
        # What happens to the next creates: ok, refuse, later, lost before or after the effect.
        self.outcomes = []
        # Creates for these fail, whatever else happens.
        self.failing_uids = set()
        self.created, self.removed, self.listings, self.refusals_asked = [], [], 0, 0
        self._looks = collections.Counter()
        self._watched = watched
        self._made = {}
        self._watchers = []
        self._number = 0

    # -- the truth

    def exists(self, uid):
        return any(made.instance.pod_uid == uid and made.ended_s is None for made in self._made.values())

    def runs(self, uid):
        return any(
            made.instance.pod_uid == uid
            and made.ended_s is None
            and made.instance.phase is not provider.Phase.CREATE_FAILED
            for made in self._made.values()
        )

    def live(self):
        return sorted(made.instance.pod_uid for made in self._made.values() if made.ended_s is None)

    def end(self, uid):
        """An instance ends without anybody of ours having asked."""
        for made in self._made.values():
            if made.instance.pod_uid == uid and made.ended_s is None:
                made.ended_s = self._now_s()
                self._publish(provider.Gone(made.instance.id, uid))

    def set_phase(self, uid, phase, message=""):
        for made in self._made.values():
            if made.instance.pod_uid == uid and made.ended_s is None:
                made.instance = dataclasses.replace(made.instance, phase=phase, message=message)
                self._publish(provider.Seen(made.instance))

    def plant(self, uid):
        """An instance of an earlier process."""
        return self._make(uid)

    def _make(self, uid):
        self._number += 1
        instance = provider.Instance(
            provider.InstanceId(f"i{self._number}"), uid, provider.Phase.PENDING, f"{self._number:06}"
        )
        self._made[instance.id] = _Made(instance, self._now_s())
        self._publish(provider.Seen(instance))
        return instance.id

    def _publish(self, change):
        for queue in self._watchers:
            queue.put_nowait(change)

    # -- provider.Provider

    def refusals(self, target):
        self.refusals_asked += 1
        # On a loop whose time jumps, who never pauses would never let time pass.
        self._looks[target.uid, int(self._now_s())] += 1
        assert self._looks[target.uid, int(self._now_s())] < SPINNING, f"{target.uid} is looked at for ever"
        if "refuse" in target.metadata.annotations:
            return [provider.Refusal("NotSupported", target.metadata.annotations["refuse"])]
        return []

    def notices(self, target):
        note = target.metadata.annotations.get("note")
        return [provider.Notice("Accepted", note)] if note else []

    async def create_instance(self, target):
        uid = target.uid
        self.cluster.must(not self.exists(uid), f"a second instance for {uid}")
        self.cluster.must(self.cluster.is_wanted(uid), f"an instance for {uid}, which nobody wants")
        self.created.append(uid)
        if uid in self.failing_uids:
            raise provider.TryLaterError("QuotaExceeded", "cannot create now")
        outcome = self.outcomes.pop(0) if self.outcomes else "ok"
        match outcome:
            case "refuse":
                raise provider.RefusedError("InvalidParameterValue", "cannot create that")
            case "later":
                raise provider.TryLaterError("QuotaExceeded", "cannot create now")
            case "lost before":
                await asyncio.sleep(0.05)
                raise provider.OutcomeUnknownError("cannot tell")
            case "lost after":
                self._make(uid)
                await asyncio.sleep(0.05)
                raise provider.OutcomeUnknownError("cannot tell")
            case _:
                instance_id = self._make(uid)
                await asyncio.sleep(0.05)
                return instance_id

    async def remove_instance(self, instance_id):
        await asyncio.sleep(0.01)
        if self.removal_fails:
            raise provider.OutcomeUnknownError("cannot tell")
        made = self._made[instance_id]
        uid = made.instance.pod_uid
        self.cluster.must(not self.cluster.is_wanted(uid), f"the instance of wanted {uid} was removed")
        self.removed.append(uid)
        if made.ended_s is None:
            made.ended_s = self._now_s()
            self._publish(provider.Gone(instance_id, uid))

    async def list_instances(self):
        self.listings += 1
        began_s = self._now_s()
        await asyncio.sleep(0.02)
        if self.list_fails:
            raise provider.TryLaterError("Unavailable", "cannot list")
        if began_s < self.lies_until_s:
            return provider.Listing(began_s, ())
        shown_s = began_s - self.lag_s
        shown = [
            made.instance
            for made in self._made.values()
            if made.made_s <= shown_s and (made.ended_s is None or made.ended_s > shown_s)
        ]
        return provider.Listing(began_s, tuple(shown))

    async def changes(self):
        queue = asyncio.Queue()
        if self._watched:
            self._watchers.append(queue)
        try:
            while True:
                try:
                    yield await self.list_instances()
                except provider.ProviderError:
                    await asyncio.sleep(3)
                    continue
                if not self._watched:
                    await asyncio.sleep(3)
                    continue
                while True:
                    yield await queue.get()
        finally:
            if queue in self._watchers:
                self._watchers.remove(queue)


class FixedClock:
    def now(self):
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
