"""The runtime, a shim or the whole machine ends without a word."""

import signal
import subprocess

import guard as guard_module
import line as lines
import pytest
import traffic
from line import IDLE, eventually, pod

from kci.stack import processes

pytestmark = [pytest.mark.e2e, pytest.mark.faults]


@pytest.mark.requirement("R28")
def test_containers_outlive_a_killed_runtime_and_what_was_under_way_ends(line, recorder, standing, runs):
    chance = runs.random()
    times = runs.scale(quick=1, faults=4, release=20)
    with line.by_hand("containerd") as runtime, traffic.Churn(line, chance, pause_s=0.3) as churn:
        for number in range(times):
            eventually(lambda number=number: len(churn.created) >= 2 * number + 2, what="pods come and go")
            recorder.note("killed", "containerd")
            runtime.kill()
            runtime.start()
            eventually(line.live_instances, what="the runtime answers again")
    churn.wait_gone(timeout_s=90)


@pytest.mark.requirement("R29")
def test_a_killed_shim_is_told_and_its_containers_are_started_again(line, recorder, standing, runs):
    runs.count = 1
    line.apply(pod("always", IDLE), pod("never", IDLE, restartPolicy="Never"))
    line.wait_ready("pod/always", "pod/never")
    found = line.pods()
    live = line.live_instances()
    addresses = {name: found[name]["status"]["podIP"] for name in ("always", "never")}
    for name in ("always", "never"):
        recorder.note("killed", name)
        processes.send(line.shim_of(live[found[name]["metadata"]["uid"]]), signal.SIGKILL)
    eventually(
        lambda: line.pods()["never"]["status"]["phase"] == "Failed", timeout_s=30, what="the end is told"
    )
    eventually(
        lambda: lines.restarts(line.pods()["always"]) == 1 and lines.is_ready(line.pods()["always"]),
        timeout_s=60,
        what="it runs again",
    )
    ended = line.pods()["never"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] != 0
    assert line.pods()["always"]["status"]["podIP"] == addresses["always"]
    line.live_instances()
    line.kubectl("delete", "pods", "always", "never", "--timeout=60s")


@pytest.mark.requirement("R05", "R28")
def test_after_the_machine_was_off_pods_return_by_policy(line, recorder, runs):
    """All processes end at once, mounts and the network namespace go with them, files stay."""
    runs.count = 1
    line.apply(
        pod("always", IDLE),
        pod("on-failure", IDLE, restartPolicy="OnFailure"),
        pod("never", IDLE, restartPolicy="Never"),
        pod("done", "exit 0", restartPolicy="OnFailure"),
        pod("deleted", IDLE),
    )
    line.wait_ready("pod/always", "pod/on-failure", "pod/never", "pod/deleted")
    eventually(lambda: line.pods()["done"]["status"]["phase"] == "Succeeded", what="one has ended")
    line.kill_everything()
    recorder.note("off")
    subprocess.run(["ip", "netns", "delete", line.netns], check=True, timeout=20)
    line.kci("up", "--detach", "--netns", line.netns, *guard_module.UP)
    for name in ("always", "on-failure"):
        eventually(
            lambda name=name: (seen := line.pods()[name]) and lines.is_ready(seen) and lines.restarts(seen),
            timeout_s=60,
            what=f"{name} runs again",
        )
        assert lines.restarts(line.pods()[name]) == 1
    eventually(lambda: line.pods()["never"]["status"]["phase"] == "Failed", what="its end is told")
    assert line.pods()["done"]["status"]["phase"] == "Succeeded"
    assert lines.restarts(line.pods()["done"]) == 0
    line.live_instances()
    names = ("always", "on-failure", "never", "done", "deleted")
    line.kubectl("delete", "pods", *names, "--timeout=60s", timeout_s=90)
    eventually(lambda: not line.instances(), what="nothing is left")
