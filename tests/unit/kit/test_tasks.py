import asyncio

import pytest

from kci.kit import tasks


async def test_a_task_that_should_run_for_ever_and_ends_stops_the_group():
    async def short():
        pass

    async def long():
        await asyncio.Event().wait()

    with pytest.raises(tasks.TaskEndedError, match="watcher"):
        async with tasks.Tasks() as group:
            group.start("other", long())
            group.run_forever("watcher", short())


async def test_the_first_error_of_many_is_raised_itself_and_cancels_the_others():
    cancelled = asyncio.Event()

    async def fails():
        raise KeyError("x")

    async def waits():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(KeyError):
        await tasks.wait_all([waits(), fails()], name="pair")
    assert cancelled.is_set()


async def test_wait_all_keeps_order_and_bound():
    running = highest = 0

    async def step(number):
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0)
        running -= 1
        return number

    assert await tasks.wait_all([step(n) for n in range(20)], name="steps", limit=3) == list(range(20))
    assert highest == 3


async def test_latest_shows_the_newest_value_even_if_some_were_missed():
    latest = tasks.Latest(0)
    seen = []

    async def follow():
        async for value in latest.changes():
            seen.append(value)
            if value == 3:
                return
            await asyncio.sleep(0)

    async with asyncio.timeout(5), tasks.Tasks() as group:
        group.start("follow", follow())
        await asyncio.sleep(0)
        for value in (1, 2, 3):
            latest.set(value)
    assert seen[0] == 0
    assert seen[-1] == 3


async def test_work_that_is_cancelled_before_its_first_step_leaves_no_warning():
    async def never_started():
        await asyncio.Event().wait()

    with pytest.raises(KeyError):
        async with tasks.Tasks() as group:
            group.run_forever("late", never_started())
            raise KeyError("x")


async def test_what_is_better_not_cut_off_ends_before_its_cancellation_does():
    began, may_end, is_done = asyncio.Event(), asyncio.Event(), []

    async def works():
        began.set()
        await may_end.wait()
        is_done.append(True)

    async with tasks.Tasks() as group:
        task = group.spawn("caller", tasks.finish("work", works(), within_s=10))
        await began.wait()
        task.cancel()
        asyncio.get_running_loop().call_later(0.01, may_end.set)
        await asyncio.wait([task])
    assert task.cancelled()
    assert is_done


async def test_what_takes_too_long_after_all_is_cut_off():
    began = asyncio.Event()

    async def hangs():
        began.set()
        await asyncio.Event().wait()

    async with tasks.Tasks() as group:
        task = group.spawn("caller", tasks.finish("work", hangs(), within_s=0.01))
        await began.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


async def test_what_is_not_cut_off_hands_on_its_result_and_its_error():
    async def returns():
        return 7

    async def fails():
        raise KeyError("x")

    assert await tasks.finish("work", returns(), within_s=1) == 7
    with pytest.raises(KeyError):
        await tasks.finish("work", fails(), within_s=1)
