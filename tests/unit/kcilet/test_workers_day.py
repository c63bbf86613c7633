"""A day of a kcilet whose peers fail again and again: nothing is forgotten, nothing is started twice."""

import asyncio

import pytest
import simulation
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kcilet.plan.records import Phase
from kci.link import types as link

DAY_S = 24 * 3600.0
# Of a runtime's calls; each may fail before it had an effect.
CALLS = ("run_sandbox", "create_container", "start_container", "pull_image", "observe_pod", "stop_container")
PODS = 5


@pytest.mark.requirement("R12")
def test_a_day_of_failing_peers_forgets_no_pod(runs):
    for run in range(runs.scale(quick=2, faults=8, release=200)):
        simulation.run(_day(runs.random(run)), seed=runs.seed + run)


async def _day(chance):
    """The API server and the runtime fail for hours, containers exit and a kcilet is killed now and then."""
    loop = asyncio.get_running_loop()
    it = kcilet_world.World()
    uids = [f"uid-{number}" for number in range(PODS)]
    groups = [machine_world.group(pod_name=uid, pod_uid=uid, group_id=f"g-{uid}") for uid in uids]
    for uid in uids:
        it.cluster.put(machine_world.pod(uid=uid, name=uid))
    try:
        await it.start(*groups)
        end_s = loop.time() + DAY_S
        while loop.time() < end_s:
            await asyncio.sleep(chance.uniform(1, 3600))
            match chance.choice(["runtime", "cluster", "exit", "kill"]):
                case "runtime":
                    name = chance.choice(CALLS)
                    error = ports.UnavailableError(f"cannot {name}: the runtime does not answer")
                    it.runtime.fail_next[name].extend([error] * chance.randint(1, 20))
                case "cluster":
                    it.cluster.is_away = not it.cluster.is_away
                case "exit" if any(one.phase is Phase.RUNNING for one in it.runtime.containers.values()):
                    it.runtime.exit("app", chance.choice([0, 1]))
                case "kill":
                    await it.kill()
                    await it.start(*groups)
        it.cluster.is_away = False
        it.runtime.fail_next.clear()
        for uid in uids:
            await it.until(
                lambda uid=uid: (
                    it.phase(f"g-{uid}") is link.Phase.RUNNING and it.cluster.status(uid).phase == "Running"
                ),
                within_s=2 * 300.0,
            )
        assert it.runtime.most_live_sandboxes == 1
        live = [box.pod_uid for box in it.runtime.sandboxes.values() if box.ready]
        assert sorted(live) == uids
        for uid in uids:
            it.cluster.delete(uid, grace_s=5)
        await it.until(lambda: not any(it.left()), within_s=2 * 300.0)
    finally:
        it.runtime.close()
        await it.kill()
