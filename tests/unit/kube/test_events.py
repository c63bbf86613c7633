"""Events are counted, combined and limited, and wait for the server without holding anybody up."""

import asyncio
import datetime
import itertools

import pytest
from fakes import kube_api, virtual_time

from kci.kit import backoff, tasks
from kci.kube import errors, events, models, resources

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
POD = events.Reference(kind="Pod", namespace="ns", name="p", uid="u")


class StillClock:
    def now(self):
        return NOW


def take(aggregator, message="m", *, after_s=0, about=POD, reason="R"):
    now = NOW + datetime.timedelta(seconds=after_s)
    return aggregator.take(about, type=events.WARNING, reason=reason, message=message, now=now)


def test_the_same_is_counted_and_the_different_has_a_name_of_its_own():
    aggregator = events.Aggregator()
    first = take(aggregator)
    other = take(aggregator, "other")
    again = take(aggregator, after_s=5)
    assert first is again
    assert (again.count, again.first, again.last) == (2, "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z")
    assert other.name != first.name
    assert first.name.startswith("p.")


def test_many_texts_of_one_reason_become_one_event():
    aggregator = events.Aggregator()
    names = {take(aggregator, f"text {number}").name for number in range(20)}
    assert len(names) == 10
    last = take(aggregator, "text 20")
    assert last.message == "(combined from similar events): text 20"
    later = take(aggregator, "text 21", after_s=3600)
    assert later.message == "text 21"


def test_an_object_that_never_ceases_is_heard_less_often():
    aggregator = events.Aggregator()
    taken = [take(aggregator) for _ in range(30)]
    assert taken[24] is not None
    assert taken[25:] == [None] * 5
    assert take(aggregator, about=events.of_node("n1")) is not None, "others are heard"
    assert take(aggregator, after_s=301) is not None


def test_references_are_written_as_a_kubelet_writes_them():
    meta = models.ObjectMeta(name="p", namespace="ns", uid="u")
    pod = models.Pod(
        metadata=meta,
        spec=models.PodSpec(
            containers=(models.Container(name="c"),), init_containers=(models.Container(name="i"),)
        ),
    )
    assert events.of_pod(pod, container="c").field_path == "spec.containers{c}"
    assert events.of_pod(pod, container="i").field_path == "spec.initContainers{i}"
    assert events.of_pod(pod).field_path == ""
    assert (events.of_node("n1").uid, events.of_node("n1").namespace) == ("n1", "")


async def sent(api, *, namespace, count):
    watch = api.watch(resources.EVENTS, namespace=namespace, resource_version="0")
    async for event in watch:
        if event.object.count == count:
            await watch.aclose()
            return event.object
    raise AssertionError("the watch ended")


async def test_what_waits_during_an_outage_is_one_write():
    api = kube_api.FakeApi()
    api.write_failures = [errors.UnreachableError("cannot create"), errors.TryLaterError("cannot create")]
    recorder = events.EventRecorder(
        api, component="c", host="n1", clock=StillClock(), backoff=backoff.Backoff(initial_s=0.001)
    )
    for _ in range(4):
        recorder.record(events.of_node("n1"), type=events.NORMAL, reason="R", message="m" * 5000)
    async with tasks.background("recorder", recorder.run()), asyncio.timeout(10):
        event = await sent(api, namespace="default", count=4)
    assert api.version == 11, "one write"
    assert len(event.message) == 1024
    assert event.source == models.EventSource(component="c", host="n1")


async def test_an_event_that_expired_at_the_server_is_made_anew():
    api = kube_api.FakeApi()
    recorder = events.EventRecorder(api, component="c", host="n1", clock=StillClock())
    async with tasks.background("recorder", recorder.run()), asyncio.timeout(10):
        recorder.record(POD, type=events.NORMAL, reason="R", message="m")
        first = await sent(api, namespace="ns", count=1)
        await api.delete(resources.EVENTS, first.metadata.name, namespace="ns")
        api.forget()
        recorder.record(POD, type=events.NORMAL, reason="R", message="m")
        watch = api.watch(resources.EVENTS, namespace="ns", resource_version=str(api.version))
        async for event in watch:
            assert (event.kind.name, event.object.count) == ("ADDED", 1)
            break
        await watch.aclose()


async def test_a_refused_event_holds_up_no_other():
    api = kube_api.FakeApi()
    api.write_failures = [errors.ForbiddenError("the namespace is being deleted")]
    recorder = events.EventRecorder(api, component="c", host="n1", clock=StillClock())
    recorder.record(POD, type=events.NORMAL, reason="R", message="refused")
    recorder.record(POD, type=events.NORMAL, reason="R", message="taken")
    async with tasks.background("recorder", recorder.run()), asyncio.timeout(10):
        assert (await sent(api, namespace="ns", count=1)).message == "taken"


class SlowApi:
    """A server that takes its time for each Event."""

    def __init__(self):
        self.times_s = []
        self.has_three = asyncio.Event()

    async def create(self, _resource, body, *, namespace=""):
        await asyncio.sleep(0.1)
        self.times_s.append(asyncio.get_running_loop().time())
        if len(self.times_s) == 3:
            self.has_three.set()


def test_many_events_yield_to_other_work():
    """Sent one by one, with a rest after each that grows with what it cost."""
    api = SlowApi()
    recorder = events.EventRecorder(api, component="c", host="n1", clock=StillClock())

    async def tell_three():
        for message in "abc":
            recorder.record(POD, type=events.NORMAL, reason="R", message=message)
        async with tasks.background("recorder", recorder.run()):
            await api.has_three.wait()

    with asyncio.Runner(loop_factory=virtual_time.VirtualLoop) as runner:
        runner.run(tell_three())
    assert [later - earlier for earlier, later in itertools.pairwise(api.times_s)] == pytest.approx(
        [0.4, 0.4]
    )
