"""The kcilet on a real containerd that is killed, hangs, loses its helpers, or is switched off as a whole."""

import containerd_fixture
import crash_points
import needs
import node_fixture
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.faults]


@pytest.fixture(scope="module")
def node():
    with node_fixture.running(comes_back=True) as node:
        yield node


@pytest.mark.requirement("R05")
def test_the_kcilet_may_be_killed_at_any_step(node, runs):
    runs.count = len(crash_points.list_steps_of_a_pod())
    node_fixture.check(node, "kcilet_on_node/check_crashes.py", timeout_s=600)


@pytest.mark.requirement("R28", "R15")
def test_containerd_may_be_killed_at_any_call(node, runs):
    runs.count = 7 * 3 + 1
    node_fixture.check(node, "kcilet_on_node/check_runtime_faults.py", "-k", "containerd", timeout_s=600)


@pytest.mark.requirement("R29")
def test_helpers_may_be_killed(node, runs):
    runs.count = 4
    node_fixture.check(node, "kcilet_on_node/check_runtime_faults.py", "-k", "not containerd", timeout_s=300)


def test_after_a_reboot_pods_return_by_their_policy():
    needs.demand(containerd_fixture.why_not())
    with containerd_fixture.machine() as (where, name):
        with containerd_fixture.booted(where, name) as node:
            node_fixture.equip(node)
            node_fixture.check(node, "kcilet_on_node/check_reboot.py", "-k", "before")
        with containerd_fixture.booted(where, name) as node:
            node_fixture.check(node, "kcilet_on_node/check_reboot.py", "-k", "after")
