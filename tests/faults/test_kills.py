"""Each of our programs killed at random moments, again and again, while pods come and go."""

import subprocess
import time

import between
import line as lines
import pytest
import traffic

CLIENT_ENDS_S = 10

pytestmark = [pytest.mark.e2e, pytest.mark.faults]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("virtual-kubelet", marks=pytest.mark.requirement("R01")),
        pytest.param("kci-service", marks=pytest.mark.requirement("R03")),
        pytest.param("kcilet", marks=pytest.mark.requirement("R05")),
    ],
)
def test_pods_go_on_and_deletions_too(line, recorder, standing, runs, part):
    chance = runs.random()
    with line.by_hand(part) as program, traffic.Churn(line, chance, pause_s=0.5) as churn:
        for _ in range(runs.scale(quick=3, faults=10, release=200)):
            # The moment is what is tested: any may come, so it is no state that one could wait for.
            time.sleep(chance.uniform(0.1, 3))
            recorder.note("away", part)
            program.kill()
            time.sleep(chance.uniform(0, 1))
            program.start()
            recorder.note("back", part)
    churn.wait_gone()
    assert churn.refused == []
    assert churn.created


@pytest.mark.requirement("R05", "R27")
def test_a_command_ends_when_the_kcilet_between_it_and_its_client_is_killed(line, recorder, standing, runs):
    pods = [instance.pod for instance in standing.values()]
    with line.by_hand("kcilet") as program:
        for run in range(runs.scale(quick=1, faults=5, release=20)):
            marker = f"32{run:06}"  # a sleep that nobody else has
            name = pods[run % len(pods)]
            # It has only just been started.
            lines.eventually(
                lambda name=name: line.run_kubectl("exec", name, "--", "true").returncode == 0,
                what="the kcilet serves",
            )
            with subprocess.Popen(
                line.kubectl_argv("exec", "-i", name, "--", "sleep", marker),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as client:
                lines.eventually(lambda name=name, marker=marker: _runs(line, name, marker), what="it runs")
                recorder.note("away", "kcilet")
                program.kill()
                _, said = client.communicate(timeout=CLIENT_ENDS_S)
                program.start()
                recorder.note("back", "kcilet")
            assert client.returncode != 0, "the client believes that the command has ended well"
            assert said
            lines.eventually(
                lambda name=name, marker=marker: not _runs(line, name, marker), what="the command is ended"
            )


def _runs(line, name, marker):
    return marker in line.kubectl("exec", name, "--", "ps")


@pytest.mark.requirement("R22")
def test_readiness_does_not_flap_when_the_node_starts_again(line, recorder, standing, runs):
    chance = runs.random()
    with line.by_hand("virtual-kubelet") as program:
        for _ in range(runs.scale(quick=3, faults=20, release=50)):
            program.kill()
            program.start()
            lines.eventually(
                lambda: lines.listens(program.process, between.NODE_PORT), what="the node serves again"
            )
            # Killed while it is at work as well as when it has settled.
            time.sleep(chance.uniform(0, 2))
