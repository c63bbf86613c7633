"""The whole kcilet but for the cluster on a real containerd: the checks in `kcilet_on_node/check_pods.py`.

They run as a pytest of their own inside the namespaces of a node that this test makes.
"""

import pathlib
import subprocess
import sys

import containerd_fixture
import needs
import pytest

from kci.stack import containerd as stack_containerd
from kci.stack import goprograms, preparation

pytestmark = pytest.mark.integration

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def node():
    """A containerd of its own with a bridge and the CNI plugin in place."""
    needs.demand(containerd_fixture.why_not())
    with containerd_fixture.running() as node:
        preparation.install_cni(node.where, needs.go_program(goprograms.CNI))
        (node.where.cni_conf / "10-kci.conf").write_text(stack_containerd.cni_config(node.where))
        node.where.kcilet.mkdir()
        node.inside("ip", "link", "add", node.where.bridge, "type", "bridge")
        node.inside("ip", "address", "add", "10.88.0.1/24", "dev", node.where.bridge)
        node.inside("ip", "link", "set", node.where.bridge, "up")
        yield node


def test_pods_live_as_they_should_on_a_real_runtime(node):
    done = subprocess.run(
        [
            "nsenter", f"--target={node.pid}", "--mount", "--net", "--pid",
            "env", f"--chdir={HERE}", f"KCI_TEST_ROOT={node.where.root}", f"KCI_TEST_CGROUP={node.cgroup}",
            sys.executable, "-m", "pytest", "-q", "-s", "--tb=short", "-p", "no:cacheprovider",
            "kcilet_on_node/check_pods.py",
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
