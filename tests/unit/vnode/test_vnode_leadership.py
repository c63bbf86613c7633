"""Copies of one node and one Lease: never two that may act, whatever is slow, paused, cut or lost."""

import asyncio
import contextlib
import dataclasses
import datetime
import itertools

import hypothesis
import pytest
from fakes import kube_api, virtual_time
from hypothesis import stateful
from hypothesis import strategies as st

from kci.kit import tasks
from kci.kube import errors, models, resources
from kci.provider import identity
from kci.vnode import leadership, lease

DURATION_S = leadership.DURATION_S


def claim(holder, epoch, version="1"):
    return leadership.Claim(holder=holder, epoch=epoch, renewed_at="", version=version)


def seen(standing, found, now_s=0.0):
    return leadership.see(standing, found, now_s)


A = leadership.Standing("a")


@pytest.mark.parametrize(
    ("standing", "now_s", "expected"),
    [
        (seen(A, None), 0.0, leadership.TakeOver(1, "")),
        (seen(A, claim("", 7)), 0.0, leadership.TakeOver(8, "1")),
        (seen(A, claim("a", 7)), 0.0, leadership.TakeOver(8, "1")),
        (seen(A, claim("b", 7)), 0.0, leadership.Wait(leadership.FOLLOW_S)),
        (seen(A, claim("b", 7)), DURATION_S - 1.0, leadership.Wait(DURATION_S)),
        (seen(A, claim("b", 7)), DURATION_S, leadership.TakeOver(8, "1")),
        # Deleted under its holder, which learns of it only when it renews.
        (seen(seen(A, claim("b", 7)), None, 9.0), 9.0, leadership.Wait(9.0 + leadership.FOLLOW_S)),
        (seen(seen(A, claim("b", 7)), None, 9.0), 9.0 + DURATION_S, leadership.TakeOver(8, "")),
        (dataclasses.replace(A, claim=claim("a", 8), epoch=8), 0.0, leadership.Renew("1")),
        (dataclasses.replace(seen(A, claim("a", 7)), has_namesake=True), 0.0, leadership.Wait(2.0)),
    ],
    ids=str,
)
def test_the_next_step_follows_from_the_lease_and_our_own_clock(standing, now_s, expected):
    assert leadership.decide(standing, now_s) == expected


def test_a_holder_acts_until_shortly_before_others_may_start():
    holder = leadership.wrote(A, claim("a", 1), began_s=100.0, now_s=103.0)
    assert leadership.may_act(holder, 100.0 + leadership.ACT_S - 0.1)
    assert not leadership.may_act(holder, 100.0 + leadership.ACT_S)
    assert not leadership.may_act(seen(holder, claim("b", 2)), 101.0)


def test_a_program_of_the_same_name_is_another_copy():
    holder = leadership.wrote(A, claim("a", 1), began_s=0.0, now_s=0.0)
    lost = seen(holder, claim("a", 2))
    assert not leadership.may_act(lost, 0.0)
    assert isinstance(leadership.decide(lost, 0.0), leadership.Wait)


def test_an_epoch_that_the_service_refuses_is_left_behind_in_leaps():
    standing, service_knows = leadership.wrote(A, claim("a", 1), began_s=0.0, now_s=0.0), 1000
    rounds = 0
    while standing.epoch < service_knows:
        standing = leadership.was_refused(standing, standing.epoch)
        assert not leadership.may_act(standing, 0.0)
        step = leadership.decide(standing, 0.0)
        standing = leadership.wrote(standing, claim("a", step.epoch), began_s=0.0, now_s=0.0)
        rounds += 1
    assert rounds <= 10


class Copies(stateful.RuleBasedStateMachine):
    """Reads and writes of several copies in any order, answers lost or late, clocks apart, restarts."""

    @stateful.initialize(offsets=st.lists(st.floats(0, 1e6), min_size=2, max_size=3))
    def begin(self, offsets):
        self.now_s, self.offsets = 0.0, offsets
        self.version, self.lease = 0, None
        self.epochs = []
        self.standings = [leadership.Standing(f"copy{number}") for number in range(len(offsets))]
        # Writes that were sent and have not arrived: (copy, step, sent at).
        self.sent = [None] * len(offsets)

    def clock(self, number):
        return self.now_s + self.offsets[number]

    copies = st.integers(0, 2)

    def pick(self, number):
        return number % len(self.standings)

    @stateful.rule(number=copies)
    def read(self, number):
        number = self.pick(number)
        self.standings[number] = leadership.see(self.standings[number], self.lease, self.clock(number))

    @stateful.rule(number=copies)
    def send(self, number):
        number = self.pick(number)
        step = leadership.decide(self.standings[number], self.clock(number))
        if not isinstance(step, leadership.Wait) and self.sent[number] is None:
            self.sent[number] = (step, self.standings[number], self.clock(number))

    @stateful.rule(number=copies, is_answered=st.booleans())
    def arrive(self, number, is_answered):
        number = self.pick(number)
        if self.sent[number] is None:
            return
        (step, sender, began_s), self.sent[number] = self.sent[number], None
        if step.version != (self.lease.version if self.lease else ""):
            return
        epoch = step.epoch if isinstance(step, leadership.TakeOver) else sender.epoch
        if isinstance(step, leadership.TakeOver):
            self.epochs.append(epoch)
        self.version += 1
        self.lease = claim(sender.identity, epoch, str(self.version))
        if is_answered and self.standings[number] is sender:
            self.standings[number] = leadership.wrote(
                sender, self.lease, began_s=began_s, now_s=self.clock(number)
            )

    @stateful.rule(number=copies)
    def do_a_whole_step(self, number):
        self.read(number)
        self.send(number)
        self.arrive(number, is_answered=True)

    # Most of the time nobody ends: else no copy would ever hold it for long.
    @stateful.rule(number=copies, way=st.sampled_from(["not", "not", "not", "crash", "stop"]))
    def end(self, number, way):
        number = self.pick(number)
        standing = self.standings[number]
        if way == "not":
            return
        self.standings[number], self.sent[number] = leadership.Standing(standing.identity), None
        if way == "stop" and standing.epoch and standing.claim.version == self.lease.version:
            self.version += 1
            self.lease = dataclasses.replace(self.lease, holder="", version=str(self.version))

    @stateful.rule(seconds=st.sampled_from([2.0, 9.0, 29.0, 41.0]))
    def pass_time(self, seconds):
        self.now_s += seconds

    @stateful.invariant()
    def at_most_one_acts(self):
        if not hasattr(self, "standings"):
            return
        acting = [
            standing.identity
            for number, standing in enumerate(self.standings)
            if leadership.may_act(standing, self.clock(number))
        ]
        assert len(acting) <= 1
        assert self.epochs == sorted(set(self.epochs)), "each take-over has a later epoch"


TestNeverTwoActAtOnce = pytest.mark.requirement("R26", runs=200)(Copies.TestCase)
TestNeverTwoActAtOnce.settings = hypothesis.settings(max_examples=200, stateful_step_count=60, deadline=None)


class Clock:
    def now(self):
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Copy:
    """A program that acts each second, as long as it may."""

    def __init__(self, world, name):
        self.name, self._world = name, world
        self.paused_until_s, self.api = 0.0, Line(world.api)
        self.keeper = lease.LeaseKeeper(
            self.api, node_name="vn", identity=name, clock=Clock(), now_s=world.loop.time
        )

    async def run(self):
        async with tasks.Tasks() as group:
            group.run_forever("lease", self.keeper.run())
            group.run_forever("terms", self.keeper.run_terms(self.work))

    async def work(self):
        self._world.terms.append(self.name)
        while True:
            with contextlib.suppress(leadership.NotLeaderError):
                self._world.effects.append((self._world.loop.time(), self.name, self.keeper.require()))
            await asyncio.sleep(1)


class Line:
    """One copy's line to the API server, which can be cut."""

    def __init__(self, api):
        self.is_cut, self._api = False, api

    def __getattr__(self, name):
        async def call(*given, **named):
            await asyncio.sleep(0.01)
            if self.is_cut:
                await asyncio.sleep(100)
            return await getattr(self._api, name)(*given, **named)

        return call


class World:
    def __init__(self):
        self.loop = virtual_time.VirtualLoop()
        self.api, self.effects, self.terms = kube_api.FakeApi(), [], []

    def run(self, coroutine):
        try:
            return self.loop.run_until_complete(coroutine)
        finally:
            self.loop.close()

    def who(self, since_s):
        return {name for at_s, name, _ in self.effects if at_s >= since_s}

    @property
    def lease(self):
        return next(iter(self.api._objects.values()))["spec"]


async def until_acting(world, name):
    while not world.effects or world.effects[-1][1] != name:  # noqa: ASYNC110  (its time is virtual)
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running(*copies):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(tasks.background(copy.name, copy.run())) for copy in copies]


def test_a_copy_that_is_cut_off_stops_before_the_other_starts_and_both_go_on_after():
    world = World()
    first, second = Copy(world, "first"), Copy(world, "second")

    async def main():
        async with running(first):
            await until_acting(world, "first")
            async with running(second):
                await asyncio.sleep(100)
                assert world.who(0) == {"first"}
                cut_s, first.api.is_cut = world.loop.time(), True
                await until_acting(world, "second")
                taken_s = world.loop.time()
                assert taken_s - cut_s <= DURATION_S + leadership.FOLLOW_S + 1
                last_s = max(at_s for at_s, name, _ in world.effects if name == "first")
                assert last_s <= cut_s + leadership.ACT_S
                first.api.is_cut = False
                await asyncio.sleep(100)
                assert world.who(taken_s) == {"second"}
                assert world.terms == ["first", "second"]
        epochs = [epoch for _, _, epoch in world.effects]
        assert epochs == sorted(epochs)
        assert world.lease["leaseTransitions"] == 2

    world.run(main())


def test_a_restart_takes_over_at_once_with_a_later_epoch():
    world = World()

    async def main():
        for life in (1, 2, 3):
            began_s = world.loop.time()
            async with running(Copy(world, "only")):
                await until_acting(world, "only")
                await asyncio.sleep(1.5)
                assert world.effects[-1][2] == life
            assert world.loop.time() - began_s < 3

    world.run(main())


def test_a_copy_that_stops_in_order_hands_over_at_once():
    world = World()
    first, second = Copy(world, "first"), Copy(world, "second")

    async def main():
        async with running(first):
            await until_acting(world, "first")
        async with running(second):
            await first.keeper.release()
            released_s = world.loop.time()
            await until_acting(world, "second")
            assert world.loop.time() - released_s <= leadership.FOLLOW_S + 0.2

    world.run(main())


def test_a_refused_epoch_ends_the_term_and_the_next_one_is_later():
    world = World()
    copy = Copy(world, "only")

    async def main():
        async with running(copy):
            await until_acting(world, "only")
            copy.keeper.refused(1)
            with pytest.raises(leadership.NotLeaderError):
                copy.keeper.require()
            await asyncio.sleep(2)
            assert world.effects[-1][2] > 1
            assert world.terms == ["only", "only"]

    world.run(main())


@pytest.mark.requirement("R23")
def test_the_heartbeat_is_renewed_each_ten_seconds_and_soon_again_after_a_failure():
    world = World()
    times = []

    class Watched(kube_api.FakeApi):
        async def patch(self, *given, **named):
            answer = await super().patch(*given, **named)
            times.append(world.loop.time())
            return answer

    world.api = Watched()
    copy = Copy(world, "only")

    async def main():
        async with running(copy):
            await asyncio.sleep(3600)
            world.api.write_failures = [errors.UnreachableError("cannot patch")] * 3
            await asyncio.sleep(60)

    world.run(main())
    gaps = [later - before for before, later in itertools.pairwise(times)]
    assert max(gaps) <= 15
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(10, abs=0.1)


def test_the_lease_is_made_again_for_a_node_made_again_and_its_time_never_goes_back():
    world = World()
    copy = Copy(world, "only")

    async def main():
        async with running(copy):
            await until_acting(world, "only")
            copy.keeper.hold_for(models.Node(metadata=models.ObjectMeta(name="vn", uid="n-1")))
            await asyncio.sleep(1)
            item = next(iter(world.api._objects.values()))
            assert item["metadata"]["ownerReferences"][0]["uid"] == "n-1"
            await world.api.delete(resources.LEASES, "vn", namespace=lease.NAMESPACE)
            await asyncio.sleep(25)
            assert world.lease["leaseTransitions"] == 2
            assert world.effects[-1][2] == 2

    world.run(main())


@pytest.mark.parametrize("minutes", [-60, 0, 60])
def test_the_renew_time_grows_whatever_the_clock_does(minutes):
    last = "2026-01-01T00:00:00.000000Z"
    now = datetime.datetime.fromisoformat(last) + datetime.timedelta(minutes=minutes)
    assert lease.next_renewal(now, last) > datetime.datetime.fromisoformat(last)


def test_an_identity_stays_with_its_file_and_a_second_program_gets_another(tmp_path):
    file = tmp_path / "copy"
    with identity.claimed("", file) as first, identity.claimed("", file) as second:
        assert first != second
    with identity.claimed("", file) as again:
        assert again == first
    with identity.claimed("given", file) as given:
        assert given == "given"
