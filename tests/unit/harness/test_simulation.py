import asyncio
import collections
import time

import pytest
import simulation

from kci.kit import backoff, tasks, workqueue

DAY_S = 24 * 3600.0


async def order_of(count):
    """In which order tasks that all can go on do so."""
    order = []

    async def step(number):
        for _ in range(3):
            await asyncio.sleep(0)
            order.append(number)

    async with tasks.Tasks() as group:
        for number in range(count):
            group.start(str(number), step(number))
    return order


def test_the_order_of_tasks_follows_from_the_seed():
    orders = {seed: simulation.run(order_of(6), seed=seed) for seed in range(5)}
    assert all(simulation.run(order_of(6), seed=seed) == order for seed, order in orders.items())
    assert len({tuple(order) for order in orders.values()}) > 1
    assert simulation.run(order_of(6)) == list(range(6)) * 3


def test_callbacks_keep_their_order():
    async def work():
        order = []
        loop = asyncio.get_running_loop()
        for number in range(20):
            loop.call_soon(order.append, number)
        await asyncio.sleep(1)
        return order

    assert simulation.run(work(), seed=3) == list(range(20))


def test_a_day_passes_at_once_and_sockets_work():
    async def work():
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"over\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(DAY_S)
        return line, loop.time() - begun

    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def serve_and_work():
        nonlocal server
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            return await work()

    server = None
    begun = time.monotonic()
    line, passed_s = simulation.run(serve_and_work(), seed=1)
    assert line == b"over\n"
    assert passed_s >= DAY_S
    assert time.monotonic() - begun < 60


def test_a_wait_that_cannot_end_is_an_error():
    async def work():
        await asyncio.Event().wait()

    with pytest.raises(simulation.StuckError):
        simulation.run(work())


@pytest.mark.requirement("R12")
def test_a_queue_forgets_nothing_in_a_day_without_its_peer(runs):
    """24 h of failures, then all work is done within one longest delay; a key is never worked on twice."""
    keys = [f"key-{number}" for number in range(30)]

    async def day():
        loop = asyncio.get_running_loop()
        back_s = loop.time() + DAY_S
        attempts: collections.Counter[str] = collections.Counter()
        active: set[str] = set()
        done: dict[str, float] = {}
        all_done = asyncio.Event()
        queue = workqueue.WorkQueue[str]("day", backoff.Backoff(initial_s=0.2, cap_s=300))

        async def reconcile(key):
            assert key not in active
            active.add(key)
            try:
                attempts[key] += 1
                await asyncio.sleep(0.01)
                if loop.time() < back_s:
                    raise OSError("the peer is away")
                done.setdefault(key, loop.time() - back_s)
                if len(done) == len(keys):
                    all_done.set()
            finally:
                active.discard(key)

        async with tasks.background("queue", queue.run(reconcile, workers=4)):
            for key in keys:
                queue.add(key)
            await asyncio.wait_for(all_done.wait(), DAY_S + 600)
        return attempts, done

    for run in range(runs.scale(quick=1, faults=5, release=20)):
        attempts, done = simulation.run(day(), seed=runs.seed + run)
        assert done.keys() == set(keys)
        assert max(done.values()) <= 301
        # One each 240 to 300 s, and the quick ones at the beginning.
        assert max(attempts.values()) <= DAY_S / 240 + 20
