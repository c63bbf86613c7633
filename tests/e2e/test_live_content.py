"""ConfigMaps and Secrets that change while their pods run or wait, as a user sees it."""

import time

import pytest
from line import IDLE, eventually, pod

pytestmark = pytest.mark.e2e
# A second is promised; the rest is for kubectl, and for a machine that is busy with other things.
WITHIN_S = 10


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name, **data):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def test_a_pod_sees_what_changes_while_it_runs(line):
    line.apply(config_map("live", color="blue"), secret("live", password="first"))
    labels = {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}
    line.apply(
        pod(
            "live",
            IDLE,
            container={
                "volumeMounts": [
                    {"name": "config", "mountPath": "/config"},
                    {"name": "all", "mountPath": "/all"},
                    {"name": "config", "mountPath": "/frozen", "subPath": "color"},
                    {"name": "empty", "mountPath": "/empty"},
                ]
            },
            volumes=[
                {"name": "config", "configMap": {"name": "live"}},
                # The API server sends its sources as null.
                {"name": "empty", "projected": {}},
                {
                    "name": "all",
                    "projected": {"sources": [{"secret": {"name": "live"}}, {"downwardAPI": labels}]},
                },
            ],
        )
    )
    line.wait_ready("pod/live")

    def shown(path):
        return line.kubectl("exec", "live", "--", "cat", path)

    def until_shown(path, text):
        began_s = time.monotonic()
        eventually(lambda: text in shown(path), timeout_s=WITHIN_S, what=f"{text} in {path}")
        print(f"{path} shows the change after {time.monotonic() - began_s:.2f} s")

    assert (shown("/config/color"), shown("/all/password"), shown("/frozen")) == ("blue", "first", "blue")
    assert line.kubectl("exec", "live", "--", "ls", "/empty") == ""
    line.apply(config_map("live", color="green"), secret("live", password="second"))
    until_shown("/config/color", "green")
    until_shown("/all/password", "second")
    line.kubectl("label", "pod", "live", "tier=gold")
    until_shown("/all/labels", 'tier="gold"')
    # A file by sub-path is what it was when the container started, as with a kubelet.
    assert shown("/frozen") == "blue"
    assert line.get("pod", "live")["status"]["containerStatuses"][0]["restartCount"] == 0
    line.kubectl("delete", "pod", "live")


def test_a_pod_starts_when_the_config_map_that_it_waits_for_appears(line):
    line.apply(
        pod(
            "awaiting",
            IDLE,
            container={"volumeMounts": [{"name": "config", "mountPath": "/config"}]},
            volumes=[{"name": "config", "configMap": {"name": "awaited"}}],
        )
    )

    def times_told():
        events = line.get("events", "--field-selector", "involvedObject.name=awaiting,reason=FailedMount")
        return sum(event["count"] for event in events["items"] if "awaited" in event["message"])

    # By then the next try by itself would be 16 seconds away.
    eventually(lambda: times_told() >= 6, timeout_s=60, what="the reason of the wait")
    line.apply(config_map("awaited", k="here"))
    line.wait_ready("pod/awaiting", timeout_s=WITHIN_S)
    assert line.kubectl("exec", "awaiting", "--", "cat", "/config/k") == "here"
    line.kubectl("delete", "pod", "awaiting")
