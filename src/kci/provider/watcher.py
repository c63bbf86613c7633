"""What happens to this node's groups: the service's change stream where it has one, else polls.

A stream that breaks, a list that fails or is not whole never signals an absence: after a break the whole
list comes again. Polls are quick while something is young and slow when all is steady.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

import structlog

from kci.client import errors
from kci.contract import groups, ids
from kci.kit import backoff as backoffs
from kci.kit import observing
from kci.provider import faults, instances
from kci.vnode import provider

log = structlog.get_logger(__name__)

YOUNG_POLL_S = (2.0, 5.0)
STEADY_POLL_S = (15.0, 30.0)
# After a create or delete of ours, changes are expected for so long.
YOUNG_FOR_S = 120.0


class Api(Protocol):
    """What the watcher needs of the client."""

    async def list_container_groups(self) -> list[groups.ContainerGroup]: ...

    def watch_container_groups(
        self, *, cluster_id: str = "", node_name: str = ""
    ) -> AsyncGenerator[groups.GroupChange, None]: ...


class Watcher:
    """Lists and follows the groups of one node of one cluster."""

    def __init__(
        self,
        api: Api,
        *,
        cluster_id: str,
        node_name: str,
        on_restart: observing.OnCount = observing.no_count,
    ) -> None:
        self._api = api
        self._on_restart = on_restart
        self._cluster_id = cluster_id
        self._node_name = node_name
        self._young_until_s = 0.0
        self._hurry = asyncio.Event()
        self._backoff = backoffs.Backoff(initial_s=0.2, cap_s=30.0, jitter=0.5)

    def expect_change(self) -> None:
        """Something was asked for: look soon."""
        if not self._is_young():
            self._hurry.set()
        self._young_until_s = _now_s() + YOUNG_FOR_S

    async def list_now(self) -> provider.Listing:
        began_s = _now_s()
        with faults.translated():
            found = await self._api.list_container_groups()
        return provider.Listing(began_s, tuple(self._ours(found)))

    async def changes(self, *, by_stream: bool) -> AsyncIterator[provider.Change]:
        """Endless."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._stream() if by_stream else self._poll()) as source:
                    async for change in source:
                        failures = 0
                        yield change
            except (errors.KciError, provider.ProviderError) as error:
                failures += 1
                self._on_restart("containergroups")
                delay_s = self._backoff.delay_s(failures)
                log.warning("cannot follow the groups", next_try_s=round(delay_s, 2), error=str(error))
                await asyncio.sleep(delay_s)

    async def _stream(self) -> AsyncGenerator[provider.Change, None]:
        began_s, told = _now_s(), False
        known: dict[ids.GroupId, provider.Instance] = {}
        stream = self._api.watch_container_groups(cluster_id=self._cluster_id, node_name=self._node_name)
        async with contextlib.aclosing(stream) as lines:
            async for line in lines:
                if line.synced:
                    told = True
                    yield provider.Listing(began_s, tuple(known.values()))
                    continue
                if line.absent:
                    gone = known.pop(line.group_id, None)
                    if gone is not None:
                        yield provider.Gone(gone.id, gone.pod_uid)
                    continue
                for instance in self._ours([line.group] if line.group is not None else []):
                    known[line.group_id] = instance
                    if told:
                        yield provider.Seen(instance)

    async def _poll(self) -> AsyncGenerator[provider.Change, None]:
        while True:
            yield await self.list_now()
            low_s, high_s = YOUNG_POLL_S if self._is_young() else STEADY_POLL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(low_s, high_s)):  # noqa: S311  (spreads load)
                    await self._hurry.wait()
                    await asyncio.sleep(YOUNG_POLL_S[0])
            self._hurry.clear()

    def _ours(self, found: list[groups.ContainerGroup]) -> list[provider.Instance]:
        mine = (
            instances.to_instance(group)
            for group in found
            if instances.is_ours(group, cluster_id=self._cluster_id, node_name=self._node_name)
        )
        return [instance for instance in mine if instance is not None]

    def _is_young(self) -> bool:
        return _now_s() < self._young_until_s


def _now_s() -> float:
    return asyncio.get_running_loop().time()
