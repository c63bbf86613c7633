"""Shared looks: few, and never older than the question."""

import asyncio

import pytest

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import looks


class World:
    """A look ends when it is let; its number is what is seen."""

    def __init__(self):
        self.begun = []
        self.let = asyncio.Semaphore(0)
        self.failure = None
        self.looks = looks.Looks(self.look)

    def let_all(self):
        for _ in range(10):
            self.let.release()

    async def look(self, pods):
        self.begun.append(pods)
        number = len(self.begun)
        _ = await self.let.acquire()
        if self.failure is not None:
            raise self.failure
        return number


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def started(*work):
    loop = asyncio.get_running_loop()
    found = [loop.create_task(one) for one in work]
    await settle()
    return found


async def test_those_who_ask_during_a_look_share_the_next_one():
    it = World()
    first = await started(it.looks.at("a"))
    others = await started(it.looks.at("a"), it.looks.at("b"), it.looks.at("c"))
    it.let_all()
    assert [await one for one in first + others] == [1, 2, 2, 2]
    assert it.begun == [{"a"}, {"a", "b", "c"}]


async def test_an_error_is_for_all_who_share_it_and_for_no_one_later():
    it = World()
    it.failure = ports.UnavailableError("cannot look")
    first = await started(it.looks.at("a"))
    others = await started(it.looks.at("b"), it.looks.at("c"))
    it.let_all()
    for one in first + others:
        with pytest.raises(ports.UnavailableError):
            await one
    it.failure = None
    assert await it.looks.at("d") == 3


async def test_one_who_gives_up_leaves_the_look_to_the_others():
    it = World()
    (first,) = await started(it.looks.at("z"))
    leader, other = await started(it.looks.at("a"), it.looks.at("b"))
    it.let.release()
    assert await first == 1
    await settle()
    leader.cancel()
    await settle()
    it.let.release()
    assert await other == 3
    assert it.begun[1:] == [{"a", "b"}, {"a", "b"}]
