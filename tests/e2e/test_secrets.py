"""No secret in anything that is written or shown, at debug level and along the paths of errors."""

import base64
import json

import pytest
from line import IDLE, eventually, pod

pytestmark = pytest.mark.e2e


@pytest.mark.requirement("R57")
def test_secrets_stay_where_they_are_kept(line, guard):
    plant = guard.canaries.plant
    password, content, settings = plant("a registry's password"), plant("a Secret"), plant("a ConfigMap")
    environment, typed = plant("an environment variable"), plant("what was typed into an exec")
    login = {"auths": {"registry.local": {"username": "u", "password": password}}}
    # its base64 is a form of it as well
    guard.canaries.know("a registry's password, encoded", base64.b64encode(f"u:{password}".encode()).decode())
    line.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "pull"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(json.dumps(login).encode()).decode()},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kept"}, "stringData": {"key": content}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"key": settings}},
    )
    uses = {
        "env": [
            {"name": "PLAIN", "value": environment},
            {"name": "FROM", "valueFrom": {"secretKeyRef": {"name": "kept", "key": "key"}}},
            {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "kept", "key": "key"}}},
        ],
        "volumeMounts": [{"name": "secret", "mountPath": "/secret"}, {"name": "map", "mountPath": "/map"}],
    }
    volumes = [
        {"name": "secret", "secret": {"secretName": "kept"}},
        {"name": "map", "configMap": {"name": "kept"}},
    ]
    shared = {"imagePullSecrets": [{"name": "pull"}], "volumes": volumes}
    line.apply(
        pod("keeper", IDLE, container=uses, **shared),
        # the ways of errors: an image that is not there, a program that is not there
        pod("no-image", container={**uses, "image": "registry.local/no/such:1"}, **shared),
        pod("no-program", container={**uses, "command": ["/no/such/program"]}, **shared),
    )
    line.wait_ready("pod/keeper")
    for name, reasons in (
        ("no-image", {"ErrImagePull", "ImagePullBackOff"}),
        ("no-program", {"RunContainerError", "CrashLoopBackOff", "StartError"}),
    ):
        eventually(
            lambda name=name, reasons=reasons: _reason(line, name) in reasons, what=f"the error of {name}"
        )
    token = line.kubectl("exec", "keeper", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    guard.canaries.know("a service account's token", token.strip())
    assert line.kubectl("exec", "-i", "keeper", "--", "cat", stdin=typed) == typed
    assert line.run_kubectl("exec", "keeper", "--", "/no/such/program").returncode != 0

    assert guard.find_secrets() == []

    line.kubectl("delete", "pod", "keeper", "no-image", "no-program", "--timeout=40s")
    line.kubectl("delete", "secret/pull", "secret/kept", "configmap/kept")
    assert guard.find_secrets() == []


def _reason(line, name):
    statuses = line.get("pod", name)["status"].get("containerStatuses")
    state = statuses[0]["state"] if statuses else {}
    return (state.get("waiting") or state.get("terminated") or {}).get("reason")
