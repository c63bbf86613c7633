"""Two copies of one virtual node: whoever holds the Lease acts, the other one does not."""

import between
import line as lines
import pytest
from line import IDLE, eventually, pod

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.requirement("R26")]

SECOND_PORT = between.NODE_PORT + 1
# A Lease lasts 40 s; whoever waits for it looks now and then.
TAKEN_OVER_S = 90


@pytest.fixture
def copies(line):
    """The first copy, which leads, and a second one on the same machine."""
    with line.by_hand("virtual-kubelet") as first:
        second = lines.ByHand(
            first.argv,
            {
                **first.environment,
                "KUBELET_PORT": str(SECOND_PORT),
                "VKUBELET_IDENTITY": "second",
            },
            line.where.log("second-virtual-kubelet"),
        )
        eventually(lambda: lines.listens(first.process, between.NODE_PORT), what="the first copy serves")
        leader = eventually(lambda: holder(line), what="somebody leads")
        second.start()
        try:
            yield first, second, leader
        finally:
            second.kill()


def holder(line):
    return line.get("lease", "virtual-kubelet", "-n", "kube-node-lease")["spec"].get("holderIdentity")


def test_a_leader_that_slept_finds_itself_replaced_and_does_nothing(line, recorder, standing, runs, copies):
    """SIGSTOP until the other one leads, deletes and creates meanwhile, SIGCONT."""
    first, _, leader = copies
    line.apply(pod("deleted", IDLE), pod("kept", IDLE))
    line.wait_ready("pod/deleted", "pod/kept")
    for run in range(runs.scale(quick=1, faults=1, release=5)):
        with line.paused(first.process):
            recorder.note("away", "virtual-kubelet")
            line.kubectl("delete", "pod", "deleted", "--wait=false")
            line.apply(pod(f"created-{run}", IDLE))
            eventually(lambda: holder(line) != leader, timeout_s=TAKEN_OVER_S, what="the second copy leads")
            recorder.note("back", "virtual-kubelet")
            line.wait_ready(f"pod/created-{run}", timeout_s=60)
            eventually(lambda: "deleted" not in line.pods(), timeout_s=60, what="the deleted pod is gone")
        # The first one believes that it leads, until it looks: a pod that it knows nothing of must stay.
        line.apply(pod("deleted", IDLE))
        line.wait_ready("pod/deleted", timeout_s=60)
        line.live_instances()
        line.kubectl("delete", "pod", f"created-{run}", "--timeout=60s")
        assert lines.is_ready(line.pods()["kept"])
        assert lines.restarts(line.pods()["kept"]) == 0
    line.kubectl("delete", "pods", "deleted", "kept", "--timeout=60s")


def test_the_second_copy_goes_on_when_the_first_is_gone(line, recorder, standing, runs, copies):
    """A rolling update without a word of goodbye."""
    runs.count = 1
    first, _, leader = copies
    recorder.note("away", "virtual-kubelet")
    first.kill()
    eventually(lambda: holder(line) != leader, timeout_s=TAKEN_OVER_S, what="the second copy leads")
    recorder.note("back", "virtual-kubelet")
    line.apply(pod("after", IDLE))
    line.wait_ready("pod/after", timeout_s=60)
    line.kubectl("delete", "pod", "after", "--timeout=60s")
