"""The run that kills a service again and again under traffic: quick in one test, long in another."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random

import crash_points
import service_process
import service_traffic
from fakes import link_server

from kci.kit import tasks

_LONGEST_DELAY_S = 0.25
_REPORTS_WITHIN_S = 0.5
_TOLD_WITHIN_S = 10.0
# Passed by no traffic: tombstones live for a day.
_NOT_ON_THE_WAY = ("service.tombstones.",)


def points() -> list[str]:
    """Every crash point of the service, and the random kill between them."""
    names = [point.name for point in crash_points.list_points() if point.program == "kci-service"]
    return [name for name in names if not name.startswith(_NOT_ON_THE_WAY)]


async def survive(folder, chance: random.Random, kills: int) -> dict[str, int]:
    """Kill it so often, and check after each start. Returns how often each point was hit."""
    kcilet = link_server.LinkServer()
    hit = dict.fromkeys(points(), 0)
    order = itertools.cycle(chance.sample(list(hit), len(hit)))
    # The random moments.
    hit[""] = 0
    service = service_process.ServiceProcess(folder)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(kcilet.serve(str(folder / "kcilet.sock")))
        await stack.enter_async_context(service_process.ended(service))
        client = await stack.enter_async_context(service.client())
        traffic = service_traffic.Traffic(client, chance)
        for _ in range(kills):
            # Two of three at a point, where the interesting moments are.
            name = next(order) if chance.random() < 0.67 else ""
            # Some are passed only once in a life: the first time is enough until they were hit.
            time = chance.randint(1, 4) if hit[name] else 1
            await service.start(crash_at=f"{name} {time}" if name else "")
            # At a point it ends by itself; else at a random moment, or idle after all traffic.
            delay_s = None if name else chance.uniform(0.0, _LONGEST_DELAY_S)
            async with tasks.background("traffic", _check_and_load(traffic)) as load:
                await asyncio.wait([load], timeout=delay_s)
                if name:
                    # Reports come after the answers to what they are about.
                    await service.wait_ended(_REPORTS_WITHIN_S)
                hit[name] += bool(name) and service.has_ended
                await service.kill()
                await load
        await service.start()
        await traffic.settle()
        assert traffic.acknowledged[service_traffic.Stage.CREATED] > 0
        kept = {made.group_id for made in traffic.made}
        async with asyncio.timeout(_TOLD_WITHIN_S):
            # The service answers before it tells the kcilet.
            while set(kcilet.wanted) != kept:  # noqa: ASYNC110  (the kcilet tells nobody)
                await asyncio.sleep(0.02)
        assert await service.kill(15) == 0
    return hit


async def _check_and_load(traffic: service_traffic.Traffic) -> None:
    """What was acknowledged, then more of it; the service may die at any step of both."""
    with contextlib.suppress(*service_traffic.GONE):
        await traffic.check()
        await traffic.run()
