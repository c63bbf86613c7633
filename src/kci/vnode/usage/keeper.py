"""Asks the provider what pods use, when somebody asks here, and keeps the last two answers.

What stays true: however many scrape, the provider is asked once in five seconds at most; and the two samples
that a rate is made of lie at least so far apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from kci.kit import clock, kept
from kci.kube import models
from kci.vnode import provider
from kci.vnode.usage import samples

# Below what anybody scrapes with: metrics-server at least every 10 s.
KEPT_S = 5.0
_NS = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class View:
    """What is to be told. Without samples the provider cannot say what pods use."""

    started_at_ns: int
    pods: Mapping[models.PodUid, models.Pod]
    now: samples.Sample | None = None
    before: samples.Sample | None = None


class UsageKeeper:
    """`pods` gives the node's pods, and raises while this copy may not speak for the node."""

    def __init__(
        self,
        source: provider.UsageProvider,
        *,
        pods: Callable[[], Mapping[str, models.Pod]],
        clock: clock.Clock,
        kept_s: float = KEPT_S,
    ) -> None:
        self._source = source
        self._pods = pods
        self._clock = clock
        self._started_at_ns = self._now_ns()
        self._last: samples.Sample | None = None
        self._kept = kept.Kept(self._read, for_s=kept_s)

    async def view(self) -> View:
        """ProviderError if nothing can be had now."""
        # First: a copy that may not speak asks nobody.
        pods = {pod.uid: pod for pod in self._pods().values()}
        now, before = await self._kept.get()
        return View(self._started_at_ns, pods, now, before)

    async def _read(self) -> tuple[samples.Sample | None, samples.Sample | None]:
        found = await self._source.read_usage()
        if found is None:
            return None, None
        before = self._last
        known = {pod.uid for pod in self._pods().values()}
        self._last = samples.next_sample(before, found, time_ns=self._now_ns(), known=known)
        return self._last, before

    def _now_ns(self) -> int:
        return int(self._clock.now().timestamp() * _NS)
