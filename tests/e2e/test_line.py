"""The whole line, used as a user uses it: kubectl, a real scheduler, the signed API, real containers."""

import json
import random
import shlex
import subprocess
import sys
import threading

import client_streams
import pytest
from line import IDLE, REPOSITORY, eventually, pod

pytestmark = pytest.mark.e2e


def test_the_node_looks_as_the_guide_shows_it(line):
    node = line.get("node", "virtual-kubelet")
    conditions = {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert "-vk-" in node["status"]["nodeInfo"]["kubeletVersion"]
    assert node["metadata"]["labels"]["type"] == "virtual-kubelet"
    assert "node-role.kubernetes.io/agent" in node["metadata"]["labels"]
    assert {"key": "virtual-kubelet.io/provider", "value": "kingsoftcloud", "effect": "NoSchedule"} in node[
        "spec"
    ]["taints"]
    assert node["status"]["capacity"]["cpu"] in {"1000", "1k"}
    assert node["status"]["capacity"]["pods"] in {"1000", "1k"}
    lease = line.get("lease", "virtual-kubelet", "-n", "kube-node-lease")
    assert lease["spec"]["holderIdentity"]
    assert lease["spec"]["leaseTransitions"] >= 1


def test_the_sample_deployment_answers_http_on_every_pod_and_goes_away(line):
    line.kubectl("apply", "-f", str(REPOSITORY / "deploy" / "nginx-kci.yaml"))
    line.kubectl("rollout", "status", "deployment/nginx-kci", "--timeout=90s", timeout_s=120)
    pods = line.get("pods", "-l", "app=nginx")["items"]
    assert len(pods) == 3
    for item in pods:
        assert item["spec"]["nodeName"] == "virtual-kubelet"
        assert item["status"]["phase"] == "Running"
        assert "nginx" in line.http(f"http://{item['status']['podIP']}/").lower()
    line.kubectl("delete", "deployment", "nginx-kci", "--wait=false")
    eventually(
        lambda: not line.get("pods", "-l", "app=nginx")["items"], what="pods of the deleted deployment gone"
    )


def test_the_address_the_service_reports_is_the_address_the_pod_has(line):
    line.apply(pod("address", "ip -4 addr show eth0; " + IDLE))
    line.wait_ready("pod/address")
    seen = line.get("pod", "address")["status"]
    assert f"inet {seen['podIP']}/" in line.kubectl("logs", "address")
    group = eventually(lambda: _group_of(line, "address"), what="the group in the KCI API")
    assert group["NetworkInterfaceAttributes"][0]["PrivateIpAddress"] == seen["podIP"]
    assert group["Status"] == "Running"
    line.kubectl("delete", "pod", "address")
    eventually(lambda: _group_of(line, "address") is None, what="the group gone from the KCI API")


def _group_of(line, pod_name):
    """The group of a pod, asked with the official SDK and the operator's keys."""
    status = json.loads(line.kci("status", "-o", "json"))
    code = """
import json, sys
from ksyun.client.kci.v20200702 import client, models
from ksyun.common import credential
from ksyun.common.profile.client_profile import ClientProfile
from ksyun.common.profile.http_profile import HttpProfile
env = dict(line.strip().split("=", 1) for line in open(sys.argv[1]) if "=" in line)
host = env["KCI_ENDPOINT"].split("://")[-1]
profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=host))
keys = credential.Credential(env["KCI_ACCESS_KEY"], env["KCI_SECRET_KEY"])
kci = client.KciClient(keys, env["KCI_REGION"], profile)
print(kci.DescribeContainerGroup(models.DescribeContainerGroupRequest()))
"""
    done = subprocess.run(
        line.inside(sys.executable, "-c", code, status["env_file"]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for group in json.loads(done.stdout)["ContainerGroups"]:
        if {"Key": "pod-name", "Value": pod_name} in group["Labels"]:
            return group
    return None


def test_logs_follow_new_lines_and_end_with_the_container(line):
    line.apply(pod("talker", "for n in 1 2 3; do echo line $n; sleep 0.3; done", restartPolicy="Never"))
    eventually(
        lambda: line.get("pod", "talker")["status"].get("phase") in {"Running", "Succeeded"},
        what="talker runs",
    )
    assert line.kubectl("logs", "-f", "talker").split("\n")[:3] == ["line 1", "line 2", "line 3"]
    assert line.kubectl("logs", "--tail=1", "talker") == "line 3\n"
    assert line.kubectl("logs", "--tail=0", "talker") == ""
    assert line.kubectl("logs", "--limit-bytes=6", "talker") == "line 1"
    stamped = line.kubectl("logs", "--timestamps", "--tail=1", "talker")
    assert stamped.endswith("Z line 3\n")
    assert line.kubectl("logs", "--since=1h", "talker").count("line") == 3
    line.kubectl("delete", "pod", "talker")


def test_exec_carries_streams_terminal_and_exit_code(line):
    line.apply(pod("shell", IDLE))
    line.wait_ready("pod/shell")
    assert line.kubectl("exec", "shell", "--", "echo", "a b", "c") == "a b c\n"
    failed = line.run_kubectl("exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (failed.returncode, failed.stdout) == (7, "out\n")
    assert "err" in failed.stderr
    # the end of standard input must reach the process, or this hangs
    assert line.kubectl("exec", "-i", "shell", "--", "cat", stdin="through\n") == "through\n"
    big = "x" * 300_000
    assert line.kubectl("exec", "-i", "shell", "--", "cat", stdin=big) == big
    missing = line.run_kubectl("exec", "shell", "--", "/no/such/program")
    assert missing.returncode != 0
    assert "no such file" in missing.stderr.lower()
    line.kubectl("delete", "pod", "shell")


def test_exec_gives_a_terminal_of_the_users_size(line):
    line.apply(pod("terminal", IDLE))
    line.wait_ready("pod/terminal")
    # The size comes right after the start, as with a kubelet; until then it is 0 and stty says nothing.
    inside = 'tty; until [ "$(stty size 2>/dev/null)" ]; do sleep 0.1; done; stty size'
    command = shlex.join(line.kubectl_argv("exec", "-it", "terminal", "--", "sh", "-c", inside))
    # Its standard input stays open, as a person's does: an end of input would hang the terminal up.
    with subprocess.Popen(
        ["script", "-qec", f"stty rows 41 cols 99; {command}", "/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as typed:
        shown = typed.stdout.read()
    assert typed.returncode == 0
    assert "/dev/pts/" in shown
    assert "41 99" in shown
    line.kubectl("delete", "pod", "terminal")


def test_config_maps_secrets_fields_and_the_account_token_are_in_the_pod(line):
    line.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings"},
            "data": {"color": "blue", "file.txt": "text"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys"},
            "stringData": {"password": "pw-canary"},
        },
    )
    script = (
        "echo color=$COLOR pw=$PW name=$NAME ip=$IP all=$color host=$KUBERNETES_SERVICE_HOST;"
        "cat /config/file.txt; echo; cat /keys/password; echo; cat /labels; echo;"
        "cd /var/run/secrets/kubernetes.io/serviceaccount; ls; cut -c1-3 token; " + IDLE
    )
    line.apply(
        pod(
            "configured",
            script,
            container={
                "env": [
                    {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
                    {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                "envFrom": [{"configMapRef": {"name": "settings"}}],
                "volumeMounts": [
                    {"name": "config", "mountPath": "/config"},
                    {"name": "keys", "mountPath": "/keys"},
                    {"name": "info", "mountPath": "/labels", "subPath": "labels"},
                    {"name": "scratch", "mountPath": "/scratch"},
                ],
            },
            volumes=[
                {"name": "config", "configMap": {"name": "settings"}},
                {"name": "keys", "secret": {"secretName": "keys"}},
                {
                    "name": "info",
                    "downwardAPI": {
                        "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
                    },
                },
                {"name": "scratch", "emptyDir": {}},
            ],
        )
    )
    line.wait_ready("pod/configured")
    address = line.get("pod", "configured")["status"]["podIP"]
    written = eventually(lambda: line.kubectl("logs", "configured"), what="the pod's report")
    assert f"color=blue pw=pw-canary name=configured ip={address} all=blue host=" in written
    for part in ("text", 'app="configured"', "ca.crt", "namespace", "token", "eyJ"):
        assert part in written
    line.kubectl("delete", "pod", "configured")


def test_a_pod_waits_for_its_config_map_and_says_so(line):
    line.apply(
        pod(
            "waiting",
            "echo $V; " + IDLE,
            container={
                "env": [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "v"}}}]
            },
        )
    )
    eventually(
        lambda: (
            line.get("pod", "waiting")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            == "CreateContainerConfigError"
            if line.get("pod", "waiting")["status"].get("containerStatuses")
            else False
        ),
        what="the reason of the wait",
    )
    line.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {"v": "here"}}
    )
    line.wait_ready("pod/waiting", timeout_s=90)
    assert line.kubectl("logs", "waiting") == "here\n"
    line.kubectl("delete", "pod", "waiting")


def test_a_pod_is_given_its_grace_and_then_is_gone(line):
    line.apply(pod("graceful", "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done"))
    line.wait_ready("pod/graceful")
    heard: list[str] = []
    follow = subprocess.Popen(line.kubectl_argv("logs", "-f", "graceful"), stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=lambda: heard.extend(follow.stdout))
    reader.start()
    eventually(lambda: "up\n" in heard, what="the log stream")
    line.kubectl("delete", "pod", "graceful", "--timeout=20s")
    follow.wait(timeout=20)
    reader.join()
    follow.stdout.close()
    assert heard == ["up\n", "bye\n"]
    assert line.run_kubectl("get", "pod", "graceful").returncode != 0


@pytest.mark.requirement("R20")
@pytest.mark.parametrize("is_ready", [True, False], ids=["running", "starting"])
def test_a_forced_deletion_ends_the_process_and_the_instance(line, is_ready):
    """The object is gone at once, so nobody can be told any more; what it stood for goes all the same."""
    name, seconds = f"forced-{'running' if is_ready else 'starting'}", str(random.randrange(10**6, 10**7))
    # It does not hear that it is to end.
    line.apply(pod(name, f"trap '' TERM; sleep {seconds}; true"))
    if is_ready:
        line.wait_ready(f"pod/{name}")
        assert client_streams.runs("sleep", seconds)
    uid = line.get("pod", name)["metadata"]["uid"]
    line.kubectl("delete", "pod", name, "--force", "--grace-period=0", "--wait=false")
    assert name not in line.pods()
    eventually(lambda: not client_streams.runs("sleep", seconds), what="the process has ended")
    eventually(lambda: uid not in {one.uid for one in line.instances()}, what="the instance is gone")
    eventually(lambda: _group_of(line, name) is None, what="the group gone from the KCI API")


def test_exits_are_told_at_once_and_the_restart_policy_is_followed(line):
    line.apply(pod("once", "exit 3", restartPolicy="Never"), pod("again", "echo try $$; sleep 0.2; exit 4"))
    once = eventually(
        lambda: (seen := line.get("pod", "once")["status"]).get("phase") == "Failed" and seen,
        what="the failed pod",
    )
    assert once["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert once["containerStatuses"][0]["state"]["terminated"]["reason"] == "Error"
    back = eventually(
        lambda: (
            (seen := line.get("pod", "again")["status"]).get("containerStatuses")
            and seen["containerStatuses"][0]["restartCount"] >= 1
            and seen["containerStatuses"][0]["state"].get("waiting")
            and seen["containerStatuses"][0]
        ),
        what="the back-off",
    )
    assert back["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert back["lastState"]["terminated"]["exitCode"] == 4
    assert line.kubectl("logs", "--previous", "again").startswith("try ")
    reasons = {
        event["reason"]
        for event in line.get("events", "--field-selector", "involvedObject.name=again")["items"]
    }
    assert {"Scheduled", "Pulled", "Created", "Started", "BackOff"} <= reasons
    line.kubectl("delete", "pod", "once", "again")


@pytest.mark.parametrize(
    ("name", "spec", "field"),
    [
        ("host-network", {"hostNetwork": True}, "hostNetwork"),
        ("host-path", {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "hostPath"),
        ("privileged", {"container": {"securityContext": {"privileged": True}}}, "privileged"),
    ],
)
def test_a_pod_that_cannot_run_as_asked_stays_pending_and_says_why(line, name, spec, field):
    line.apply(pod(name, IDLE, **spec))
    status = eventually(
        lambda: (seen := line.get("pod", name)["status"]).get("reason") and seen, what="the refusal"
    )
    assert status["phase"] == "Pending"
    assert field in status["message"]
    events = eventually(
        lambda: [
            item
            for item in line.get("events", "--field-selector", f"involvedObject.name={name}")["items"]
            if item["type"] == "Warning"
        ],
        what="the warning event",
    )
    assert field in events[0]["message"]
    line.kubectl("delete", "pod", name, "--timeout=20s")


def test_a_job_lets_its_pod_go_that_was_deleted_before_it_ran(line):
    """Such a Job holds its pods by a finalizer until they have ended."""
    refused = pod("held", IDLE, hostNetwork=True, restartPolicy="Never")
    template = {"metadata": refused["metadata"], "spec": refused["spec"]}
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    spec = {"backoffLimit": 6, "podFailurePolicy": {"rules": [disrupted]}, "template": template}
    line.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "held"}, "spec": spec})

    def pods():
        return line.get("pods", "-l", "job-name=held")["items"]

    (first,) = eventually(
        lambda: [one for one in pods() if one["status"].get("reason")], what="the refused pod"
    )
    assert first["status"]["phase"] == "Pending"
    line.kubectl("delete", "pod", first["metadata"]["name"], "--wait=false")
    eventually(
        lambda: first["metadata"]["uid"] not in {one["metadata"]["uid"] for one in pods()},
        what="the deleted pod gone",
    )
    line.kubectl("delete", "job", "held", "--timeout=20s")
    eventually(lambda: not pods(), what="the Job's pods gone")


def test_an_image_that_is_not_there_is_named(line):
    line.apply(pod("no-image", container={"image": "registry.local/no/such:1"}))
    waiting = eventually(
        lambda: (
            (seen := line.get("pod", "no-image")["status"]).get("containerStatuses")
            and seen["containerStatuses"][0]["state"].get("waiting", {})
        ),
        what="the pull error",
    )
    eventually(
        lambda: (
            line.get("pod", "no-image")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            in {"ErrImagePull", "ImagePullBackOff"}
        ),
        what="the reason",
    )
    assert waiting
    line.kubectl("delete", "pod", "no-image", "--timeout=20s")
