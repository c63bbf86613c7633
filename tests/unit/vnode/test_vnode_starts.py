"""How long pods take to come up, step by step."""

import msgspec
import pytest
from fakes import tracer, vnode_world

from kci.kit import observing
from kci.kube import models
from kci.vnode import starts


class Watch:
    def __init__(self):
        self.now_s = 100.0
        self.told = []
        self.spans = tracer.Tracer()
        self.starts = starts.Starts(
            lambda took_s, *labels: self.told.append((took_s, *labels)), now_s=self.now, tracer=self.spans
        )

    def now(self):
        return self.now_s


@pytest.fixture
def watch():
    return Watch()


def with_status(phase, *, ready=False):
    status = models.PodStatus(
        phase=phase, conditions=(models.PodCondition(type="Ready", status="True" if ready else "False"),)
    )
    return msgspec.structs.replace(vnode_world.pod("u"), status=status)


def test_each_step_is_told_once_with_the_time_since_the_pod_was_seen(watch):
    watch.starts.saw(with_status("Pending"))
    for took_s, step in ((1, starts.Step.CREATED), (2, starts.Step.ACKNOWLEDGED)):
        watch.now_s = 100 + took_s
        watch.starts.reached("u", step)
        watch.starts.reached("u", step)
    watch.now_s = 103
    watch.starts.saw(with_status("Running"))
    watch.now_s = 104
    watch.starts.saw(with_status("Running", ready=True))
    watch.starts.saw(with_status("Running", ready=True))
    assert watch.told == [(1, "created"), (2, "acknowledged"), (3, "started"), (4, "ready")]


def test_a_pod_that_runs_already_does_not_start_here(watch):
    watch.starts.saw(with_status("Running", ready=True))
    watch.starts.reached("u", starts.Step.CREATED)
    assert watch.told == []


def test_a_pod_that_went_is_forgotten(watch):
    watch.starts.saw(with_status("Pending"))
    watch.starts.forget("u")
    watch.starts.reached("u", starts.Step.CREATED)
    assert watch.told == []


def test_a_start_is_a_span_until_the_pod_runs(watch):
    watch.starts.saw(with_status("Pending"))
    (span,) = watch.spans.spans
    with watch.starts.within("u"), observing.step("create instance"):
        pass
    assert watch.spans.parent_of(watch.spans.named("create instance")[0]) == "start pod"
    assert (span.attributes["k8s.pod.uid"], span.code) == ("u", None)
    watch.starts.saw(with_status("Running"))
    watch.starts.forget("u")
    assert span.code == observing.OK


def test_the_span_of_a_pod_that_went_says_so(watch):
    watch.starts.saw(with_status("Pending"))
    watch.starts.forget("u")
    with watch.starts.within("u"):
        assert observing.current() is observing.NO_SPAN
    assert watch.spans.spans[0].code == "PodGone"


def test_the_event_tells_how_long_a_create_took():
    assert starts.created_message("g", 0.0254, 0.0312) == (
        "Created instance g in 25ms (31ms after the pod was seen)"
    )
    assert starts.created_message("g", 0.0254, None) == "Created instance g in 25ms"
