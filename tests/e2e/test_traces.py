"""One pod's start is one trace, through all three programs, whoever of them was started anew before."""

import collector
import pytest
from line import IDLE, eventually, pod

pytestmark = pytest.mark.e2e

GONE = ("delete", "--wait=true", "--ignore-not-found", "--now")
NODE, SERVICE, KCILET = "virtual-kubelet", "kci-service", "kcilet"
# Each span below the one that it is part of: program and name.
TREE = {
    (NODE, "start pod"): None,
    (NODE, "create instance"): (NODE, "start pod"),
    (NODE, "read kubeconfig"): (NODE, "create instance"),
    (NODE, "CreateContainerGroup"): (NODE, "create instance"),
    (SERVICE, "CreateContainerGroup"): (NODE, "CreateContainerGroup"),
    (SERVICE, "store group"): (SERVICE, "CreateContainerGroup"),
    (SERVICE, "ensure group"): (SERVICE, "CreateContainerGroup"),
    (SERVICE, "record report"): (SERVICE, "CreateContainerGroup"),
    (KCILET, "run pod"): (SERVICE, "CreateContainerGroup"),
    (KCILET, "read pod"): (KCILET, "run pod"),
    (KCILET, "prepare volumes"): (KCILET, "run pod"),
    (KCILET, "ensure image"): (KCILET, "run pod"),
    (KCILET, "run sandbox"): (KCILET, "run pod"),
    (KCILET, "RunPodSandbox"): (KCILET, "run sandbox"),
    (KCILET, "CNI ADD"): (KCILET, "run sandbox"),
    (KCILET, "start container"): (KCILET, "run pod"),
    (KCILET, "CreateContainer"): (KCILET, "start container"),
    (KCILET, "StartContainer"): (KCILET, "start container"),
    (KCILET, "write status"): (KCILET, "run pod"),
    (KCILET, "PATCH"): (KCILET, "write status"),
}


def started(line, name):
    """The spans of a pod's trace, once it is whole."""
    line.apply(pod(name, IDLE))
    line.wait_ready(f"pod/{name}")
    uid = line.get("pod", name)["metadata"]["uid"]

    def trace():
        spans = collector.read(line.state_dir / collector.FILE)
        roots = [one for one in spans if one.name == "start pod" and one.attributes["k8s.pod.uid"] == uid]
        found = [one for one in spans if roots and one.trace == roots[0].trace]
        return found if {(one.service, one.name) for one in found} >= TREE.keys() else None

    try:
        return eventually(trace, what="the trace is whole")
    finally:
        line.kubectl(*GONE, "pod", name)


def check(spans):
    by_id = {one.id: one for one in spans}
    assert {one.service for one in spans} == {NODE, SERVICE, KCILET}
    for one in spans:
        key, parent = (one.service, one.name), by_id.get(one.parent)
        if key in TREE:
            assert (parent and (parent.service, parent.name)) == TREE[key], key
        # All of one machine's clock.
        assert parent is None or parent.began_ns <= one.began_ns <= one.ended_ns
    (root,) = [one for one in spans if not one.parent]
    within = max(one.ended_ns for one in spans if one.name == "StartContainer")
    assert root.ended_ns >= within


def test_a_start_is_one_trace_through_the_three_programs(line, guard):
    check(started(line, "traced"))


def test_programs_that_were_started_anew_go_on_tracing(line, guard):
    for part in ("kci-service", "kcilet"):
        guard.history.note("killed", part)
        line.wait_back(part, line.kill(part))
    check(started(line, "traced-again"))
