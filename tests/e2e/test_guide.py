"""The guide's node, limits and manifests on the whole line, on a node with its taint. On one without it, and
as the guide deploys it: test_guide_deployed.py.
"""

import subprocess

import pytest
import yaml
from guide_samples import (
    BY_AFFINITY,
    BY_TOLERATION,
    NODE,
    check_daemon_set,
    check_refused,
    check_row,
    deployment,
    refused,
    remove,
)
from line import IDLE, REPOSITORY, eventually, pod

pytestmark = pytest.mark.e2e

POLICY = REPOSITORY / "deploy" / "toleration-policy.yaml"


def limited(name, **spec):
    return pytest.param(name, spec, id=name)


LIMITS = {
    "hostPath": ("HostPathNotSupported", "spec.volumes[0].hostPath", "use emptyDir"),
    "privileged": (
        "PrivilegedNotSupported",
        "spec.containers[0].securityContext.privileged",
        "add single capabilities",
    ),
    "hostNetwork": ("HostNetworkNotSupported", "spec.hostNetwork", "remove it"),
    "hostPID": ("HostPidNotSupported", "spec.hostPID", "remove it"),
    "hostIPC": ("HostIpcNotSupported", "spec.hostIPC", "remove it"),
    "hostPort": (
        "HostPortNotSupported",
        "spec.containers[0].ports[0].hostPort",
        "use the pod's address or a Service",
    ),
}


@pytest.mark.guide(
    "limit hostPath",
    "limit privileged",
    "limit hostNetwork",
    "limit hostPID",
    "limit hostIPC",
    "limit hostPort",
)
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        limited("hostPath", volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
        limited("privileged", container={"securityContext": {"privileged": True}}),
        limited("hostNetwork", hostNetwork=True),
        limited("hostPID", hostPID=True),
        limited("hostIPC", hostIPC=True),
        limited("hostPort", container={"ports": [{"containerPort": 80, "hostPort": 8080}]}),
    ],
)
def test_what_needs_a_machine_is_refused_before_anything_is_made(line, name, spec):
    label = name.lower()
    line.apply(pod(label, IDLE, **spec))
    body = eventually(lambda: refused(line, f"app={label}"), what="the pod says why it is refused")
    check_refused(line, body, *LIMITS[name])
    line.kubectl("delete", "pod", label, timeout_s=20)


@pytest.mark.guide("limit DaemonSet")
def test_a_daemon_set_that_tolerates_everything_makes_one_refused_pod(line):
    check_daemon_set(line, "agent")


@pytest.mark.guide("form tolerations")
def test_under_the_taint_one_runs_and_the_policy_brings_the_other(line):
    line.apply(deployment(BY_TOLERATION), deployment(BY_AFFINITY))
    line.wait_pods_ready(f"app={BY_TOLERATION}", 3)
    waiting = line.pods(f"app={BY_AFFINITY}").values()
    assert ["nodeName" in body["spec"] for body in waiting] == [False] * 3
    remove(line, "deployment", BY_AFFINITY)
    line.kubectl("apply", "-f", str(POLICY))
    try:
        eventually(lambda: mutated(line, toleration_of(BY_AFFINITY)), what="the policy is in force")
        line.apply(deployment(BY_AFFINITY))
        pods = line.wait_pods_ready(f"app={BY_AFFINITY}", 3)
        assert {body["spec"]["nodeName"] for body in pods.values()} == {NODE}
        remove(line, "deployment", BY_AFFINITY)
        # Who says it already, or does not ask for a virtual node, is left as it is.
        assert not mutated(line, toleration_of(BY_TOLERATION))
        assert not mutated(line, {})
        assert mutated(line, {"nodeSelector": {"type": NODE}})
    finally:
        line.kubectl("delete", "-f", str(POLICY))
        remove(line, "deployment", BY_TOLERATION)


def toleration_of(name):
    spec = deployment(name)["spec"]["template"]["spec"]
    return {key: spec[key] for key in ("affinity", "tolerations") if key in spec}


def mutated(line, spec):
    """Whether the API server would add the toleration to such a pod."""
    body = pod("tried", IDLE, **spec)
    if "nodeSelector" not in spec:
        del body["spec"]["nodeSelector"]
    if "tolerations" not in spec:
        del body["spec"]["tolerations"]
    made = yaml.safe_load(
        line.kubectl("create", "--dry-run=server", "-f", "-", "-o", "yaml", stdin=yaml.safe_dump(body))
    )

    def ours(body):
        found = body["spec"].get("tolerations", [])
        return [one for one in found if one.get("key") == "virtual-kubelet.io/provider"]

    return ours(made) != ours(body)


@pytest.mark.guide("limit NodePort")
def test_a_pod_behind_a_node_port_is_an_endpoint_and_the_virtual_nodes_own_port_is_none(line):
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": BY_TOLERATION},
        "spec": {"type": "NodePort", "selector": {"app": BY_TOLERATION}, "ports": [{"port": 80}]},
    }
    line.apply(deployment(BY_TOLERATION), service)
    try:
        pods = line.wait_pods_ready(f"app={BY_TOLERATION}", 3)
        addresses = {body["status"]["podIP"] for body in pods.values()}
        # What a kube-proxy or a load balancer sends to.
        eventually(lambda: endpoints(line, BY_TOLERATION) == addresses, what="all pods are endpoints")
        for address in addresses:
            assert "nginx" in line.http(f"http://{address}/").lower()
        (port,) = line.get("service", BY_TOLERATION)["spec"]["ports"]
        node = {one["type"]: one["address"] for one in line.get("node", NODE)["status"]["addresses"]}
        with pytest.raises(subprocess.CalledProcessError):
            line.http(f"http://{node['InternalIP']}:{port['nodePort']}/")
    finally:
        line.kubectl("delete", "service", BY_TOLERATION)
        remove(line, "deployment", BY_TOLERATION)


def endpoints(line, name):
    """The addresses of a Service that are ready."""
    slices = line.get("endpointslices", "-l", f"kubernetes.io/service-name={name}")["items"]
    return {
        address
        for one in slices
        for endpoint in one.get("endpoints") or []
        if endpoint["conditions"].get("ready")
        for address in endpoint["addresses"]
    }


@pytest.mark.guide("form node", "form taint")
def test_the_nodes_row_is_the_guides(line):
    check_row(line, NODE)
