"""Keeps the machine's firewall as the wanted groups and their security groups have it.

Woken whenever one of these changes; several changes at once are one. A firewall that could not be set is set
again until it is, and now and then without a change, should somebody else have taken it away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from kci.kcilet import ports
from kci.kit import backoff as backoffs
from kci.kit import crashpoints

log = structlog.get_logger(__name__)
BACKOFF = backoffs.Backoff(initial_s=0.05, cap_s=5.0)


class Guard:
    """`run` until cancelled; `wake` when something has changed."""

    def __init__(self, network: ports.Network, plan: Callable[[], ports.Firewall], *, again_s: float) -> None:
        self._network = network
        self._plan = plan
        self._again_s = again_s
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        failures = 0
        while True:
            wait_s = BACKOFF.delay_s(failures) if failures else self._again_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    _ = await self._changed.wait()
            self._changed.clear()
            try:
                crashpoints.reached("kcilet.guard.before")
                await self._network.guard(self._plan())
                crashpoints.reached("kcilet.guard.after")
            except Exception as error:
                failures += 1
                log.error(
                    "cannot set the firewall",
                    next_try_s=round(BACKOFF.delay_s(failures), 2),
                    error=str(error),
                    exc_info=not isinstance(error, ports.DriverError),
                )
            else:
                failures = 0
