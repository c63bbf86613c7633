"""The whole kcilet but for the cluster on a real containerd: the checks in `kcilet_on_node/`."""

import node_fixture
import pytest

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def node():
    with node_fixture.running() as node:
        yield node


def test_pods_live_as_they_should_on_a_real_runtime(node):
    node_fixture.check(node, "-s", "kcilet_on_node/check_pods.py")


@pytest.mark.guide("limit initContainers")
def test_init_containers_run_as_they_should_on_a_real_runtime(node):
    node_fixture.check(node, "-s", "kcilet_on_node/check_init_containers.py")


@pytest.mark.requirement("R08")
def test_calls_on_its_files_that_fail_are_made_good(node, runs):
    runs.count = runs.scale(quick=2, faults=9, release=94)
    node_fixture.check(node, "kcilet_on_node/check_disk.py", timeout_s=600)


@pytest.mark.requirement("R30")
def test_exits_are_told_as_a_kubelet_tells_them(node, runs):
    runs.count = 20
    node_fixture.check(node, "kcilet_on_node/check_exits.py")


def test_what_pods_use_is_told_from_a_real_machine(node):
    node_fixture.check(node, "-s", "kcilet_on_node/check_usage.py")
