"""Sizes as a user sees them: what is granted and why, the pod's cgroup, and what is refused."""

import pathlib

import pytest
from line import IDLE, eventually, pod

pytestmark = [pytest.mark.e2e, pytest.mark.guide("limit sizes")]

CPU, MEMORY = "k8s.ksyun.com/kci-instance-cpu", "k8s.ksyun.com/kci-instance-memory"
ROOT = pathlib.Path("/sys/fs/cgroup")
GIB = 1 << 30


def asking(name, cores="", gib="", limits=None, **more):
    notes = {key: text for key, text in ((CPU, cores), (MEMORY, gib)) if text}
    resources = {"resources": {"limits": limits or {}}}
    return pod(name, IDLE, metadata={"name": name, "annotations": {**notes, **more}}, container=resources)


def told(line, name):
    """Reason, type and message of the pod's events."""
    events = line.get("events", "--field-selector", f"involvedObject.name={name}")["items"]
    return {event["reason"]: (event["type"], event["message"]) for event in events}


def limits_of(line, uid, *below):
    """Cores and bytes of memory that the kernel lets the pod, or a cgroup below its own, have."""

    def read(controller, file):
        folder = ROOT if (ROOT / "cgroup.controllers").exists() else ROOT / controller
        return folder.joinpath(line.where.cgroup_parent, f"pod{uid}", *below, file).read_text().split()

    if (ROOT / "cgroup.controllers").exists():
        quota, period = read("cpu", "cpu.max")
        (memory,) = read("memory", "memory.max")
    else:
        (quota,), (period,) = read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")
        (memory,) = read("memory", "memory.limit_in_bytes")
    return int(quota) / int(period), int(memory)


@pytest.mark.guide(
    "annotation kci-instance-cpu",
    "annotation kci-instance-memory",
    "annotation kci-instance-id",
    "annotation kci-instance-spec",
)
def test_the_whole_story_of_a_size_is_told(line):
    line.apply(asking("sized", "1.5", "3", {"cpu": "3", "memory": "5Gi"}))
    line.wait_ready("pod/sized")
    shown = line.get("pod", "sized")["metadata"]
    instance = shown["annotations"]["k8s.ksyun.com/kci-instance-id"]
    assert shown["annotations"]["k8s.ksyun.com/kci-instance-spec"] == "2-4Gi"
    story = told(line, "sized")
    kind, message = story["InstanceSizeRounded"]
    assert kind == "Warning"
    assert "1.5 cores and 3 GiB" in message
    assert "2 cores and 4 GiB" in message
    assert story["Accepted"] == (
        "Normal",
        "Granted 2 cores and 4 GiB: the smallest with 1.5 cores and 3 GiB or more",
    )
    kind, text = story["InstanceCreated"]
    assert kind == "Normal"
    assert text.startswith(f"Created instance {instance} in ")
    assert story["LimitAboveInstance"][0] == "Warning"
    described = line.kubectl("describe", "pod", "sized")
    for part in (instance, "2-4Gi", "Granted 2 cores and 4 GiB"):
        assert part in described
    # The pod's limit is what was granted, and no container has more.
    assert limits_of(line, shown["uid"]) == (2, 4 * GIB)
    status = line.get("pod", "sized")["status"]["containerStatuses"][0]
    _, _, container_id = status["containerID"].partition("://")
    assert limits_of(line, shown["uid"], container_id) == (2, 4 * GIB)
    line.kubectl("delete", "pod", "sized")


def test_a_pod_that_asks_for_nothing_gets_the_default(line):
    line.apply(asking("plain"))
    line.wait_ready("pod/plain")
    shown = line.get("pod", "plain")["metadata"]
    assert shown["annotations"]["k8s.ksyun.com/kci-instance-spec"] == "2-4Gi"
    assert "the default" in told(line, "plain")["Accepted"][1]
    assert limits_of(line, shown["uid"]) == (2, 4 * GIB)
    line.kubectl("delete", "pod", "plain")


@pytest.mark.parametrize(
    ("name", "wanted", "reason", "words"),
    [
        ("half", {"cores": "2"}, "InvalidAnnotation", f"{CPU} is set without {MEMORY}"),
        ("huge", {"limits": {"cpu": "65"}}, "TooLarge", "the largest is 64 cores and 512 GiB"),
        (
            "quick",
            {"kubernetes.io/egress-bandwidth": "fast"},
            "InvalidAnnotation",
            "kubernetes.io/egress-bandwidth is 'fast'",
        ),
    ],
)
def test_what_cannot_be_stays_pending_and_says_why(line, name, wanted, reason, words):
    line.apply(asking(name, **wanted))
    status = eventually(
        lambda: (found := line.get("pod", name)["status"]).get("reason") and found, what="a refusal"
    )
    assert (status["phase"], status["reason"]) == ("Pending", reason)
    assert words in status["message"]
    condition = next(one for one in status["conditions"] if one["type"].endswith("InstanceCreated"))
    assert (condition["status"], condition["message"]) == ("False", status["message"])
    uid = line.get("pod", name)["metadata"]["uid"]
    assert uid not in {instance.uid for instance in line.instances()}
    eventually(lambda: told(line, name).get(reason, ("", ""))[0] == "Warning", what="its event")
    line.kubectl("delete", "pod", name)


def test_a_slip_in_an_annotation_is_told(line):
    line.apply(asking("slip", **{"k8s.ksyun.com/kci-instance-cpus": "2"}))
    line.wait_ready("pod/slip")
    kind, message = told(line, "slip")["UnknownAnnotation"]
    assert kind == "Warning"
    assert f"is {CPU} meant?" in message
    line.kubectl("delete", "pod", "slip")
