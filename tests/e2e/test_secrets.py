"""No secret in anything that is written or shown, at debug level and along the paths of errors."""

import base64
import json
import subprocess
import sys

import line as lines
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


@pytest.mark.requirement("R57")
def test_temporary_keys_are_told_by_nobody(line, guard):
    """Issued, used, refused with another's token or key, and handed to the cluster for a node."""
    manifest = _issue(line)
    issued, other = _keys(manifest), _keys(_issue(line))
    for keys in (issued, other):
        guard.canaries.know("a temporary secret key", keys["sk"])
        guard.canaries.know("a security token", keys["securityToken"])
    line.kubectl("apply", "-f", "-", stdin=manifest)
    assert _list_groups(line, issued) == "listed"
    assert "RefusedError" in _list_groups(line, {**issued, "securityToken": other["securityToken"]})
    assert "RefusedError" in _list_groups(line, {**issued, "sk": other["sk"]})
    assert "RefusedError" in _list_groups(line, {**issued, "securityToken": issued["securityToken"][:-8]})

    assert guard.find_secrets() == []

    line.kubectl("delete", "-f", "-", stdin=manifest)


def _issue(line):
    """As the operator does it, who keeps what is printed, from wherever they are."""
    return subprocess.run(
        [str(lines.BIN / "kci"), "credentials", "issue", "--state-dir", str(line.state_dir)],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


def _keys(manifest):
    return json.loads(manifest)["items"][0]["data"]


# Keys come in by standard input: command lines are searched as well.
LIST = """
import asyncio, json, sys
from kci.client import client, credentials
from kci.contract import signing
from kci.kit import secret

async def run(given):
    keys = signing.Credentials(
        given["ak"], secret.Secret(given["sk"]), secret.Secret(given["securityToken"])
    )
    held = credentials.Static(keys)
    async with client.KciClient(given["endpoint"], region=given["region"], credentials=held) as service:
        try:
            await service.list_container_groups()
            return "listed"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

print(asyncio.run(run(json.load(sys.stdin))))
"""


def _list_groups(line, keys):
    """What comes of it, in the client's words."""
    text = line.where.env_file.read_text()
    operator = dict(one.split("=", 1) for one in text.splitlines())
    place = {"endpoint": operator["KCI_ENDPOINT"], "region": operator["KCI_REGION"]}
    done = subprocess.run(
        line.inside(sys.executable, "-c", LIST),
        input=json.dumps({**keys, **place}),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _reason(line, name):
    statuses = line.get("pod", name)["status"].get("containerStatuses")
    state = statuses[0]["state"] if statuses else {}
    return (state.get("waiting") or state.get("terminated") or {}).get("reason")
