"""What groups use, read when somebody asks and at most once a second."""

from __future__ import annotations

from kci.kcilet import ports
from kci.kcilet.plan import usages
from kci.kcilet.workers import agent
from kci.kit import kept
from kci.link import types as link

KEPT_S = 1.0


class UsageReader:
    """For any number of askers."""

    def __init__(self, agent: agent.Agent, stats: ports.Stats) -> None:
        self._agent = agent
        self._stats = stats
        self._kept = kept.Kept(self._read, for_s=KEPT_S)

    async def usages(self) -> link.Usages:
        """DriverError if the accounts cannot be read."""
        return await self._kept.get()

    async def _read(self) -> link.Usages:
        groups = self._agent.running()
        return usages.to_usages(groups, await self._stats.read_usage(usages.to_accounts(groups)))
