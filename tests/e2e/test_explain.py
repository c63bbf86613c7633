"""`kci explain` on the whole line: a start's time, and the reasons of pods that do not run."""

import datetime
import json
import subprocess

import pytest
from line import BIN, IDLE, eventually, pod

pytestmark = pytest.mark.e2e

GONE = ("delete", "--wait=true", "--ignore-not-found", "--now")
WELL, NO_IMAGE, NO_MAP, CRASHES, NOWHERE = "well", "no-image", "no-map", "crashes", "nowhere"
LAST_WORDS = "these are the last words"


@pytest.fixture(scope="module")
def pods(line, guard):
    refers = {"envFrom": [{"configMapRef": {"name": "settings"}}]}
    line.apply(
        pod(WELL, IDLE),
        pod(NO_IMAGE, IDLE, container={"image": "docker.io/library/there-is-no-such:1"}),
        pod(NO_MAP, IDLE, container=refers),
        pod(CRASHES, f"echo {LAST_WORDS}; exit 3"),
        pod(NOWHERE, IDLE, nodeSelector={"type": "no-such"}),
    )
    line.wait_ready(f"pod/{WELL}")
    yield line
    line.kubectl(*GONE, "pod", WELL, NO_IMAGE, NO_MAP, CRASHES, NOWHERE)


def run(line, *arguments):
    """From outside the stack's network namespace, which the command enters by itself."""
    return subprocess.run(
        [str(BIN / "kci"), "explain", "--state-dir", str(line.state_dir), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def explain(line, name):
    done = run(line, name, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def reason(line, name, *wanted):
    """The first finding, once it is one of these."""

    def look():
        found = explain(line, name)["findings"]
        return found[0] if found and found[0]["reason"] in wanted else None

    return eventually(look, what=f"{name} is explained by {wanted}")


def test_the_phases_of_a_start_are_the_time_that_it_took(pods):
    def told():
        found = explain(pods, WELL)
        # The machine's steps come with the report after the first status.
        return found if "told" in {one["phase"] for one in found["start"]["phases"]} else None

    found = eventually(told)
    assert (found["findings"], found["unknown"]) == ([], [])
    assert found["containerGroup"]
    began, phases = found["start"], found["start"]["phases"]
    assert sum(one["tookMs"] for one in phases) == began["totalMs"]
    # Those that always hold up a start; of the others, what was done meanwhile does not count.
    assert {"created", "acknowledged", "started", "told"} <= {one["phase"] for one in phases}
    seen = pods.get("pod", WELL)
    ready = next(one for one in seen["status"]["conditions"] if one["type"] == "Ready")
    # Both in whole seconds.
    took_s = moment(ready["lastTransitionTime"]) - moment(seen["metadata"]["creationTimestamp"])
    assert abs(began["totalMs"] / 1000 - took_s) <= 1.5


def moment(text):
    return datetime.datetime.fromisoformat(text).timestamp()


def test_people_are_shown_a_waterfall(pods):
    told = run(pods, f"default/{WELL}").stdout
    assert "runs and is ready" in told
    assert "Its start took" in told
    assert "█" in told


def test_an_image_that_is_not_there_is_told_with_the_registrys_answer(pods):
    found = reason(pods, NO_IMAGE, "ErrImagePull", "ImagePullBackOff")
    assert "there-is-no-such:1" in found["message"]
    assert "not found" in found["message"]
    assert "check name and tag" in found["remedy"]


def test_a_missing_config_map_is_named(pods):
    found = reason(pods, NO_MAP, "CreateContainerConfigError")
    assert "the ConfigMap settings" in found["message"]
    assert "kubectl create configmap settings -n default" in found["remedy"]


def test_a_crash_loop_is_told_with_its_last_exit_and_log(pods):
    found = reason(pods, CRASHES, "CrashLoopBackOff")
    assert "exit code 3" in found["message"]
    assert found["log"] == [LAST_WORDS]


def test_a_command_in_a_container_that_does_not_run_is_refused_with_a_sentence(pods):
    done = pods.run_kubectl("exec", NO_IMAGE, "--", "true")
    assert done.returncode != 0
    assert "cannot find a running container" in done.stderr


def test_a_pod_that_fits_no_node_is_told_what_to_change(pods):
    found = reason(pods, NOWHERE, "Unschedulable")
    assert "type=virtual-kubelet" in found["remedy"]


def test_a_pod_that_is_not_there_is_an_error_with_a_remedy(pods):
    done = run(pods, "no-such-pod")
    assert done.returncode == 1
    assert "kubectl get pods -A" in done.stderr
