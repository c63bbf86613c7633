"""A queue of keys: each key waits at most once, and is never worked on twice at once.

Ported idea: client-go's workqueue and virtual-kubelet's internal/queue, without their limit on
retries: work is never forgotten, only its delay is capped.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from kci.kit import backoff as backoffs
from kci.kit import observing, tasks

K = TypeVar("K", bound=Hashable)
log = structlog.get_logger(__name__)


class WorkQueue(Generic[K]):
    """Keys to be reconciled by `run(reconcile, workers=n)`.

    `add` while a key is being worked on makes it run once more afterwards. A reconcile that
    raises is logged and the key comes back after its own backoff; other keys are not slowed down.
    """

    def __init__(
        self,
        name: str,
        backoff: backoffs.Backoff | None = None,
        *,
        on_taken: observing.OnTime = observing.no_time,
        on_worked: observing.OnCall = observing.no_call,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_taken` is told how long a key waited for a worker, by `now_s`, `on_worked` each work."""
        self.name = name
        self._now_s = now_s
        self._on_taken = on_taken
        self._on_worked = on_worked
        self._backoff = backoff or backoffs.Backoff()
        # Each key with the moment at which it was ready. No loop's time: `add` is also for who has none.
        self._ready: collections.OrderedDict[K, float] = collections.OrderedDict()
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._failures: collections.Counter[K] = collections.Counter()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._waiters: collections.deque[asyncio.Future[None]] = collections.deque()

    def __len__(self) -> int:
        return len(self._ready) + len(self._active)

    def add(self, key: K) -> None:
        """Have the key worked on as soon as a worker is free."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._active:
            self._again.add(key)
            return
        self._make_ready(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Have the key worked on after a delay, or earlier if `add` comes first."""
        if key in self._ready:
            return
        timer = self._timers.pop(key, None)
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if timer is not None:
            due = min(due, timer.when())
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._on_timer, key)

    async def run(self, reconcile: Callable[[K], Awaitable[None]], *, workers: int) -> None:
        """Work until cancelled."""
        try:
            async with tasks.Tasks() as group:
                for number in range(workers):
                    group.run_forever(f"{self.name}[{number}]", self._work(reconcile))
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _work(self, reconcile: Callable[[K], Awaitable[None]]) -> None:
        while True:
            key = await self._take()
            try:
                with observing.told(self._on_worked, self.name):
                    await reconcile(key)
            except Exception as error:
                self._failures[key] += 1
                delay_s = self._backoff.delay_s(self._failures[key])
                log.warning(
                    "work failed, trying again",
                    queue=self.name,
                    key=str(key),
                    failures=self._failures[key],
                    next_try_s=round(delay_s, 2),
                    error=repr(error),
                    exc_info=not isinstance(error, OSError),
                )
                self._done(key)
                self.add_after(key, delay_s)
            else:
                self._failures.pop(key, None)
                self._done(key)

    async def _take(self) -> K:
        while not self._ready:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        key, since_s = self._ready.popitem(last=False)
        self._on_taken(self._now_s() - since_s)
        self._active.add(key)
        return key

    def _done(self, key: K) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._make_ready(key)

    def _on_timer(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _make_ready(self, key: K) -> None:
        _ = self._ready.setdefault(key, self._now_s())
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
