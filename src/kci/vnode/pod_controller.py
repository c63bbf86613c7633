"""Makes the instances of this node what its pods ask for: evidence in, one planned step at a time out.

One queue, keyed by pod UID, and never two workers on one UID: so between deciding to create and having
created nobody else can decide the same. Everything that happens (a pod's change, an instance's, a
listing, a timer) only puts a UID on the queue; what to do follows from `pods.plan` on what is known
then. So a restart needs no second code path, and doing a step twice is harmless.

Tasks: workers; the provider's change stream; looks (whole listings, on demand and each minute, after
which instances without a pod are swept).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping

import structlog

from kci.kit import backoff as backoffs
from kci.kit import clock as clocks
from kci.kit import observing, tasks, workqueue
from kci.kube import admission, errors, models, reasons, reflector
from kci.vnode import knowledge, leadership, observers, pod_api, pods, provider, starts

log = structlog.get_logger(__name__)

WORKERS = 32
SWEEP_INTERVAL_S = 60.0
# Between the two listings that must agree before many instances are removed at once.
BRAKE_PAUSE_S = 5.0
# A failing create is shown on the pod after so many failures: a short blip needs nobody's attention.
FAILURES_TO_SHOW = 5
NOT_LEADER_PAUSE_S = 1.0
# While the provider is away or lets nobody in, or nobody knows what became of a call: that may be over any
# moment, and who asks too often is stopped before anything is sent. Longer delays are for what one pod was
# told.
AWAY_PAUSE_S = 15.0
# What the provider refused it may grant later, when its user has made what was missing there.
REFUSED = backoffs.Backoff(initial_s=10.0, cap_s=300.0)


@dataclasses.dataclass
class _History:
    """What was tried for one UID."""

    failures: int = 0
    removal_failures: int = 0
    retry_at_s: float = 0.0
    # By the provider, and how often in a row.
    refused: pods.Refused | None = None
    refusals: int = 0


class PodController:
    """`on_change` takes the reflector's changes; `run` does the rest until cancelled."""

    def __init__(
        self,
        *,
        pod_provider: provider.Provider,
        api: pod_api.PodApi,
        events: pod_api.EventSink,
        backoff: backoffs.Backoff | None = None,
        clock: clocks.Clock | None = None,
        workers: int = WORKERS,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        observed: observers.Observers = observers.NOBODY,
    ) -> None:
        self._provider = pod_provider
        self._api = api
        self._events = events
        self._clock = clock or clocks.SystemClock()
        self._workers = workers
        self._sweep_interval_s = sweep_interval_s
        self._backoff = backoff or backoffs.Backoff(initial_s=0.5, jitter=0.9)
        self._knowledge = knowledge.Knowledge()
        self._pods: Mapping[str, models.Pod] = {}
        self._synced = asyncio.Event()
        self._known_pods: set[models.PodUid] = set()
        # Pods of which we know that they are gone, not only that nothing shows them.
        self._gone: set[models.PodUid] = set()
        self._history: dict[models.PodUid, _History] = {}
        self._queue: workqueue.WorkQueue[models.PodUid] = workqueue.WorkQueue(
            "pods", self._backoff, on_taken=observed.queue_taken, on_worked=observed.queue_worked
        )
        # What is on a watch may be told outside of the loop.
        self._starts = starts.Starts(observed.start_phase, now_s=time.monotonic, tracer=observed.tracer)
        self._on_orphan = observed.orphan
        self._look = asyncio.Event()
        self._sweep_due = asyncio.Event()
        self._newest_listing: provider.Listing | None = None

    def watch(self, objects: Mapping[str, models.Pod], synced: asyncio.Event) -> None:
        """Where the pods are: a reflector's live copy, and when it was first complete."""
        self._pods, self._synced = objects, synced

    def on_change(self, change: reflector.Change[models.Pod]) -> None:
        uid = change.object.uid
        self._starts.saw(change.object)
        if change.kind is reflector.ChangeKind.DELETED:
            # A deletion that was only inferred from a list is left to the sweep, which asks again.
            if change.final_state_unknown:
                self._look.set()
            else:
                self._gone.add(uid)
        elif uid not in self._known_pods:
            self._known_pods.add(uid)
            if not self._synced.is_set() and self._known(uid).belief is knowledge.Belief.ABSENT:
                # The pod is older than this process: an earlier one may have created its instance.
                self._knowledge.doubt(
                    uid, self._now_s(), has_run=pods.is_lost_without_instance(change.object)
                )
        self._queue.add(uid)

    async def run(self) -> None:
        try:
            async with tasks.Tasks() as group:
                group.run_forever("pod workers", self._queue.run(self._reconcile, workers=self._workers))
                group.run_forever("instance changes", self._follow_changes())
                group.run_forever("instance looks", self._look_forever())
                group.run_forever("instance sweeps", self._sweep_forever())
        finally:
            self._starts.close()

    # ---- evidence ------------------------------------------------------------------------------

    async def _follow_changes(self) -> None:
        async for change in self._provider.changes():
            self._take_in(change)

    async def _look_forever(self) -> None:
        failures = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sweep_interval_s):
                    await self._look.wait()
            self._look.clear()
            try:
                listing = await self._provider.list_instances()
            except provider.ProviderError as error:
                failures += 1
                delay_s = self._delay_s(failures, error)
                log.warning("cannot list instances", error=str(error), next_try_s=round(delay_s, 2))
                await asyncio.sleep(delay_s)
                self._look.set()
                continue
            failures = 0
            self._take_in(listing)

    def _take_in(self, change: provider.Change) -> None:
        for uid in self._knowledge.apply(change, window_s=self._provider.consistency_window_s):
            self._queue.add(uid)
        if isinstance(change, provider.Listing):
            self._newest_listing = change
            self._sweep_due.set()

    async def _sweep_forever(self) -> None:
        await self._synced.wait()
        while True:
            await self._sweep_due.wait()
            self._sweep_due.clear()
            if self._newest_listing is not None:
                await self._sweep(self._newest_listing)

    async def _sweep(self, listing: provider.Listing) -> None:
        """Have instances removed whose pods do not exist. Both sides are asked again first, the cluster
        twice: neither a copy of the pods that lost some nor one false list may cost running instances.
        """
        suspects = knowledge.find_orphans(listing, self._wanted())
        if not suspects:
            return
        try:
            confirmed = suspects.keys() - await self._api.list_pod_uids()
            if not confirmed:
                return
            pause_s = knowledge.SECOND_LOOK_S
            if knowledge.needs_brake(len(confirmed), len(listing.instances)):
                log.warning("many orphans, asking again", orphans=len(confirmed), of=len(listing.instances))
                pause_s = BRAKE_PAUSE_S
            await asyncio.sleep(pause_s)
            again = await self._provider.list_instances()
            still = knowledge.find_orphans(again, self._wanted()).keys()
            confirmed = (confirmed & still) - await self._api.list_pod_uids()
        except (errors.KubeError, provider.ProviderError) as error:
            log.warning("cannot confirm orphans, leaving them", orphans=len(suspects), error=str(error))
            return
        for uid in confirmed:
            log.info("orphan found", pod_uid=uid, instance=suspects[uid])
            self._on_orphan()
            self._gone.add(uid)
            self._queue.add(uid)

    def _wanted(self) -> set[models.PodUid]:
        # Known to be gone means that its removal is under way already.
        return {models.PodUid(uid) for uid in self._pods} | self._gone

    # ---- steps ---------------------------------------------------------------------------------

    async def _reconcile(self, uid: models.PodUid) -> None:
        try:
            await self._step(uid)
        except leadership.NotLeaderError:
            # This term ends, or the Lease is still ours after all: then it goes on.
            self._queue.add_after(uid, NOT_LEADER_PAUSE_S)

    async def _step(self, uid: models.PodUid) -> None:
        pod = self._pods.get(uid)
        action = self._plan(uid, pod)
        match action:
            case pods.Nothing():
                pass
            case pods.Forget():
                self._forget(uid)
            case pods.Wait(until_s):
                self._queue.add_after(uid, max(0.0, until_s - self._now_s()))
            case pods.Look():
                self._look.set()
            case pods.RemoveInstances(ids):
                await self._remove_instances(uid, ids)
            case _ if pod is not None:
                await self._act_on_pod(pod, action)
            case _:
                raise AssertionError(f"the plan {action} needs a pod")

    def _plan(self, uid: models.PodUid, pod: models.Pod | None) -> pods.Action:
        history, known = self._history.get(uid, _History()), self._known(uid)
        refusals: list[provider.Refusal] = []
        if pod is not None and known.belief is knowledge.Belief.ABSENT:
            refusals = self._refusals(pod)
        return pods.plan(
            pod,
            known,
            pod_is_gone=uid in self._gone,
            refusals=refusals,
            refused=history.refused,
            retry_at_s=history.retry_at_s,
            now_s=self._now_s(),
        )

    def _refusals(self, pod: models.Pod) -> list[provider.Refusal]:
        found = [
            provider.Refusal(refusal.reason, refusal.message, refusal.field)
            for refusal in admission.refusals(pod)
        ]
        return [*found, *self._provider.refusals(pod)]

    async def _act_on_pod(self, pod: models.Pod, action: pods.Action) -> None:
        now = self._clock.now()
        match action:
            case pods.Create():
                await self._create(pod)
            case pods.RemoveObject():
                await self._remove_object(pod)
            case pods.Refuse(refusal, until_s):
                await self._say(pod, refusal)
                if until_s is not None:
                    self._queue.add_after(pod.uid, max(0.0, until_s - self._now_s()))
            case pods.Fail(refusal):
                if await self._patch_status(pod, pods.failed_patch(pod, refusal, now)) and refusal:
                    self._warn(pod, "pod failed", refusal)
            case pods.ClearStatus():
                await self._patch_status(pod, pods.cleared_patch(pod))
            case _:
                raise AssertionError(f"the plan {action} needs no pod")

    async def _create(self, pod: models.Pod) -> None:
        # While the call is under way no listing can tell that it did nothing.
        self._knowledge.doubt(pod.uid, math.inf)
        self._starts.reached(pod.uid, starts.Step.CREATED)
        began_s = self._now_s()
        try:
            with self._starts.within(pod.uid), observing.step("create instance"):
                instance_id = await self._provider.create_instance(pod)
        except leadership.NotLeaderError:
            self._knowledge.settle_not_created(pod.uid)
            raise
        except provider.RefusedError as error:
            self._knowledge.settle_not_created(pod.uid)
            history = self._history.setdefault(pod.uid, _History())
            history.refusals += 1
            history.refused = pods.Refused(
                provider.Refusal(error.reason, str(error)),
                pods.fingerprint(pod),
                self._now_s() + REFUSED.delay_s(history.refusals),
            )
            self._queue.add(pod.uid)
        except provider.TryLaterError as error:
            self._knowledge.settle_not_created(pod.uid)
            await self._failed(pod, error.reason, error)
        except provider.ProviderError as error:
            self._knowledge.doubt(pod.uid, self._now_s())
            await self._failed(pod, "CreateOutcomeUnknown", error)
        except BaseException:
            self._knowledge.doubt(pod.uid, self._now_s())
            raise
        else:
            self._starts.reached(pod.uid, starts.Step.ACKNOWLEDGED)
            self._knowledge.acknowledge(pod.uid, instance_id, self._now_s())
            self._history.pop(pod.uid, None)
            log.info("instance created", pod=pod.key, pod_uid=pod.uid, instance=instance_id)
            for notice in self._provider.notices(pod):
                emit = self._events.warn if notice.is_warning else self._events.tell
                emit(pod, notice.reason, notice.message)
            told = starts.created_message(instance_id, self._now_s() - began_s, self._starts.since_s(pod.uid))
            self._events.tell(pod, "InstanceCreated", told)
            self._queue.add(pod.uid)

    async def _failed(self, pod: models.Pod, reason: reasons.Reason, error: provider.ProviderError) -> None:
        """Come back later, for ever; say so on the pod once it is no blip any more."""
        history = self._history.setdefault(pod.uid, _History())
        history.failures += 1
        delay_s = self._delay_s(history.failures, error)
        history.retry_at_s = self._now_s() + delay_s
        log.warning(
            "cannot create an instance",
            pod=pod.key,
            pod_uid=pod.uid,
            failures=history.failures,
            next_try_s=round(delay_s, 2),
            error=str(error),
        )
        self._queue.add(pod.uid)
        if history.failures >= FAILURES_TO_SHOW:
            await self._say(pod, provider.Refusal(reason, str(error)))

    def _delay_s(self, failures: int, error: provider.ProviderError) -> float:
        delay_s = self._backoff.delay_s(failures)
        match error:
            case provider.UnavailableError():
                return max(min(delay_s, AWAY_PAUSE_S), error.retry_after_s)
            case provider.TryLaterError():
                return max(delay_s, error.retry_after_s)
            case _:
                return min(delay_s, AWAY_PAUSE_S)

    async def _remove_instances(self, uid: models.PodUid, ids: tuple[provider.InstanceId, ...]) -> None:
        for instance_id in ids:
            try:
                await self._provider.remove_instance(instance_id)
            except provider.ProviderError as error:
                history = self._history.setdefault(uid, _History())
                history.removal_failures += 1
                delay_s = self._delay_s(history.removal_failures, error)
                log.warning(
                    "cannot remove an instance",
                    pod_uid=uid,
                    instance=instance_id,
                    next_try_s=round(delay_s, 2),
                    error=str(error),
                )
                pod = self._pods.get(uid)
                if pod is not None and history.removal_failures == FAILURES_TO_SHOW:
                    self._events.warn(
                        pod,
                        "InstanceNotRemoved",
                        f"Cannot remove instance {instance_id} yet, trying again: {error}",
                    )
                self._queue.add_after(uid, delay_s)
                return
            self._knowledge.removal_sent(uid, instance_id, self._now_s())
            log.info("instance removal asked for", pod_uid=uid, instance=instance_id)
        self._queue.add(uid)

    async def _remove_object(self, pod: models.Pod) -> None:
        try:
            await self._api.remove_pod(pod)
        except (errors.NotFoundError, errors.ConflictError):
            # It is gone, and a pod of another UID may have its name by now.
            return
        log.info("pod removed", pod=pod.key, pod_uid=pod.uid)

    async def _say(self, pod: models.Pod, refusal: provider.Refusal) -> None:
        """Put the reason on the pod, with one event; nothing if it stands there already."""
        patch = pods.refused_patch(pod, refusal, self._clock.now())
        if patch is not None and await self._patch_status(pod, patch):
            self._warn(pod, "pod is kept pending", refusal)

    async def _patch_status(self, pod: models.Pod, patch: dict[str, object]) -> bool:
        try:
            await self._api.patch_status(pod, patch)
        except (errors.NotFoundError, errors.ConflictError):
            # The pod changed since; its change is on the way to us and is planned anew.
            return False
        return True

    def _warn(self, pod: models.Pod, event: str, refusal: provider.Refusal) -> None:
        log.info(event, pod=pod.key, pod_uid=pod.uid, reason=refusal.reason, message=refusal.message)
        self._events.warn(pod, refusal.reason, refusal.message)

    def _forget(self, uid: models.PodUid) -> None:
        self._knowledge.forget(uid)
        self._starts.forget(uid)
        self._history.pop(uid, None)
        self._known_pods.discard(uid)
        self._gone.discard(uid)

    @property
    def depth(self) -> int:
        """How many pods wait to be looked at, or are looked at now."""
        return len(self._queue)

    # ---- for the kubelet API -------------------------------------------------------------------

    def all_pods(self) -> Mapping[str, models.Pod]:
        """NotLeaderError before they are known: what was not seen yet would be told as what is not there."""
        if not self._synced.is_set():
            raise leadership.NotLeaderError("cannot say anything of the node's pods: they are not listed yet")
        return self._pods

    def instance_of(self, uid: models.PodUid) -> provider.Instance | None:
        """The instance that runs this pod, as far as is known."""
        found = self._known(uid).instances
        return found[0] if found else None

    def _known(self, uid: models.PodUid) -> knowledge.Known:
        return self._knowledge.of(uid, window_s=self._provider.consistency_window_s)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
