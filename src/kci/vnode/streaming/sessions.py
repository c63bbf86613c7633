"""Who has which stream open: counts with a limit each, and one audit line at either end.

A caller that comes straight to the kubelet API is in nobody else's audit log.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Iterator

import structlog

from kci.kube import models

log = structlog.get_logger(__name__)


class TooManyError(Exception):
    """There are as many streams open as may be."""


class Sessions:
    """The streams that are open now."""

    def __init__(self, *, max_of_node: int, max_of_pod: int) -> None:
        self._max_of_node = max_of_node
        self._max_of_pod = max_of_pod
        self._of_pod: collections.Counter[models.PodUid] = collections.Counter()

    @contextlib.contextmanager
    def open(self, kind: str, pod: models.Pod, *, user: str, remote: str, **more: object) -> Iterator[None]:
        """Counts as one for the block; TooManyError if it is one too many."""
        if self._of_pod.total() >= self._max_of_node:
            raise TooManyError(
                f"cannot open another stream: {self._max_of_node} are open on this node, close some"
            )
        if self._of_pod[pod.uid] >= self._max_of_pod:
            raise TooManyError(
                f"cannot open another stream: {self._max_of_pod} are open on pod {pod.key}, close some"
            )
        audit = log.bind(user=user, remote=remote, stream=kind, pod=pod.key, pod_uid=pod.uid, **more)
        began_s = asyncio.get_running_loop().time()
        self._of_pod[pod.uid] += 1
        audit.info("stream opened")
        try:
            yield
        finally:
            self._of_pod[pod.uid] -= 1
            # Without this, every pod that there ever was stays counted.
            if not self._of_pod[pod.uid]:
                del self._of_pod[pod.uid]
            audit.info("stream closed", seconds=round(asyncio.get_running_loop().time() - began_s, 3))
