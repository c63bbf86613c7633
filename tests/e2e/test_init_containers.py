"""Init containers as a user sees them: what kubectl shows on the way, their logs, and what they hand on."""

import json
import time

import pytest
from line import IDLE, eventually, pod, restarts

pytestmark = [pytest.mark.e2e, pytest.mark.guide("limit initContainers")]

SHARED = {"name": "shared", "mountPath": "/shared"}
# Each run of a container leaves a line.
SIGN = "echo $NAME >> /shared/signed; "


def having(name, init, command=IDLE, **spec):
    """A pod with init containers of these names and commands, which share a folder with the container."""

    def container(its_name, its_command, **more):
        return {
            "name": its_name,
            "image": "busybox:latest",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", SIGN + its_command],
            "env": [{"name": "NAME", "value": its_name}],
            "volumeMounts": [SHARED],
            **more,
        }

    sidecar = {"restartPolicy": "Always"}
    return pod(
        name,
        container=container("main", command),
        initContainers=[
            container(one, its, **(sidecar if one.startswith("side") else {})) for one, its in init.items()
        ],
        volumes=[{"name": "shared", "emptyDir": {}}],
        **spec,
    )


def shown(line, name):
    """The word in the STATUS column."""
    return line.kubectl("get", "pod", name, "--no-headers").split()[2]


def until_shown(line, name, word, *, timeout_s=60):
    eventually(lambda: shown(line, name) == word, timeout_s=timeout_s, what=f"{name} is {word}")


def condition(line, name, kind):
    status = line.get("pod", name)["status"]
    return next(one for one in status["conditions"] if one["type"] == kind)


def signed(line, name):
    return line.kubectl("exec", name, "-c", "main", "--", "cat", "/shared/signed").split()


def until_file(path):
    return f"until [ -e {path} ]; do sleep 0.1; done"


def test_kubectl_shows_how_far_they_are(line):
    steps = {"one": f"echo one is here; {until_file('/shared/go-1')}", "two": until_file("/shared/go-2")}
    line.apply(having("steps", steps))
    until_shown(line, "steps", "Init:0/2")
    status = line.get("pod", "steps")["status"]
    assert status["phase"] == "Pending"
    assert "running" in status["initContainerStatuses"][0]["state"]
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
    initialized = condition(line, "steps", "Initialized")
    assert (initialized["status"], initialized["reason"]) == ("False", "ContainersNotInitialized")
    assert initialized["message"] == "containers with incomplete status: [one two]"
    # Its log and a command in it, while the container itself has neither.
    assert line.kubectl("logs", "steps", "-c", "one") == "one is here\n"
    early = line.run_kubectl("logs", "steps", "-c", "main")
    assert early.returncode != 0
    assert "PodInitializing" in early.stderr
    assert line.kubectl("exec", "steps", "-c", "one", "--", "hostname") == "steps\n"
    line.kubectl("exec", "steps", "-c", "one", "--", "touch", "/shared/go-1")
    until_shown(line, "steps", "Init:1/2")
    line.kubectl("exec", "steps", "-c", "two", "--", "touch", "/shared/go-2")
    line.wait_ready("pod/steps")
    assert shown(line, "steps") == "Running"
    assert condition(line, "steps", "Initialized")["status"] == "True"
    assert signed(line, "steps") == ["one", "two", "main"]
    assert line.kubectl("logs", "steps", "-c", "one") == "one is here\n"
    events = line.get("events", "--field-selector", "involvedObject.name=steps,reason=Started")["items"]
    assert {one["involvedObject"]["fieldPath"] for one in events} == {
        "spec.initContainers{one}",
        "spec.initContainers{two}",
        "spec.containers{main}",
    }
    line.kubectl("delete", "pod", "steps")


def test_a_failure_is_retried_until_it_goes_well(line):
    line.apply(having("stubborn", {"try": "[ $(wc -l < /shared/signed) -ge 3 ] || exit 9"}))
    until_shown(line, "stubborn", "Init:CrashLoopBackOff")
    status = line.get("pod", "stubborn")["status"]
    assert status["phase"] == "Pending"
    assert status["initContainerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 9
    line.wait_ready("pod/stubborn", timeout_s=60)
    assert signed(line, "stubborn") == ["try", "try", "try", "main"]
    line.kubectl("delete", "pod", "stubborn")


def test_a_failure_is_final_for_a_pod_that_never_restarts(line):
    line.apply(having("never", {"try": "echo no luck; exit 9"}, restartPolicy="Never"))
    until_shown(line, "never", "Init:Error")
    status = line.get("pod", "never")["status"]
    assert status["phase"] == "Failed"
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 9
    assert line.kubectl("logs", "never", "-c", "try") == "no luck\n"
    line.kubectl("delete", "pod", "never")


def test_an_image_that_is_missing_is_told(line):
    wanted = having("missing", {"one": "true"})
    wanted["spec"]["initContainers"][0]["image"] = "registry.local/no/such:1"
    line.apply(wanted)
    eventually(
        lambda: shown(line, "missing") in {"Init:ErrImagePull", "Init:ImagePullBackOff"},
        what="the missing image",
    )
    line.kubectl("delete", "pod", "missing")


def test_a_deletion_does_not_wait_for_them(line):
    line.apply(having("endless", {"one": IDLE, "two": "true"}))
    until_shown(line, "endless", "Init:0/2")
    began_s = time.monotonic()
    line.kubectl("delete", "pod", "endless")
    assert time.monotonic() - began_s < 15


def test_a_kcilet_that_is_killed_repeats_none(line):
    line.apply(having("lasting", {"one": "sleep 1", "two": until_file("/shared/go")}))
    until_shown(line, "lasting", "Init:1/2")
    killed = line.kill("kcilet")
    _ = line.wait_back("kcilet", killed)
    go = ("exec", "lasting", "-c", "two", "--", "touch", "/shared/go")
    eventually(lambda: line.run_kubectl(*go).returncode == 0, what="a command in the second one")
    line.wait_ready("pod/lasting")
    assert signed(line, "lasting") == ["one", "two", "main"]
    assert restarts(line.get("pod", "lasting")) == 0
    line.kubectl("delete", "pod", "lasting")


def test_a_job_is_complete_though_its_sidecar_runs_on(line):
    template = having("work", {"side": IDLE, "one": "true"}, "echo done", restartPolicy="Never")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work"},
        "spec": {"template": {"metadata": template["metadata"], "spec": template["spec"]}},
    }
    del job["spec"]["template"]["metadata"]["name"]
    line.apply(job)
    line.kubectl("wait", "--for=condition=complete", "job/work", "--timeout=60s", timeout_s=70)
    (name,) = line.pods("batch.kubernetes.io/job-name=work")
    assert shown(line, name) == "Completed"
    ended = line.get("pod", name)["status"]["initContainerStatuses"]
    assert all("terminated" in one["state"] for one in ended), json.dumps(ended)
    assert line.kubectl("logs", name, "-c", "main") == "done\n"
    line.kubectl("delete", "job", "work")


def test_a_rollout_waits_for_them(line):
    """With a Deployment, as users have it: the new pod serves only once its init container is done."""
    template = having("rolled", {"one": "sleep 1"})
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "rolled"},
        "spec": {
            "selector": {"matchLabels": {"app": "rolled"}},
            "template": {"metadata": {"labels": {"app": "rolled"}}, "spec": template["spec"]},
        },
    }
    line.apply(deployment)
    line.kubectl("rollout", "status", "deployment/rolled", "--timeout=60s", timeout_s=70)
    (name,) = line.pods("app=rolled")
    assert signed(line, name) == ["one", "main"]
    line.kubectl("delete", "deployment", "rolled")
