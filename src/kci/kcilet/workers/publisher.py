"""One pod's status on its way to the source: the newest only, one write at a time, until it is there.

What somebody else wrote over it is written again, at a bounded rate (plan/told.py). While the source is
away nothing piles up: what is kept is one status.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog

from kci.kcilet.plan import patches, told
from kci.kit import backoff as backoffs
from kci.kit import tasks
from kci.kube import models
from kci.source import errors, port

log = structlog.get_logger(__name__)
BACKOFF = backoffs.Backoff(initial_s=0.2, cap_s=30.0, jitter=0.3)


class Publisher:
    """`on_settled` is called after each write, and when the pod turns out to be gone. A status is written
    inside `around` of it.
    """

    def __init__(
        self,
        group: tasks.Tasks,
        name: str,
        on_settled: Callable[[], None],
        around: Callable[[models.PodStatus], contextlib.AbstractContextManager[None]] | None = None,
    ) -> None:
        self._group = group
        self._around = around or (lambda _: contextlib.nullcontext())
        self._name = name
        self._on_settled = on_settled
        self._wanted: models.PodStatus | None = None
        self._annotations: Mapping[str, str] = {}
        self._source: port.PodSource | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_final = False
        # The server said so; it holds for good, whatever a view shows that has not heard of it.
        self._is_gone = False
        self._accepted: told.Accepted | None = None

    @property
    def told(self) -> models.PodStatus | None:
        """The newest status that was to be written; None before the first."""
        return self._wanted

    @property
    def is_final_written(self) -> bool:
        """Whether the final status has arrived, or no pod is left to carry it. While the source does not
        know the pod, nobody can tell whether a status that was not written has to be.
        """
        if not self._is_final or (self._task is not None and not self._task.done()):
            return False
        is_accepted = self._accepted is not None and self._accepted.wanted == self._wanted
        return self._is_gone or is_accepted or self._is_shown()

    def _is_shown(self) -> bool:
        """Whether the source says that the status stands there, or that there is no pod."""
        if self._source is None or self._source.view.sight is port.Sight.UNKNOWN:
            return False
        return self._next_patch() is None

    def publish(
        self,
        source: port.PodSource,
        status: models.PodStatus,
        annotations: Mapping[str, str],
        *,
        is_final: bool,
    ) -> float | None:
        """Have this status written unless the source shows it already. Returns after how many seconds to ask
        again though nothing happens: somebody wrote over it, and it is too early to write it again.
        """
        self._source, self._wanted, self._annotations = source, status, annotations
        self._is_final = is_final
        is_writing = self._task is not None and not self._task.done()
        if is_writing or (step := self._next_patch()) is None:
            return None
        wait_s = self._wait_s(step[1])
        if wait_s > 0:
            return wait_s
        self._task = self._group.spawn(f"status {self._name}", self._write())
        return None

    def close(self) -> None:
        """Give up what is not written yet."""
        if self._task is not None:
            _ = self._task.cancel()

    def _next_patch(self) -> tuple[models.Pod, Mapping[str, object]] | None:
        if self._source is None or self._wanted is None or self._is_gone:
            return None
        view = self._source.view
        if view.sight is not port.Sight.PRESENT or view.pod is None:
            return None
        patch = patches.to_patch(view.pod, self._wanted, self._annotations)
        return None if patch is None else (view.pod, patch)

    def _wait_s(self, patch: Mapping[str, object]) -> float:
        """How long this patch of what is wanted has to wait."""
        assert self._wanted is not None
        return told.earliest_s(self._accepted, self._wanted, patch) - asyncio.get_running_loop().time()

    async def _write(self) -> None:
        failures = 0
        while (step := self._next_patch()) is not None and self._wait_s(step[1]) <= 0:
            pod, patch = step
            source, wanted = self._source, self._wanted
            assert source is not None
            assert wanted is not None
            try:
                with self._around(wanted):
                    await source.patch_status(pod, patch)
                failures = 0
                self._accepted = told.Accepted(
                    wanted,
                    patch,
                    at_s=asyncio.get_running_loop().time(),
                    is_repair=told.is_repair(self._accepted, wanted),
                )
            except errors.GoneError:
                self._is_gone = True
                log.info("status not written, the pod is gone", pod=pod.key, uid=pod.uid)
                break
            except Exception as error:
                failures += 1
                delay_s = BACKOFF.delay_s(failures)
                log.warning(
                    "status not written, trying again",
                    pod=pod.key,
                    uid=pod.uid,
                    failures=failures,
                    next_try_s=round(delay_s, 2),
                    error=str(error),
                    exc_info=not isinstance(error, errors.SourceError),
                )
                await asyncio.sleep(delay_s)
        # After this task is done, so that `is_final_written` is true by then.
        _ = asyncio.get_running_loop().call_soon(self._on_settled)
