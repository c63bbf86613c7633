"""Probes while programs are killed and hang: nothing that is well is restarted or taken out of service, and
what is not well is dealt with all the same.
"""

import time

import line as lines
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.guide("limit probes")]
PODS = 4
WEB = "mkdir -p /www && touch /www/up /www/live && trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
FAST = {"periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 1}
PROBES = {
    "startupProbe": {"tcpSocket": {"port": 8080}, **FAST},
    "readinessProbe": {"httpGet": {"path": "/up", "port": 8080}, **FAST},
    "livenessProbe": {"exec": {"command": ["test", "-e", "/www/live"]}, **FAST, "timeoutSeconds": 5},
}


@pytest.fixture
def probed(line):
    """Pods with all kinds of probes, all of them ready."""
    names = [f"probed-{number}" for number in range(PODS)]
    line.apply(
        *(lines.pod(name, WEB, container=PROBES, metadata={"labels": {"app": "probed"}}) for name in names)
    )
    line.wait_pods_ready("app=probed", PODS)
    yield names
    line.kubectl("delete", "pod", "-l", "app=probed", timeout_s=120)


def transitions(line):
    """When each pod became ready or not for the last time, and how often its containers were restarted."""
    return {
        name: (
            lines.restarts(pod),
            [one["lastTransitionTime"] for one in pod["status"]["conditions"] if one["type"] == "Ready"],
        )
        for name, pod in line.pods("app=probed").items()
    }


@pytest.mark.requirement("R22", "R05")
@pytest.mark.parametrize("part", ["kcilet", "containerd", "kube-apiserver"])
def test_what_is_well_stays_ready_whatever_is_killed(line, probed, runs, part):
    chance = runs.random()
    before = transitions(line)
    for _ in range(runs.scale(quick=2, faults=3, release=30)):
        killed = line.kill(part)
        line.wait_back(part, killed)
        # The moment is what is tested; probes of every kind are run in it.
        time.sleep(chance.uniform(0, 4))
    lines.eventually(lambda: transitions(line) == before, what="nothing has changed")


@pytest.mark.requirement("R05")
def test_what_is_not_well_is_found_by_the_next_kcilet(line, probed, runs):
    for name in probed[: runs.scale(quick=2, faults=4, release=4)]:
        with line.by_hand("kcilet") as program:
            # Commands are refused until it serves.
            lines.eventually(
                lambda name=name: line.kubectl("exec", name, "--", "rm", "-f", "/www/live") == "",
                what="the file is removed",
            )
            # What it had counted is forgotten each time.
            for _ in range(3):
                program.kill()
                program.start()
        lines.eventually(
            lambda name=name: lines.restarts(line.get("pod", name)) == 1, what=f"{name} is restarted"
        )
        line.wait_ready(f"pod/{name}")
