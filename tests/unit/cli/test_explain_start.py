"""Where a start's time went: every moment belongs to one phase."""

import datetime

import msgspec
import pytest

from kci.cli.explanation import facts, start, text
from kci.contract import starts
from kci.kube import models

NOW = datetime.datetime(2026, 1, 1, 12, 5, 0, tzinfo=datetime.UTC)
# The pod was made in this second.
MADE = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)


def at_s(offset_s):
    return MADE.timestamp() + offset_s


def stamp(offset_s):
    moment = MADE + datetime.timedelta(seconds=int(offset_s))
    return moment.isoformat().replace("+00:00", "Z")


def event(reason, offset_s, message=""):
    return models.Event(
        metadata=models.ObjectMeta(name=f"web.{round(at_s(offset_s) * 1e9):x}"),
        reason=reason,
        message=message,
        first_timestamp=stamp(offset_s),
    )


def pod(*, phase="Running", ready_after_s=2, **changes):
    return msgspec.convert(
        {
            "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": stamp(0)},
            "spec": {"nodeName": "vnode", "containers": [{"name": "main"}], **changes},
            "status": {
                "phase": phase,
                "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": stamp(ready_after_s)},
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(0)},
                ],
                "containerStatuses": [
                    {"name": "main", "state": {"running": {"startedAt": stamp(1.5)}}, "ready": True}
                ],
            },
        },
        models.Pod,
    )


def step(phase, began_s, ended_s):
    return starts.StartStep(
        step=phase, began_at_ms=round(1000 * at_s(began_s)), ended_at_ms=round(1000 * at_s(ended_s))
    )


TOLD = (
    event("Scheduled", 0.5),
    # Seen at 0.51, called at 0.55, answered at 0.6.
    event("InstanceCreated", 0.6, "Created instance g in 50ms (90ms after the pod was seen)"),
)
STEPS = starts.GroupStart(
    container_group_id="g",
    stored_at_ms=round(1000 * at_s(0.59)),
    steps=(
        step("known", 0.61, 0.62),
        step("volumes", 0.62, 0.7),
        step("image", 0.62, 1.0),
        step("sandbox", 0.62, 0.9),
        step("started", 1.0, 1.1),
        step("told", 1.15, 1.2),
    ),
)


def known(of=None, **more):
    return facts.Facts(pod=of or pod(), now=NOW, **more)


def took(found):
    return {one.phase: one.took_ms for one in found.phases}


def test_phases_are_the_whole_start_and_a_moment_is_whose_it_waited_for():
    found = start.explain(known(events=TOLD, start=STEPS))
    assert took(found) == {
        "created": pytest.approx(50, abs=1),
        "acknowledged": pytest.approx(40, abs=1),
        "wanted": pytest.approx(20, abs=1),
        "known": pytest.approx(10, abs=1),
        # Volumes and sandbox were done meanwhile.
        "image": pytest.approx(380, abs=1),
        "started": pytest.approx(100, abs=1),
        "waited": pytest.approx(50, abs=1),
        "told": pytest.approx(50, abs=1),
    }
    assert found.total_ms == sum(took(found).values()) == pytest.approx(700, abs=3)
    assert sum(one.share for one in found.phases) == pytest.approx(1)


def test_a_wait_for_the_scheduler_counts_from_a_second_on():
    late = (event("Scheduled", 30.5), event("InstanceCreated", 30.6, "Created instance g in 50ms"))
    found = start.explain(known(events=late))
    assert took(found)["scheduled"] == 30_500


def test_without_the_services_steps_events_tell():
    told = (*TOLD, event("Pulling", 1.0), event("Pulled", 3.0), event("Created", 3.1), event("Started", 3.2))
    found = start.explain(known(events=told))
    assert took(found)["image"] == pytest.approx(2000, abs=1)
    assert took(found)["instance"] == pytest.approx(400, abs=1)
    assert took(found)["started"] == pytest.approx(100, abs=1)
    assert any("no steps" in note for note in found.notes)


def test_without_events_statuses_tell_to_the_second():
    found = start.explain(known())
    assert found.total_ms == 1000
    assert took(found) == {"waited": 1000}


def test_readiness_probes_take_what_comes_after():
    probed = pod(
        containers=[{"name": "main", "readinessProbe": {"tcpSocket": {"port": 1}}}], ready_after_s=20
    )
    found = start.explain(known(probed, events=TOLD, start=STEPS))
    assert took(found)["ready"] == pytest.approx(18_800, abs=1)


def test_a_pod_that_has_not_started_has_no_start():
    assert start.explain(known(pod(phase="Pending"))) is None


def test_the_waterfall_shows_each_phase():
    found = start.explain(known(events=TOLD, start=STEPS))
    lines = list(text.lines(known(), [], found))
    assert lines[0].endswith("runs and is ready")
    assert any(line.startswith("  image") and "380 ms" in line and "54%" in line for line in lines)


def test_the_moment_of_an_event_is_in_its_name_unless_that_is_another_kind_of_name():
    assert facts.moment_s(event("Started", 1.25)) == pytest.approx(at_s(1.25), abs=1e-6)
    other = models.Event(metadata=models.ObjectMeta(name="web.0123456789abcdef"), first_timestamp=stamp(3))
    assert facts.moment_s(other) == at_s(3)
