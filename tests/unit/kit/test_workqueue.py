import asyncio
import collections

import pytest
from fakes import virtual_time

from kci.kit import backoff, tasks, workqueue


async def test_a_key_added_while_worked_on_runs_once_more_and_never_twice_at_once():
    queue = workqueue.WorkQueue[str]("test")
    running: collections.Counter[str] = collections.Counter()
    runs: collections.Counter[str] = collections.Counter()
    started, release = asyncio.Event(), asyncio.Event()
    second = asyncio.Event()

    async def reconcile(key):
        running[key] += 1
        assert running[key] == 1
        runs[key] += 1
        if runs[key] == 1:
            started.set()
            await release.wait()
        else:
            second.set()
        running[key] -= 1

    async with tasks.background("queue", queue.run(reconcile, workers=3)):
        queue.add("a")
        await asyncio.wait_for(started.wait(), 5)
        for _ in range(5):
            queue.add("a")
        release.set()
        await asyncio.wait_for(second.wait(), 5)
        await asyncio.sleep(0)
    assert runs["a"] == 2


async def test_a_failing_key_comes_back_for_ever_and_does_not_hold_up_others():
    queue = workqueue.WorkQueue[str]("test", backoff.Backoff(initial_s=0.001, cap_s=0.001))
    tries: collections.Counter[str] = collections.Counter()
    enough, other = asyncio.Event(), asyncio.Event()

    async def reconcile(key):
        tries[key] += 1
        if key == "good":
            other.set()
            return
        if tries[key] >= 30:
            enough.set()
            return
        raise ValueError("not yet")

    async with tasks.background("queue", queue.run(reconcile, workers=1)):
        queue.add("bad")
        queue.add("good")
        await asyncio.wait_for(other.wait(), 5)
        await asyncio.wait_for(enough.wait(), 5)
    assert tries["good"] == 1


async def test_add_takes_a_delayed_key_at_once():
    queue = workqueue.WorkQueue[str]("test")
    done = asyncio.Event()

    async def reconcile(_key):
        done.set()

    async with tasks.background("queue", queue.run(reconcile, workers=1)):
        queue.add_after("a", 3600)
        queue.add("a")
        await asyncio.wait_for(done.wait(), 5)


@pytest.mark.parametrize(("failures", "expected"), [(1, 1.0), (2, 2.0), (3, 4.0), (10, 8.0), (10_000, 8.0)])
def test_backoff_doubles_up_to_its_cap(failures, expected):
    plan = backoff.Backoff(initial_s=1, factor=2, cap_s=8, jitter=0)
    assert plan.delay_s(failures) == expected


def test_who_measures_is_told_how_long_keys_waited_and_how_work_ended():
    async def main():
        waited_s, worked = [], []
        queue = workqueue.WorkQueue(
            "q",
            on_taken=waited_s.append,
            on_worked=lambda *told: worked.append(told[:2]),
            now_s=asyncio.get_running_loop().time,
        )
        done = asyncio.Event()

        async def reconcile(key):
            await asyncio.sleep(2)
            if key == "b":
                done.set()
                raise ValueError(key)

        queue.add("a")
        queue.add("b")
        async with tasks.background("queue", queue.run(reconcile, workers=1)):
            await done.wait()
            await asyncio.sleep(0)
        assert waited_s[:2] == [0, 2]
        assert worked[:2] == [("q", "OK"), ("q", "Value")]

    with asyncio.Runner(loop_factory=virtual_time.VirtualLoop) as runner:
        runner.run(main())
