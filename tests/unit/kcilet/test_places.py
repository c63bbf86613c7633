"""Whose turn it is to start."""

import asyncio

from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kcilet.plan import actions, histories, steps
from kci.kcilet.workers import places
from kci.link import types as link

RUN = histories.Wish.RUN


def planned(history=None, *, has_place, wish=RUN):
    world = steps.World(
        wish=wish,
        pod=machine_world.pod(),
        seen=ports.SeenPod("uid-1"),
        now_s=1000.0,
        has_place=has_place,
    )
    return steps.plan(world, history or histories.History(first_seen_s=1000.0))


def test_a_pod_whose_turn_it_is_not_asks_for_a_place_and_nothing_else():
    decision = planned(has_place=False)
    assert decision.wants_place
    assert decision.asked == ()


def test_a_pod_whose_turn_it_is_starts_and_keeps_its_place_meanwhile():
    decision = planned(has_place=True)
    assert decision.wants_place
    kinds = {type(action) for action in decision.asked}
    assert kinds == {actions.PrepareVolumes, actions.EnsureImage, actions.RunSandbox}


def test_a_place_is_not_kept_over_a_pull():
    pull = actions.EnsureImage("app", "app:1", "IfNotPresent")
    history = histories.begin(histories.History(first_seen_s=1000.0, pulling=frozenset({"app"})), pull)
    history = histories.fail(history, actions.RunSandbox(0), "Failed", "no", now_s=1000.0)
    history = histories.succeed(history, actions.PrepareVolumes(), now_s=1000.0)
    assert not planned(history, has_place=True).wants_place


def test_a_pod_that_ends_wants_no_place():
    assert not planned(has_place=False, wish=histories.Wish.REMOVE).wants_place


def test_a_failure_that_has_to_wait_waits_without_a_place():
    failed = histories.History(first_seen_s=1000.0, images={"app": ports.ImageRef("sha256:x")}, laid_out="")
    failed = histories.fail(failed, actions.RunSandbox(0), "Failed", "no", now_s=999.9)
    decision = planned(failed, has_place=False)
    assert not decision.wants_place
    assert decision.wake_at_s is not None


@kcilet_world.on_virtual_time
async def test_turns_come_in_the_order_in_which_they_were_asked_for():
    told = []
    it = places.Places(1, counts_for_s=3.0)
    assert it.take("a", lambda: told.append("a"))
    for uid in ("b", "c", "d"):
        assert not it.take(uid, lambda uid=uid: told.append(uid))
    # Asking again loses no ground, and who gives up is passed over.
    assert not it.take("b", lambda: told.append("b"))
    it.give_back("c")
    it.give_back("a")
    assert told == ["b"]
    assert it.is_held("b")
    # One that takes too long does not count any more, but may go on.
    await asyncio.sleep(3.1)
    assert told == ["b", "d"]
    assert it.is_held("b")
    it.give_back("b")
    it.give_back("d")
    assert it.take("e", lambda: None)
    assert not it.take("f", lambda: None)
    it.give_back("e")
    it.give_back("f")


@kcilet_world.on_virtual_time
async def test_in_a_burst_the_first_pods_run_before_the_last_begin():
    async with kcilet_world.world() as it:
        it.runtime.delays_s.update(run_sandbox=0.1, create_container=0.1, start_container=0.1)
        groups = []
        for number in range(20):
            it.cluster.put(machine_world.pod(name=f"p{number}", uid=f"u{number}"))
            groups.append(machine_world.group(f"p{number}", f"u{number}", f"g{number}"))
        await it.start(*groups)
        running = []

        def note():
            for number in range(20):
                if number not in running and it.phase(f"g{number}") is link.Phase.RUNNING:
                    running.append(number)
                    boxes.append(len(it.runtime.sandboxes))
            return len(running) == 20

        boxes = []
        await it.until(note)
        assert running == sorted(running)
        # When the tenth runs, only its neighbours are under way.
        assert boxes[9] <= 10 + 4
