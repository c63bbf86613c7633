"""When tokens of service accounts are asked for, on a clock that jumps."""

import asyncio
import datetime

import pytest
from fakes import kcilet_world, machine_world, source_world
from fakes.source_world import group, sources_of, until

from kci.kube import errors
from kci.source import errors as source_errors


class Clock(machine_world.LoopClock):
    """A wall clock that somebody may set."""

    def __init__(self):
        self.ahead = datetime.timedelta(0)

    def now(self):
        return super().now() + self.ahead


class World:
    """A pod, and when it was told that there is something new."""

    def __init__(self, api, sources, pod):
        self.api = api
        self.pod = pod
        self.told_at_s = []
        self.source = sources.join(group(pod.uid), self._note)

    def _note(self):
        if self.source.content != self._content:
            self._content = self.source.content
            self.told_at_s.append(asyncio.get_running_loop().time())

    async def begin(self):
        await until(lambda: self.source.view.pod)
        self._content = self.source.content

    async def token(self, expiration_s=3600):
        return (await self.source.token(self.pod, audience="", expiration_s=expiration_s)).reveal()

    async def until_told(self):
        """How long it takes until a token is due."""
        count, before_s = len(self.told_at_s), asyncio.get_running_loop().time()
        while len(self.told_at_s) == count:  # noqa: ASYNC110  (time jumps)
            await asyncio.sleep(1)
        return self.told_at_s[-1] - before_s


def in_world(test):
    @kcilet_world.on_virtual_time
    async def run():
        api, clock = await source_world.new_api(), Clock()
        async with sources_of(api, clock, within_s=10**7) as sources:
            world = World(api, sources, await api.add_pod())
            world.clock = clock
            await world.begin()
            await test(world)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_world
async def test_a_token_is_renewed_at_four_fifths_of_its_life_again_and_again(world):
    for number in range(1, 20):
        assert await world.token() == f"default-{number}"
        assert await world.token() == f"default-{number}"
        assert 2870 - 1 <= await world.until_told() <= 2880 + 11
    assert world.api.tokens == 19


@in_world
async def test_the_life_that_was_granted_counts_not_the_one_asked_for(world):
    world.api.life_s = 600.0
    await world.token(expiration_s=7200)
    assert 470 - 1 <= await world.until_told() <= 480 + 11


@in_world
async def test_a_token_is_never_used_longer_than_a_day(world):
    world.api.life_s = 30 * 86400.0
    await world.token(expiration_s=30 * 86400)
    assert 86390 - 1 <= await world.until_told() <= 86400 + 11


@in_world
async def test_one_that_cannot_be_renewed_is_kept_and_asked_for_again_until_it_expires(world):
    refusal = errors.UnreachableError("cannot reach it")
    assert await world.token() == "default-1"
    await world.until_told()
    world.api.token_failures = [refusal, refusal]
    for _ in range(2):
        assert await world.token() == "default-1"
        assert await world.token() == "default-1"
        assert 30 - 1 <= await world.until_told() <= 30 + 11
    assert await world.token() == "default-2"
    await asyncio.sleep(3600)
    world.api.token_failures = [refusal]
    with pytest.raises(source_errors.SourceError, match="token of default"):
        await world.token()
    assert await world.token() == "default-3"


@in_world
async def test_a_wall_clock_that_is_set_lets_no_token_expire(world):
    await world.token()
    world.clock.ahead = datetime.timedelta(hours=-5)
    assert await world.until_told() <= 2880 + 11
    assert await world.token() == "default-2"
    # As after a sleep of the machine, during which its monotonic clock stood.
    world.clock.ahead = datetime.timedelta(0)
    assert await world.until_told() <= 11
    assert await world.token() == "default-3"


@in_world
async def test_tokens_of_pods_that_left_are_forgotten(world):
    await world.token()
    kept = world.source._cluster._tokens._kept
    assert len(kept) == 1
    world.source.leave()
    await asyncio.sleep(11)
    assert not kept
    assert not world.told_at_s
