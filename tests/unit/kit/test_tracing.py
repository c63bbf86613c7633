"""Traces: what leaves the program, and that nothing does without a collector."""

import asyncio
import subprocess
import sys
import threading

import collector
import pytest

from kci.kit import observing, tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _no_thread_goes_on():
    """The library's own are daemons, and choose by chance when to try again: other tests would see it."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
        assert not thread.is_alive(), thread.name


@pytest.fixture
def received():
    with collector.Collector() as one:
        yield one


@pytest.fixture
def variables(received, monkeypatch):
    """The environment of a program that is traced: the library reads it by itself."""
    chosen = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    return chosen


async def test_steps_are_children_of_the_span_that_is_current(received, variables):
    async with tracing.opened("program", "1", variables) as tracer:
        span = tracer.begin("start pod", attributes={"k8s.pod.uid": "u"})
        with observing.within(span), observing.step("call", kind=observing.Kind.CLIENT):
            own = observing.current().traceparent
            with observing.step("inner"):
                pass
        with pytest.raises(ValueError), observing.spanned(span.child("fails")):
            raise ValueError("s3cret")
        span.end()
    spans = {one.name: one for one in received.spans}
    root = spans["start pod"]
    assert not root.parent
    assert root.attributes["k8s.pod.uid"] == "u"
    assert spans["call"].parent == spans["fails"].parent == root.id
    assert spans["inner"].parent == spans["call"].id
    assert own.startswith(f"00-{root.trace}-{spans['call'].id}-")
    assert spans["fails"].attributes["error.type"] == "Value"
    assert root.service == "program"
    assert "s3cret" not in str(received.spans)


async def test_the_trace_of_another_program_goes_on(received, variables):
    async with tracing.opened("program", "1", variables) as tracer:
        tracer.begin("goes on", parent=PARENT).end()
        tracer.begin("begins", parent="no traceparent").end()
    spans = {one.name: one for one in received.spans}
    assert (spans["goes on"].trace, spans["goes on"].parent) == tuple(PARENT.split("-")[1:3])
    assert not spans["begins"].parent


async def test_names_and_the_sampler_are_the_environments(received, variables, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    chosen = {**variables, "OTEL_SERVICE_NAME": "mine"}
    async with tracing.opened("program", "1", chosen) as tracer:
        tracer.begin("left out").end()
        tracer.begin("sampled by who called", parent=PARENT).end()
    (one,) = received.spans
    assert (one.name, one.service) == ("sampled by who called", "mine")


async def test_a_collector_that_is_away_holds_up_no_stop(monkeypatch):
    # Nobody listens there.
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", variables["OTEL_EXPORTER_OTLP_ENDPOINT"])
    # Longer than a stop waits.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(tracing.FLUSH_S + 2))
    async with asyncio.timeout(tracing.FLUSH_S + 5), tracing.opened("program", "1", variables) as tracer:
        tracer.begin("lost").end()


async def test_without_a_collector_what_others_trace_is_carried_on():
    async with tracing.opened("program", "1", {}) as tracer:
        assert tracer is observing.NO_TRACER
        with observing.spanned(tracer.begin("call", parent=PARENT)), observing.step("inner"):
            assert observing.current().traceparent == PARENT
        with observing.spanned(tracer.begin("call", parent="; drop")), observing.step("inner"):
            assert observing.current() is observing.NO_SPAN


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
    ],
)
def test_a_collector_must_be_named(variables, wanted):
    assert tracing.is_wanted(variables) is wanted


@pytest.mark.parametrize("program", ["provider", "kcilet", "service"])
def test_programs_do_not_load_the_library_unless_they_are_traced(program):
    code = f"import sys, kci.{program}.main; print(any(m.startswith('opentelemetry') for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
