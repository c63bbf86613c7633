"""The line to the engine: on each connect the whole wanted set goes down first, then reports come up."""

from __future__ import annotations

import asyncio

import structlog

from kci.kit import backoff, crashpoints, observing
from kci.service.app import groups as app
from kci.service.app import security_groups
from kci.service.engines import port
from kci.service.reconcilers import groups

log = structlog.get_logger(__name__)


class ReportReader:
    """`run` works until cancelled."""

    def __init__(
        self,
        engine: port.Engine,
        service: app.GroupService,
        reconciler: groups.GroupReconciler,
        secured: security_groups.SecurityGroupSource | None = None,
        *,
        on_lost: observing.OnCount = observing.no_count,
    ) -> None:
        self._on_lost = on_lost
        self._engine = engine
        self._secured = secured
        self._service = service
        self._reconciler = reconciler
        self._backoff = backoff.Backoff(initial_s=0.1, cap_s=5.0)
        self._failures = 0
        # The last cause that was logged since the engine was in step.
        self._told = ""
        self._tried = asyncio.Event()

    async def wait_tried(self) -> None:
        """Returns once the engine was called for the first time, whether it answered or not."""
        _ = await self._tried.wait()

    async def run(self) -> None:
        """Ends with OtherStoreError: callers would be answered from a store that is not the right one."""
        while True:
            try:
                await self._follow()
            except port.OtherStoreError:
                raise
            except Exception as error:  # noqa: BLE001  (a worker's outermost loop)
                self._failures += 1
                self._on_lost()
                delay_s = self._backoff.delay_s(self._failures)
                self._tell(error, delay_s)
                self._tried.set()
                await asyncio.sleep(delay_s)

    def _tell(self, error: Exception, delay_s: float) -> None:
        """One warning as long as the cause is the same: the kcilet may well start after the service."""
        expected = isinstance(error, port.EngineError)
        text = str(error) if expected else repr(error)
        tell = log.debug if text == self._told else log.warning
        self._told = text
        tell(
            "engine is away",
            failures=self._failures,
            next_try_s=round(delay_s, 2),
            error=text,
            exc_info=not expected,
        )

    async def _follow(self) -> None:
        async with self._engine.observe() as reports:
            wanted, store_id = await self._service.wanted()
            # After the groups: those that they name are among them.
            secured = await self._secured.security_groups() if self._secured is not None else None
            crashpoints.reached("service.sync.before")
            await self._engine.sync(wanted, security_groups=secured, store_id=store_id)
            crashpoints.reached("service.sync.after")
            log.info("engine is in step", groups=len(wanted))
            self._failures, self._told = 0, ""
            self._tried.set()
            # What came, or was to go, while the set was on its way.
            await self._reconciler.signal_all(self._service)
            async for report in reports:
                await self._service.record(report)
