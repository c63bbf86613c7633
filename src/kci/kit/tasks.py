"""The one place where asyncio tasks are created.

A `Tasks` group owns what it spawns: each task has a name, an error in one of them ends the group
(and is raised where the group is awaited), and leaving the group waits until all of them ended.
A task that nobody holds would fail in silence; that is why `create_task`, `gather` and
`ensure_future` are banned elsewhere.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import signal
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, Self, TypeVar, cast

import structlog

T = TypeVar("T")
log = structlog.get_logger(__name__)


class TaskEndedError(Exception):
    """A task that should run for ever returned."""


class Tasks:
    """A group of named tasks, used as `async with Tasks() as tasks:`.

    Leaving the block normally waits for all tasks; leaving it by an error or a cancellation
    cancels them first. The first task that fails cancels the others and its error is raised.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        _ = await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            first = group.exceptions[0]
            if len(group.exceptions) == 1:
                raise first from first.__cause__
            raise

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that may end by itself."""
        return self._group.create_task(work, name=name)

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Start work whose result nobody wants; the group still waits for it and sees its error."""
        _ = self.spawn(name, work)

    def run_forever(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Start work that must not end: if it returns, the group ends with TaskEndedError."""

        async def guard() -> None:
            await work
            raise TaskEndedError(f"the task {name!r} ended though it should run for ever")

        # Cancelled before its first step, the guard never gets to await the work.
        self.spawn(name, guard()).add_done_callback(lambda _: work.close())


async def wait_all(work: Iterable[Coroutine[Any, Any, T]], *, name: str, limit: int | None = None) -> list[T]:
    """Run several at once, at most `limit` at a time, and return their results in order.

    The first error cancels the rest and is raised.
    """
    gate = asyncio.Semaphore(limit) if limit else contextlib.nullcontext()

    async def one(step: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await step

    async with Tasks() as tasks:
        started = [tasks.spawn(f"{name}[{number}]", one(step)) for number, step in enumerate(work)]
    return [task.result() for task in started]


@contextlib.asynccontextmanager
async def background(name: str, work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run work beside the block and cancel it when the block ends; its error ends the block."""
    async with Tasks() as tasks:
        task = tasks.spawn(name, work)
        try:
            yield task
        finally:
            task.cancel()


async def first_of(*work: Coroutine[Any, Any, Any], name: str) -> None:
    """Run several at once until the first ends; the others are cancelled and awaited."""
    async with Tasks() as tasks:
        started = [tasks.spawn(f"{name}[{number}]", step) for number, step in enumerate(work)]
        await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
        for task in started:
            task.cancel()


async def finish(name: str, work: Coroutine[Any, Any, T], *, within_s: float) -> T:
    """Run what is better not cut off: cancelled, it still gets so long to end first."""
    async with Tasks() as tasks:
        task = tasks.spawn(name, _settle(work))
        try:
            result, error = await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task], timeout=within_s)
            raise
        finally:
            task.cancel()
    if error is not None:
        raise error
    return cast("T", result)


async def _settle(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    try:
        return await work, None
    except Exception as error:  # noqa: BLE001  (handed on)
        return None, error


async def in_thread(call: Callable[..., T], *args: Any) -> T:
    """Run a blocking call on the loop's bounded thread pool."""
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


class Latest(Generic[T]):
    """A value that changes, for tasks that wait for the next change; changes may be skipped over."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        self._value = value
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changes(self) -> AsyncIterator[T]:
        """Yield the value now and again after each change."""
        while True:
            version, changed = self._version, self._changed
            yield self._value
            if version == self._version:
                await changed.wait()


def run_program(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run a program's main coroutine on uvloop and return its exit code.

    SIGTERM and SIGINT set the event given to `main`, which then stops in order; a second signal
    cancels it. On SIGUSR1 the log is told how many tasks there are, by their names.
    """
    import uvloop  # here, so that the user's command does not load it for `--help`

    async def supervised() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()

        def on_signal() -> None:
            if stop.is_set() and task is not None:
                task.cancel()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGUSR1, _tell_tasks)
        return await main(stop)

    try:
        return uvloop.run(supervised())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


def _tell_tasks() -> None:
    # A name's first word says whose task it is; what follows is a pod or a group.
    names = collections.Counter(task.get_name().split(" ")[0] for task in asyncio.all_tasks())
    log.info("tasks", count=names.total(), names=dict(names.most_common(20)))
