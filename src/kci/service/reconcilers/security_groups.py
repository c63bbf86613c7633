"""The engine has the security groups as the source has them: all of them, whenever one has changed."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from kci.kit import backoff, crashpoints
from kci.service.app import security_groups
from kci.service.engines import port

log = structlog.get_logger(__name__)

_LOOK_AGAIN_S = 60.0


class SecurityGroupReconciler:
    """`signal` says that something has changed; `run` works until cancelled. An engine that has just
    connected gets them with everything else that is wanted (reports.py).
    """

    def __init__(self, engine: port.Engine, source: security_groups.SecurityGroupSource) -> None:
        self._engine = engine
        self._source = source
        self._backoff = backoff.Backoff(initial_s=0.1, cap_s=30.0)
        self._changed = asyncio.Event()
        self._told = 0

    def signal(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        failures = 0
        while True:
            wait_s = self._backoff.delay_s(failures) if failures else _LOOK_AGAIN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    _ = await self._changed.wait()
            self._changed.clear()
            try:
                await self._reconcile()
            except Exception as error:
                failures += 1
                log.warning(
                    "security groups not told",
                    failures=failures,
                    error=str(error),
                    exc_info=not isinstance(error, port.EngineError),
                )
            else:
                failures = 0

    async def _reconcile(self) -> None:
        known = await self._source.security_groups()
        if known.generation == self._told:
            return
        crashpoints.reached("service.set_security_groups.before")
        await self._engine.set_security_groups(known)
        crashpoints.reached("service.set_security_groups.after")
        self._told = known.generation
