"""What pods use, on this machine's cgroups and links."""

import asyncio
import os
import time

NS = 1_000_000_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# A process that is busy for as long as it may be.
BUSY = ("sh", "-c", "while :; do :; done")


async def read(machine, started):
    found = await machine.stats.read_usage({started.pod.uid: (started.container_id,)})
    return found[started.pod.uid]


async def test_a_container_that_may_have_half_a_core_is_told_with_what_its_process_ran(machine):
    started = await machine.run(*BUSY, cpu_milli=500)
    before, ran_before_s = await read(machine, started), await ran_s(machine, started)
    await asyncio.sleep(4)
    now, ran_now_s = await read(machine, started), await ran_s(machine, started)
    took_s = (now.usage.time_ns - before.usage.time_ns) / NS
    # On a machine that is busy with other things it gets less than it may.
    ran = (ran_now_s - ran_before_s) / took_s
    for earlier, later in (
        (before.usage, now.usage),
        (before.containers[started.container_id], now.containers[started.container_id]),
    ):
        cores = (later.cpu_core_ns - earlier.cpu_core_ns) / (later.time_ns - earlier.time_ns)
        assert 0 < cores < 0.6
        assert abs(cores - ran) < 0.1
    assert now.usage.cpu_core_ns >= now.containers[started.container_id].cpu_core_ns


async def ran_s(machine, started):
    """The kernel's account of the busy process itself."""
    fields = (await machine.ask(started, "cat", "/proc/1/stat")).split()
    return (int(fields[13]) + int(fields[14])) / TICKS_PER_S


async def test_memory_that_is_held_is_in_the_working_set_and_below_the_limit(machine):
    script = "sleep 1000 & dd if=/dev/zero of=/dev/shm/held bs=1M count=40 2>/dev/null; wait"
    started = await machine.run("sh", "-c", script, memory_mib=128)
    async with asyncio.timeout(20):
        while True:
            found = await read(machine, started)
            one = found.containers[started.container_id]
            # What wrote it has gone, too.
            if one.working_set_bytes >= 40 << 20 and one.processes == 2:
                break
            await asyncio.sleep(0.05)
    assert 40 << 20 <= one.working_set_bytes < 60 << 20
    assert one.working_set_bytes <= one.memory_bytes
    assert found.usage.memory_limit_bytes == 128 << 20
    assert found.usage.working_set_bytes >= one.working_set_bytes
    assert one.page_faults > 0
    # The shell and its sleep; of the pod its sandbox as well.
    assert (one.processes, found.usage.processes) == (2, 3)


async def test_traffic_is_told_as_the_pod_sees_it(machine):
    started = await machine.run("sleep", "1000")
    before = (await read(machine, started)).traffic
    await machine.ask(started, "ping", "-c", "5", "-s", "1000", "10.88.0.1")
    now = (await read(machine, started)).traffic
    assert now.sent_bytes - before.sent_bytes > 5000
    assert now.received_bytes - before.received_bytes > 5000


async def test_what_has_ended_is_left_out(machine):
    started = await machine.run("true")
    await machine.ended(started)
    found = await machine.stats.read_usage({started.pod.uid: (started.container_id,), "absent": ("x",)})
    assert set(found) == {started.pod.uid}
    assert found[started.pod.uid].containers == {}


async def test_many_pods_are_cheap(machine):
    started = [await machine.run("sleep", "1000") for _ in range(4)]
    pods = {one.pod.uid: (one.container_id,) for one in started}
    began = time.perf_counter()
    for _ in range(50):
        assert len(await machine.stats.read_usage(pods)) == 4
    took_ms = 1000 * (time.perf_counter() - began)
    print(f"200 pods: {took_ms:.0f} ms")
    assert took_ms < 2000
