"""Probes as a user sees them: a restart, a Service's endpoints, a slow start; and through what goes wrong."""

import pytest
from line import eventually, is_ready, pod, restarts

pytestmark = [pytest.mark.e2e, pytest.mark.guide("limit probes")]
# Serves files, and stops when it is told to.
WEB = "mkdir -p /www && echo fine > /www/up && trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
FAST = {"periodSeconds": 1, "timeoutSeconds": 1}


def events(line, name, reason):
    found = line.get("events", "--field-selector", f"involvedObject.name={name},reason={reason}")
    return [event["message"] for event in found["items"]]


def container(line, name):
    return line.get("pod", name)["status"]["containerStatuses"][0]


def endpoints(line, service):
    slices = line.get("endpointslices", "-l", f"kubernetes.io/service-name={service}")["items"]
    return [one["conditions"]["ready"] for each in slices for one in each["endpoints"] or ()]


@pytest.mark.parametrize(
    ("kind", "probe"),
    [
        ("http", {"httpGet": {"path": "/up", "port": "web"}}),
        ("exec", {"exec": {"command": ["test", "-e", "$(ROOT)/up"]}}),
    ],
)
def test_a_container_that_is_not_live_is_restarted(line, kind, probe):
    name = f"liveness-{kind}"
    spec = {
        "ports": [{"name": "web", "containerPort": 8080}],
        "env": [{"name": "ROOT", "value": "/www"}],
        "livenessProbe": {**probe, **FAST, "failureThreshold": 2, "initialDelaySeconds": 1},
    }
    line.apply(pod(name, WEB, container=spec))
    line.wait_ready(f"pod/{name}")
    line.kubectl("exec", name, "--", "rm", "/www/up")
    eventually(lambda: restarts(line.get("pod", name)) == 1, what="the container is restarted")
    line.wait_ready(f"pod/{name}")
    assert "Container main failed liveness probe, will be restarted" in events(line, name, "Killing")
    assert any(message.startswith("Liveness probe failed: ") for message in events(line, name, "Unhealthy"))
    # What runs now has the file again: it goes on.
    assert line.kubectl("exec", name, "--", "cat", "/www/up").strip() == "fine"
    line.kubectl("delete", "pod", name)


def test_a_service_sends_nothing_to_a_pod_that_is_not_ready(line):
    probe = {"httpGet": {"path": "/ready", "port": 8080}, **FAST, "failureThreshold": 1}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "gated"},
        "spec": {"selector": {"app": "gated"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    line.apply(service, pod("gated", WEB, container={"readinessProbe": probe}))
    eventually(lambda: container(line, "gated")["state"].get("running"), what="the container runs")
    eventually(lambda: endpoints(line, "gated") == [False], what="its endpoint is not ready")
    assert container(line, "gated")["started"]
    for path, is_up in (("touch", True), ("rm", False), ("touch", True)):
        line.kubectl("exec", "gated", "--", path, "/www/ready")
        eventually(lambda is_up=is_up: endpoints(line, "gated") == [is_up], what=f"the endpoint says {is_up}")
        assert is_ready(line.get("pod", "gated")) is is_up
    assert restarts(line.get("pod", "gated")) == 0
    line.kubectl("delete", "pod/gated", "service/gated")


def test_liveness_waits_until_the_container_has_started(line):
    spec = {
        "startupProbe": {"tcpSocket": {"port": 8080}, **FAST, "failureThreshold": 60},
        "livenessProbe": {"httpGet": {"path": "/up", "port": 8080}, **FAST, "failureThreshold": 1},
        "readinessProbe": {"tcpSocket": {"port": 8080}, **FAST},
    }
    line.apply(pod("slow", "while ! test -e /go; do sleep 0.1; done; " + WEB, container=spec))
    eventually(
        lambda: any("Startup probe failed" in message for message in events(line, "slow", "Unhealthy")),
        what="its startup probe has failed",
    )
    status = container(line, "slow")
    assert (status["started"], status["ready"], status["restartCount"]) == (False, False, 0)
    line.kubectl("exec", "slow", "--", "touch", "/go")
    line.wait_ready("pod/slow")
    status = container(line, "slow")
    assert (status["started"], status["restartCount"]) == (True, 0)
    line.kubectl("delete", "pod", "slow")


def test_a_container_that_hangs_is_restarted(line):
    """Its processes stand still: what is dialled is taken by the kernel, and nobody answers."""
    probe = {"httpGet": {"path": "/up", "port": 8080}, **FAST, "failureThreshold": 2}
    command = f"({WEB}) & echo $! > /main; wait"
    line.apply(
        pod("hung", command, container={"livenessProbe": {**probe, "terminationGracePeriodSeconds": 2}})
    )
    line.wait_ready("pod/hung")
    line.kubectl("exec", "hung", "--", "sh", "-c", "kill -STOP $(pidof httpd)")
    eventually(lambda: restarts(line.get("pod", "hung")) == 1, what="the container is restarted")
    assert any("context deadline exceeded" in message for message in events(line, "hung", "Unhealthy"))
    line.kubectl("delete", "pod", "hung")
