"""A day of a service whose machine is away for hours: nothing that was acknowledged is forgotten."""

import asyncio
import contextlib
import uuid

import pytest
import requirements
import service_world
import simulation
from fakes import engine as engines

from kci.kit import clock, tasks
from kci.service.app import accounts, changes, groups, replays
from kci.service.engines import port
from kci.service.reconcilers import groups as group_reconciler
from kci.service.reconcilers import reports
from kci.service.store import database

HOUR_S = 3600.0
TENANT = service_world.ALICE.tenant_id


class FlakyEngine:
    """The memory engine behind a line that is away for hours and loses answers."""

    def __init__(self, chance):
        self.inner = engines.MemoryEngine()
        self.is_away = False
        self._chance = chance

    @contextlib.asynccontextmanager
    async def observe(self):
        self._check()
        async with self.inner.observe() as told:
            yield self._until_away(told)

    async def sync(self, wanted, **others):
        await self._call(self.inner.sync(wanted, **others))

    async def ensure(self, group):
        await self._call(self.inner.ensure(group))

    async def remove(self, group_id):
        await self._call(self.inner.remove(group_id))

    async def _call(self, work):
        with contextlib.closing(work):
            self._check()
            await work
        if self._chance.random() < 0.05:
            raise port.UnreachableError("cannot hear the answer")

    def _check(self):
        if self.is_away:
            raise port.UnreachableError("cannot reach the machine")

    async def _until_away(self, told):
        begun = asyncio.get_running_loop().time()
        async for report in told:
            if self.is_away or asyncio.get_running_loop().time() - begun > HOUR_S:
                raise port.UnreachableError("the line broke")
            yield report


@pytest.mark.requirement("R12")
def test_a_day_without_its_machine_forgets_no_group(tmp_path, runs):
    hours = requirements.scaled(quick=4, faults=24, release=24)
    for run in range(runs.scale(quick=1, faults=1, release=30)):
        simulation.run(_day(tmp_path / f"{run}.db", runs.random(run), hours), seed=runs.seed + run)


async def _day(path, chance, hours):
    loop = asyncio.get_running_loop()
    engine = FlakyEngine(chance)
    with database.open_database(path, service_world.KEY) as store:
        wall = clock.SystemClock()
        used = replays.Replays(store, wall, window_s=300)
        reconciler = group_reconciler.GroupReconciler(engine)
        feed = changes.Feed()
        service = groups.GroupService(store, service_world.PLACE, feed, wall, used, on_work=reconciler.signal)
        reader = reports.ReportReader(engine, service, reconciler)
        await service_world.prepare(store)
        kept: set[str] = set()
        async with (
            tasks.background("groups", reconciler.run(service)),
            tasks.background("reports", reader.run()),
        ):
            end_s = loop.time() + hours * HOUR_S
            while loop.time() < end_s:
                await asyncio.sleep(chance.uniform(1, HOUR_S / 2))
                engine.is_away = chance.random() < 0.7
                identity = accounts.Identity(TENANT, "key", f"{chance.random()}", clock.SystemClock().now())
                # One at least stays, so that there is something to forget.
                if len(kept) > 1 and chance.random() < 0.4:
                    await service.delete(identity, kept.pop())
                else:
                    request = service_world.create_request(
                        pod_uid=str(uuid.UUID(int=chance.getrandbits(128)))
                    )
                    kept.add(await service.create(identity, request))
            engine.is_away = False
            async with asyncio.timeout(120):
                while (  # noqa: ASYNC110  (two sides are looked at; time jumps)
                    engine.inner.wanted.keys() != kept or set(await service.unfinished()) != kept
                ):
                    await asyncio.sleep(1)
