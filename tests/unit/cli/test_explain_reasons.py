"""Why a pod does not run, in sentences: each reason from what is known of it."""

import datetime

import msgspec
import pytest

from kci.cli.explanation import facts, reasons, text
from kci.contract import groups
from kci.kube import models, signing_requests

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)
NODE = {
    "metadata": {"name": "vnode", "labels": {"type": "virtual-kubelet"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}
IDENTITY, SERVING = signing_requests.plan("vnode", "10.88.0.1")
ACCOUNT = "system:serviceaccount:kube-system:virtual-kubelet-sa"


def waiting_request(of, by):
    sent = signing_requests.request_pem(signing_requests.new_key(), of)
    asked = signing_requests.to_object("csr-1", of, sent)
    asked["spec"]["username"] = by
    return msgspec.convert(asked, models.CertificateSigningRequest)


def pod(*, phase="Pending", node="vnode", containers=(), init=(), conditions=(), spec=(), **status):
    return msgspec.convert(
        {
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "uid": "u",
                "creationTimestamp": "2026-01-01T11:58:00Z",
            },
            "spec": {
                "nodeName": node,
                "containers": [{"name": "main", "image": "shop/web:1"}],
                "initContainers": [{"name": one["name"]} for one in init],
                **dict(spec),
            },
            "status": {
                "phase": phase,
                "conditions": list(conditions),
                "containerStatuses": list(containers),
                "initContainerStatuses": list(init),
                **status,
            },
        },
        models.Pod,
    )


def waiting(reason, message="", *, restarts=0, last=None, name="main"):
    return {
        "name": name,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": last} if last else {},
        "restartCount": restarts,
    }


def event(reason, message="", *, container="", second=0):
    return models.Event(
        metadata=models.ObjectMeta(name="web.x"),
        involved_object=models.ObjectReference(field_path=f"spec.containers{{{container}}}"),
        reason=reason,
        message=message,
        first_timestamp=f"2026-01-01T11:59:{second:02}Z",
    )


def node(**changes):
    return msgspec.convert({**NODE, **changes}, models.Node)


def known(of, **more):
    return facts.Facts(pod=of, now=NOW, **{"node": node() if of.spec.node_name else None, **more})


def only(of, **more):
    (found,) = reasons.explain(known(of, **more))
    return found


def unscheduled(message, reason="Unschedulable"):
    return pod(
        node="",
        conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}],
    )


# ---- scheduling and nodes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("0/1 nodes are available: 1 node(s) had untolerated taint {x: y}.", "toleration"),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            "type=virtual-kubelet",
        ),
        ("0/1 nodes are available: 1 Insufficient cpu.", "`capacity` in the file of"),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", "uncordon"),
        ("something new", "kubectl describe node"),
    ],
)
def test_a_pod_without_a_node_is_told_what_the_scheduler_lacks(message, remedy):
    found = only(unscheduled(message), nodes=(node(),))
    assert (found.reason, message in found.message) == ("Unschedulable", True)
    assert remedy in found.remedy


def test_gates_and_a_missing_scheduler_are_told_apart():
    assert only(unscheduled("", "SchedulingGated"), nodes=(node(),)).reason == "SchedulingGated"
    assert only(pod(node=""), nodes=(node(),)).reason == "NotScheduled"


def test_a_cluster_without_a_virtual_node_is_named():
    found = reasons.explain(known(unscheduled("no nodes available")))
    assert [one.reason for one in found] == ["Unschedulable", "NoVirtualNode"]


def test_a_node_that_waits_for_its_certificate_is_told_with_the_command():
    unready = node(status={"conditions": []})
    requests = (waiting_request(SERVING, "system:node:vnode"),)
    found = reasons.explain(known(pod(), node=unready, requests=requests))
    assert [one.reason for one in found][:2] == ["NodeNotReady", "CertificateWaits"]
    assert "for the node vnode, sent by system:node:vnode" in found[1].message
    assert found[1].remedy.endswith(
        "the node itself or its account sent it; only then: kubectl certificate approve csr-1"
    )


def test_a_cluster_whose_virtual_node_waits_for_its_identity_is_told_who_asked_and_what_to_look_at():
    requests = (waiting_request(IDENTITY, ACCOUNT),)
    found = reasons.explain(known(unscheduled("no nodes available"), requests=requests))
    assert [one.reason for one in found] == ["Unschedulable", "CertificateWaits"]
    assert "no virtual node" in found[1].message
    assert f"for the node vnode, sent by {ACCOUNT}" in found[1].message
    look, _, approve = found[1].remedy.partition("; only then: ")
    assert "kubectl describe csr csr-1" in look
    assert look.endswith("vnode is a virtual node of yours and that its account sent it")
    assert approve == "kubectl certificate approve csr-1"


def test_who_may_not_list_nodes_is_not_told_that_there_is_none():
    assert only(unscheduled("no nodes available"), nodes=None).reason == "Unschedulable"


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"status": "Unknown", "lastHeartbeatTime": "2026-01-01T11:00:00Z"}, "11:00:00"),
        ({"status": "False", "message": "the disk is full"}, "the disk is full"),
    ],
)
def test_a_node_that_is_not_ready_is_told_with_why(condition, said):
    unready = node(status={"conditions": [{"type": "Ready", **condition}]})
    found = reasons.explain(known(pod(), node=unready))[0]
    assert found.reason == "NodeNotReady"
    assert said in found.message


def test_a_node_that_is_gone_or_ordinary_is_told():
    assert reasons.explain(known(pod(), node=None))[0].reason == "NodeGone"
    ordinary = node(metadata={"name": "vnode", "labels": {}})
    assert reasons.explain(known(pod(phase="Running", conditions=READY), node=ordinary))[0].reason == (
        "OrdinaryNode"
    )


# ---- the node's and KCI's word ----------------------------------------------------------------------------


def refused(reason, message="why"):
    return pod(
        conditions=[
            {"type": reasons.NODE_CONDITION, "status": "False", "reason": reason, "message": message}
        ],
        reason=reason,
        message=message,
    )


@pytest.mark.parametrize(
    ("reason", "said", "remedy"),
    [
        ("HostNetworkNotSupported", "The node refuses the pod: why", "change the pod"),
        ("InsufficientAddresses", "KCI refused", "larger subnet"),
        ("LimitExceeded", "KCI refused", "quota"),
        ("InternalError", "KCI refused", "log"),
        ("KciUnavailable", "goes on trying", "KCI_ENDPOINT"),
    ],
)
def test_what_the_node_or_kci_refuses_is_told(reason, said, remedy):
    found = only(refused(reason))
    assert found.reason == reason
    assert said in found.message
    assert remedy in found.remedy


def test_every_code_of_kci_has_a_remedy():
    from kci.contract import errors as catalogue

    for code in catalogue.CATALOGUE:
        assert only(refused(code)).remedy


def test_a_failed_pod_says_why():
    found = only(pod(phase="Failed", reason="InstanceLost", message="the instance that ran this pod is gone"))
    assert (found.reason, "is gone" in found.message) == ("InstanceLost", True)


def test_a_deleted_pod_is_not_blamed():
    of = pod(containers=[waiting("ImagePullBackOff")])
    deleted = msgspec.structs.replace(
        of, metadata=msgspec.structs.replace(of.metadata, deletion_timestamp="2026-01-01T11:59:00Z")
    )
    assert only(deleted).reason == "Deleted"


# ---- containers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ("docker.io/shop/web:1: not found", "check name and tag"),
        ("unexpected status: 401 Unauthorized", "imagePullSecrets"),
        ("dial tcp: lookup r: no such host", "reaches the registry"),
    ],
)
@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", "{}"),
        ("ImagePullBackOff", 'Back-off pulling image "shop/web:1"'),
        ("ImagePullBackOff", 'Back-off pulling image "shop/web:1": ErrImagePull: {}'),
    ],
)
def test_an_image_that_cannot_be_had_is_told_with_the_registrys_answer(reason, message, answer, remedy):
    message = message.format(answer)
    told = (event("Failed", f'Failed to pull image "shop/web:1": {answer}', container="main"),)
    found = only(pod(containers=[waiting(reason, message)]), events=told)
    assert (found.reason, found.container) == (reason, "main")
    assert found.message.endswith(f"cannot be had: {answer}")
    assert remedy in found.remedy


def test_an_image_that_is_never_to_be_pulled_and_a_name_that_is_none():
    assert "imagePullPolicy" in only(pod(containers=[waiting("ErrImageNeverPull", "not present")])).remedy
    assert "correct the image's name" in only(pod(containers=[waiting("InvalidImageName", "bad")])).remedy


@pytest.mark.parametrize(
    ("kind", "command"), [("configmap", "create configmap"), ("secret", "create secret")]
)
def test_a_missing_config_map_or_secret_is_named_with_the_command(kind, command):
    found = only(pod(containers=[waiting("CreateContainerConfigError", f'{kind} "settings" not found')]))
    assert "settings" in found.message
    assert f"kubectl {command}" in found.remedy
    assert "-n shop" in found.remedy


def test_a_volume_that_cannot_be_laid_out_is_told_from_its_event():
    said = 'MountVolume.SetUp failed for volume "v" : configmap "settings" not found'
    found = only(pod(containers=[waiting("ContainerCreating")]), events=(event("FailedMount", said),))
    assert (found.reason, "ConfigMap settings" in found.message) == ("FailedMount", True)


def test_a_missing_key_is_told():
    said = "couldn't find key color in ConfigMap shop/settings"
    assert "add the key" in only(pod(containers=[waiting("CreateContainerConfigError", said)])).remedy


def test_a_container_that_cannot_be_started_is_told():
    found = only(pod(containers=[waiting("RunContainerError", 'exec: "nope": not found')]))
    assert (found.reason, "nope" in found.message) == ("RunContainerError", True)


def test_a_pod_that_the_machine_refuses_is_told():
    found = only(pod(containers=[waiting("CannotRunAsAsked", "spec.hostNetwork: no; leave it out")]))
    assert found.message.endswith("leave it out")
    assert "change the pod" in found.remedy


def crashing(exit_code, reason="Error", **more):
    last = {"exitCode": exit_code, "reason": reason, "finishedAt": "2026-01-01T11:59:00Z"}
    return pod(
        phase="Running", containers=[waiting("CrashLoopBackOff", "back-off", restarts=3, last=last)], **more
    )


@pytest.mark.parametrize(
    ("exit_code", "reason", "remedy"),
    [
        (1, "Error", "kubectl logs web -n shop -c main --previous"),
        (127, "Error", "command and args"),
        (126, "Error", "executable"),
        (137, "OOMKilled", "raise the memory"),
        (137, "Error", "killed"),
        (0, "Completed", "run it as a Job"),
    ],
)
def test_a_crash_loop_is_told_with_its_last_exit_and_log(exit_code, reason, remedy):
    found = only(crashing(exit_code, reason), logs={"main": ("last words",)})
    assert found.reason == "CrashLoopBackOff"
    assert f"exit code {exit_code}" in found.message
    assert "3 times" in found.message
    assert found.log == ("last words",)
    assert remedy in found.remedy


def test_a_container_that_its_probe_had_stopped_is_told_so():
    told = (event("Killing", "Container main failed liveness probe, will be restarted"),)
    assert "its probe had it stopped" in only(crashing(143), events=told).remedy


def test_a_container_that_failed_for_good_is_told():
    ended = {
        "name": "main",
        "state": {"terminated": {"exitCode": 3, "reason": "Error", "message": "no\nway"}},
    }
    found = only(pod(phase="Failed", containers=[ended]), logs={"main": ("bye",)})
    assert "with exit code 3" in found.message
    assert "no way" in found.message
    assert found.log == ("bye",)


READY = [{"type": "Ready", "status": "True"}]
RUNNING = {"name": "main", "state": {"running": {"startedAt": "2026-01-01T11:58:05Z"}}}
PROBE = {"tcpSocket": {"port": 1}}


@pytest.mark.parametrize(
    ("probe", "started", "kind"), [("readinessProbe", True, "readiness"), ("startupProbe", False, "startup")]
)
def test_a_probe_that_fails_is_told_with_what_it_said(probe, started, kind):
    of = pod(
        phase="Running",
        containers=[{**RUNNING, "started": started}],
        spec={"containers": [{"name": "main", probe: PROBE}]},
    )
    told = event("Unhealthy", f"{kind.title()} probe failed: connection refused", container="main")
    found = only(of, events=(told,))
    assert found.reason == "Unhealthy"
    assert f"{kind} probe" in found.message
    assert "connection refused" in found.message


def test_an_init_container_that_runs_or_fails_holds_up_the_rest():
    running = {"name": "prepare", "state": {"running": {"startedAt": "2026-01-01T11:58:05Z"}}}
    later = [waiting("PodInitializing")]
    found = only(pod(init=[running], containers=later))
    assert (found.reason, "1 of 1" in found.message) == ("InitRuns", True)
    last = {"exitCode": 1, "reason": "Error"}
    broken = waiting("CrashLoopBackOff", restarts=2, last=last, name="prepare")
    found = only(pod(init=[broken], containers=later))
    assert "init container prepare" in found.message


# ---- without a word of a container -------------------------------------------------------------------


def test_a_pull_that_goes_on_is_told_with_how_long():
    told = (event("Pulling", 'Pulling image "shop/web:1"', container="main", second=20),)
    found = only(pod(containers=[waiting("ContainerCreating")]), events=told)
    assert (found.reason, "since 40 s" in found.message) == ("Pulling", True)
    done = (*told, event("Pulled", container="main", second=30))
    assert only(pod(containers=[waiting("ContainerCreating")]), events=done).reason == "NotTaken"


def test_a_sandbox_that_cannot_be_made_is_told():
    found = only(pod(), events=(event("FailedCreatePodSandBox", "no rules"),))
    assert (found.reason, found.message) == ("FailedCreatePodSandBox", "no rules")


def test_how_far_the_group_is_says_who_is_waited_for():
    made = (event("InstanceCreated", "Created instance g in 3ms"),)
    group = groups.ContainerGroup(container_group_id="g", status="Pending")
    assert only(pod()).reason == "NotTaken"
    assert only(pod(), events=made, group=group, is_service_known=True).reason == "Starting"
    assert only(pod(), events=made, is_service_known=True).reason == "GroupGone"
    # The real cloud, which was not asked.
    assert only(pod(), events=made).reason == "Starting"


def test_a_pod_that_runs_or_is_done_needs_no_reason():
    assert not reasons.explain(
        known(pod(phase="Running", containers=[{**RUNNING, "ready": True}], conditions=READY))
    )
    assert not reasons.explain(known(pod(phase="Succeeded")))


def test_the_text_has_reason_remedy_and_log():
    of = known(crashing(1), logs={"main": ("last words",)}, unknown=("KCI was not asked: no key",))
    told = "\n".join(text.lines(of, reasons.explain(of), None))
    for part in ("Pod shop/web on vnode", "CrashLoopBackOff:", "What to do:", "last words", "Not known: KCI"):
        assert part in told
    assert text.to_builtins(of, reasons.explain(of), None)["findings"][0]["log"] == ["last words"]
