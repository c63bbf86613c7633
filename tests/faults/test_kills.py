"""Each of our programs killed at random moments, again and again, while pods come and go."""

import time

import between
import line as lines
import pytest
import traffic

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
        for _ in range(runs.scale(quick=3, faults=15, release=200)):
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
