"""The n-th call on the kcilet's files fails, for n = 1 and on, while a pod comes and goes: it comes all the
same, goes without leaving anything, and nothing else that runs is touched.
"""

import asyncio
import contextlib
import itertools
import shutil
import signal

import needs
import node_processes
import node_world
import pytest
from node_program import kcilet, processes_of

__all__ = ["kcilet"]

# Calls that fail, how, and up to which n (strace counts each call of each thread by itself). Opening is that
# of cgroups and of everything else, too: descriptors are short for all alike.
FAULTS = (
    ("openat", "EMFILE", 36),
    ("openat", "EIO", 36),
    ("mkdir,mkdirat,symlinkat", "ENOSPC", 9),
    ("rename,renameat", "EIO", 1),
    ("rmdir,unlinkat", "EIO", 12),
)
# How soon a pod comes or goes when something failed on the way once: 10 s, and the time of a busy machine.
HEALS_S = 30


async def test_calls_on_the_kcilets_files_that_fail_are_made_good(kcilet, tmp_path, runs):
    needs.demand("" if shutil.which("strace") else "strace is not installed")
    node, chance = kcilet.node, runs.random()
    other = kcilet.add(node_world.FOREVER)
    parts = runs.scale(quick=1, faults=2, release=36)
    async with kcilet.running():
        await node_world.until(lambda: node.is_ready(other))
        bystander, patches = processes_of(node, other), len(node.cluster.patches)
        for calls, error, most in FAULTS if parts > 1 else chance.sample(FAULTS, 2):
            step = max(1, most // parts)
            # Not the last ones, which not every pod passes.
            first = chance.randint(1, max(1, step // 2))
            fired = 0
            for number in itertools.count(first, step):
                if not await come_and_go(kcilet, tmp_path / "trace", calls, error, number):
                    break
                fired += 1
                if parts == 1:
                    break
            assert fired, f"{calls} was never called"
        assert kcilet.crashes == 0
        assert processes_of(node, other) == bystander
        others = [one for one in node.cluster.patches[patches:] if one["metadata"]["uid"] == other.pod_uid]
        assert others == []


async def come_and_go(kcilet, trace, calls, error, number):
    """A pod, while the n-th such call fails. Whether one did."""
    group = kcilet.add(node_world.FOREVER)
    async with failing(kcilet.process.pid, trace, calls, error, number):
        kcilet.want()
        await within(lambda: kcilet.node.is_ready(group), f"started, {error} at {calls} {number}")
        kcilet.delete(group)
        await within(
            lambda: kcilet.phases.get(group.group_id) == "Gone", f"ended, {error} at {calls} {number}"
        )
    kcilet.groups.remove(group)
    return "(INJECTED)" in trace.read_text()


async def within(holds, what):
    try:
        await node_world.until(holds, within_s=HEALS_S)
    except TimeoutError:
        pytest.fail(f"not {what}")


@contextlib.asynccontextmanager
async def failing(pid, trace, calls, error, number):
    """The n-th such call of a process that runs fails."""
    strace = await asyncio.create_subprocess_exec(
        "strace", "-f", "-p", str(pid), "-o", str(trace), "-e", f"trace={calls}",
        "-e", f"inject={calls}:error={error}:when={number}",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await node_world.until(lambda: node_processes.is_traced(pid))
        yield
    finally:
        # It lets go of the process, which goes on.
        strace.send_signal(signal.SIGINT)
        await strace.wait()
