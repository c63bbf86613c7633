"""Who starts: a few pods at a time, in the order in which they asked.

Starting is CPU-bound: in a burst a few at a time take as long in all as everything at once, and the first
pods are Ready far earlier. A place is kept for the whole start, or all pods would be half started together.
A start that hangs needs no CPU: after a while it does not count any more, and delays no other pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kci.kube import models


class Places:
    """Made and used in the event loop."""

    def __init__(self, count: int, *, counts_for_s: float) -> None:
        self._free = count
        self._counts_for_s = counts_for_s
        self._waiting: dict[models.PodUid, Callable[[], None]] = {}
        # Whose turn it is; without a timer once it does not count any more.
        self._held: dict[models.PodUid, asyncio.TimerHandle | None] = {}

    def take(self, uid: models.PodUid, on_turn: Callable[[], None]) -> bool:
        """Whether it is this pod's turn already; if not, `on_turn` is called when it is."""
        if self._free and uid not in self._held:
            self._hold(uid)
        if uid in self._held:
            return True
        self._waiting[uid] = on_turn
        return False

    def is_held(self, uid: models.PodUid) -> bool:
        return uid in self._held

    def give_back(self, uid: models.PodUid) -> None:
        """The start is over, or not wanted any more; safe without a place."""
        _ = self._waiting.pop(uid, None)
        timer = self._held.pop(uid, None)
        if timer is not None:
            timer.cancel()
            self._let_next()

    def _hold(self, uid: models.PodUid) -> None:
        self._free -= 1
        loop = asyncio.get_running_loop()
        self._held[uid] = loop.call_later(self._counts_for_s, self._on_overdue, uid)

    def _on_overdue(self, uid: models.PodUid) -> None:
        self._held[uid] = None
        self._let_next()

    def _let_next(self) -> None:
        self._free += 1
        if self._waiting:
            uid = next(iter(self._waiting))
            on_turn = self._waiting.pop(uid)
            self._hold(uid)
            on_turn()
