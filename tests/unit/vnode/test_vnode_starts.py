"""How long pods take to come up, step by step."""

import msgspec
import pytest
from fakes import vnode_world

from kci.kube import models
from kci.vnode import starts


class Watch:
    def __init__(self):
        self.now_s = 100.0
        self.told = []
        self.starts = starts.Starts(
            lambda took_s, *labels: self.told.append((took_s, *labels)), now_s=self.now
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
