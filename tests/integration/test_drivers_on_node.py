"""The kcilet's drivers on a real containerd, each subject's checks in `drivers/check_<subject>.py`.

Drivers work in the mount and network namespaces that the runtime uses, so the checks run as a
pytest of their own inside the namespaces of a node that the test made.
"""

import pathlib
import subprocess
import sys

import needs
import pytest

from kci.stack import containerd as stack_containerd
from kci.stack import goprograms, preparation

pytestmark = pytest.mark.integration

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def node(containerd):
    """The containerd's namespaces with a bridge and the CNI plugin in place."""
    where = containerd.where
    preparation.install_cni(where, needs.go_program(goprograms.CNI))
    (where.cni_conf / "10-kci.conf").write_text(stack_containerd.cni_config(where))
    where.kcilet.mkdir()
    containerd.inside("ip", "link", "add", where.bridge, "type", "bridge")
    containerd.inside("ip", "address", "add", "10.88.0.1/24", "dev", where.bridge)
    containerd.inside("ip", "link", "set", where.bridge, "up")
    containerd.inside("sysctl", "-qw", "net.ipv4.ip_forward=1")
    return containerd


@pytest.mark.parametrize(
    "subject",
    [
        "runtime", "volumes", "network", "cgroups", "probes", "stats",
        pytest.param("streams", marks=pytest.mark.requirement("R27", "R38")),
    ],
)  # fmt: skip
def test_the_driver_does_what_its_checks_say(node, subject):
    done = subprocess.run(
        [
            "nsenter", f"--target={node.pid}", "--mount", "--net", "--pid",
            "env", f"--chdir={HERE}", f"KCI_TEST_ROOT={node.where.root}", f"KCI_TEST_CGROUP={node.cgroup}",
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"drivers/check_{subject}.py",
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
