"""The guide's node, limits and manifests on the whole line: on a node with its taint, and on one without."""

import subprocess

import guard
import leftovers
import line as lines
import pytest
import yaml
from line import IDLE, REPOSITORY, eventually, pod

pytestmark = pytest.mark.e2e

NODE = "virtual-kubelet"
POLICY = REPOSITORY / "deploy" / "toleration-policy.yaml"
BY_AFFINITY, BY_TOLERATION = "by-affinity", "by-toleration"
AWAY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "type", "operator": "NotIn", "values": [NODE]}]}
            ]
        }
    }
}


@pytest.fixture(scope="module")
def open_line():
    """A stack whose node has no taint, as the guide's Deployment has it."""
    stack = lines.new_line()
    before = leftovers.machine(stack.state_dir)
    try:
        stack.kci("up", "--detach", "--netns", stack.netns, "--disable-taint", *guard.UP)
        yield stack
    finally:
        stack.kci("down", "--purge", check=False)
        left = leftovers.processes(str(stack.state_dir), stack.netns)
        after = leftovers.machine(stack.state_dir)
    assert not left
    assert [what for what, seen in after.items() if seen - before[what]] == []


def deployment(name):
    """The guide's two: one comes by node affinity and tolerates the older key, one tolerates the key of the
    guide's text.
    """
    spec = {
        "containers": [{"name": "web", "image": "nginx:latest", "imagePullPolicy": "IfNotPresent"}],
        "terminationGracePeriodSeconds": 1,
    }
    if name == BY_AFFINITY:
        terms = [{"matchExpressions": [{"key": "type", "operator": "In", "values": [NODE]}]}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec |= {
            "affinity": {"nodeAffinity": required},
            "tolerations": [
                {"key": "rbkci-virtual-kubelet.io/provider", "value": "kingsoftcloud", "effect": "NoSchedule"}
            ],
        }
    else:
        spec["tolerations"] = [
            {
                "key": "virtual-kubelet.io/provider",
                "operator": "Equal",
                "value": "kingsoftcloud",
                "effect": "NoSchedule",
            }
        ]
    size = {"k8s.ksyun.com/kci-instance-cpu": "4", "k8s.ksyun.com/kci-instance-memory": "8"}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": size}, "spec": spec},
        },
    }


def daemon_set(name, **spec):
    labels = {"app": name}
    container = {"name": "main", "image": "busybox:latest", "command": ["/bin/sh", "-c", IDLE]}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [container],
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [{"operator": "Exists"}],
                    **spec,
                },
            },
        },
    }


def remove(line, kind, name):
    line.kubectl("delete", kind, name, "--wait=false")
    eventually(lambda: not line.pods(f"app={name}"), what=f"the pods of {name} are gone")


def events_of(line, uid, reason):
    selector = f"involvedObject.uid={uid},reason={reason}"
    return line.get("events", "--field-selector", selector)["items"]


def refused(line, selector):
    """The one pod, once it says why it is refused."""
    found = list(line.pods(selector).values())
    assert len(found) == 1, found
    return found[0] if found[0]["status"].get("reason") else None


def check_refused(line, body, reason, field, remedy):
    """Pending with reason, condition and message; one Event; and nothing made."""
    status, uid = body["status"], body["metadata"]["uid"]
    assert (status["phase"], status["reason"]) == ("Pending", reason)
    assert field in status["message"]
    assert remedy in status["message"]
    (condition,) = [
        one for one in status["conditions"] if one["type"] == "virtual-kubelet.io/InstanceCreated"
    ]
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "False",
        reason,
        status["message"],
    )
    told = eventually(lambda: events_of(line, uid, reason), what="an Event says so")
    assert [(one["type"], one["message"], one.get("count", 1)) for one in told] == [
        ("Warning", status["message"], 1)
    ]
    assert "containerStatuses" not in status
    assert uid not in {instance.uid for instance in line.instances()}
    assert uid not in groups(line)


def groups(line):
    """All container groups with their labels, as the console shows them."""
    command = line.inside(str(lines.BIN / "kci"), "groups", "-o", "json", "--state-dir", str(line.state_dir))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


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


def test_a_daemon_set_makes_one_refused_pod_and_affinity_keeps_it_away(open_line):
    daemon_set_makes_one_refused_pod(open_line, "agent")


@pytest.mark.guide("limit DaemonSet")
def test_a_daemon_set_that_tolerates_everything_makes_one_refused_pod(line):
    daemon_set_makes_one_refused_pod(line, "agent")


def daemon_set_makes_one_refused_pod(line, name):
    with lines.Watch(line, "/api/v1/namespaces/default/pods?labelSelector=app%3Dagent") as watch:
        line.apply(daemon_set(name))
        body = eventually(lambda: refused(line, f"app={name}") if line.pods(f"app={name}") else None)
        check_refused(
            line, body, "DaemonSetNotSupported", "metadata.ownerReferences[0]", "type NotIn [virtual-kubelet]"
        )
        # What a DaemonSet does with a failed pod it does within seconds; a later change shows that its
        # controller has looked since.
        line.kubectl("annotate", "daemonset", name, "looked=again")
        line.apply(pod("bystander", IDLE))
        line.wait_ready("pod/bystander")
        line.kubectl("delete", "pod", "bystander")
        assert list(watch.objects()) == [body["metadata"]["uid"]]
        assert line.get("daemonset", name)["status"]["currentNumberScheduled"] == 1
        line.apply(daemon_set(name, affinity=AWAY))
        eventually(lambda: not line.pods(f"app={name}"), what="the DaemonSet leaves the node alone")
        status = line.get("daemonset", name)["status"]
        assert (status["desiredNumberScheduled"], status["numberMisscheduled"]) == (0, 0)
        assert list(watch.objects()) == [body["metadata"]["uid"]]
    line.kubectl("delete", "daemonset", name)


@pytest.mark.guide("flag --disable-taint", "form tolerations")
def test_without_the_taint_both_of_the_guides_deployments_run_as_written(open_line):
    assert "taints" not in open_line.get("node", NODE)["spec"]
    for name in (BY_AFFINITY, BY_TOLERATION):
        open_line.apply(deployment(name))
        pods = open_line.wait_pods_ready(f"app={name}", 3)
        assert {body["spec"]["nodeName"] for body in pods.values()} == {NODE}
        remove(open_line, "deployment", name)


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
def test_the_nodes_row_is_the_guides(line, open_line):
    for one in (line, open_line):
        name, status, roles, _, version = one.kubectl("get", "node", NODE, "--no-headers").split()
        assert (name, status, roles) == (NODE, "Ready", "agent")
        assert version.startswith("v1.")
        assert "-vk-v" in version
