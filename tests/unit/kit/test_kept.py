"""A value that is kept: one read for many who ask."""

import asyncio

import pytest
from fakes import virtual_time

from kci.kit import kept, tasks


class Source:
    def __init__(self):
        self.reads = 0
        self.error = None

    async def read(self):
        self.reads += 1
        await asyncio.sleep(1)
        if self.error:
            raise self.error
        return self.reads


@pytest.fixture
def jump():
    loop = virtual_time.VirtualLoop()
    yield loop.run_until_complete
    loop.close()


def test_many_who_ask_at_once_cost_one_read_and_the_next_comes_when_it_is_old(jump):
    async def main():
        source = Source()
        value = kept.Kept(source.read, for_s=5)
        assert await tasks.wait_all([value.get() for _ in range(50)], name="many") == [1] * 50
        await asyncio.sleep(4.9)
        assert await value.get() == 1
        await asyncio.sleep(0.2)
        assert await value.get() == 2

    jump(main())


def test_a_failure_is_kept_as_a_value_is(jump):
    async def main():
        source = Source()
        source.error = ValueError("no")
        value = kept.Kept(source.read, for_s=5)
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                await value.get()
        assert source.reads == 1
        source.error = None
        await asyncio.sleep(5)
        assert await value.get() == 2

    jump(main())


def test_who_leaves_takes_nothing_from_those_who_wait(jump):
    async def main():
        source = Source()
        value = kept.Kept(source.read, for_s=5)
        async with tasks.Tasks() as group:
            first = group.spawn("first", value.get())
            second = group.spawn("second", value.get())
            await asyncio.sleep(0.5)
            first.cancel()
            assert await second == 2

    jump(main())
