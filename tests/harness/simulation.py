"""A day in seconds: an event loop whose clock jumps to the next timer, and whose tasks run in an order that
follows from a seed.

Programs may rely on the order of callbacks (asyncio promises it), not on which of two tasks that can both
go on goes first: with a seed, that is thrown. Without one the loop is asyncio's own, in virtual time.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Given = TypeVarTuple("Given")
BEGIN_S = 1000.0
THREAD_TIMEOUT_S = 30.0


class StuckError(RuntimeError):
    """Nothing can ever happen any more: no timer is set and no task can run."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, before_each_turn: Callable[[], None]) -> None:
        super().__init__()
        self.now_s = BEGIN_S
        # Calls that threads are at work on.
        self.in_threads = 0
        self._before_each_turn = before_each_turn

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._before_each_turn()
        events: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if events or timeout == 0:
            return events
        if self.in_threads:
            # Their work takes real time, and no virtual one.
            return super().select(THREAD_TIMEOUT_S)
        if timeout is None:
            raise StuckError("nothing will ever happen: no timer is set and no task can run")
        self.now_s += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """For `asyncio.Runner(loop_factory=VirtualLoop)`."""

    def __init__(self, seed: int | None = None) -> None:
        self._chance = None if seed is None else random.Random(seed)
        self._jumping = _JumpingSelector(self._shuffle)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def run_in_executor(
        self, executor: Any, func: Callable[[Unpack[Given]], T], *args: *Given
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.in_threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._jumping.in_threads -= 1

    def _shuffle(self) -> None:
        """Give the tasks that can go on each other's places; other callbacks keep theirs."""
        ready: Any = self._ready  # type: ignore[attr-defined]  # asyncio shows it to nobody
        if self._chance is None or len(ready) < 2:
            return
        places = [place for place, handle in enumerate(ready) if _is_step(handle)]
        steps = [ready[place] for place in places]
        self._chance.shuffle(steps)
        for place, step in zip(places, steps, strict=True):
            ready[place] = step


def run(work: Coroutine[Any, Any, T], *, seed: int | None = None) -> T:
    """Run it to its end in virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(work)


def _is_step(handle: Any) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)
