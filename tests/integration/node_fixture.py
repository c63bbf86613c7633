"""A containerd with bridge and CNI plugin in place, and checks that run as a pytest of their own inside."""

import contextlib
import pathlib
import subprocess
import sys

import containerd_fixture
import needs

from kci.stack import containerd as stack_containerd
from kci.stack import goprograms, preparation

HERE = pathlib.Path(__file__).parent


@contextlib.contextmanager
def running(*, comes_back=False):
    """A node for as long as the block runs; see containerd_fixture.running."""
    needs.demand(containerd_fixture.why_not())
    with containerd_fixture.running(comes_back=comes_back) as node:
        equip(node)
        yield node


def equip(node):
    preparation.install_cni(node.where, needs.go_program(goprograms.CNI))
    (node.where.cni_conf / "10-kci.conf").write_text(stack_containerd.cni_config(node.where))
    node.where.kcilet.mkdir(exist_ok=True)
    node.inside("ip", "link", "add", node.where.bridge, "type", "bridge")
    node.inside("ip", "address", "add", "10.88.0.1/24", "dev", node.where.bridge)
    node.inside("ip", "link", "set", node.where.bridge, "up")
    node.inside("sysctl", "-qw", "net.ipv4.ip_forward=1")


def check(node, *arguments, timeout_s=300):
    """Run checks (`kcilet_on_node/check_….py`) inside the node's namespaces."""
    done = subprocess.run(
        [
            "nsenter", f"--target={node.pid}", "--mount", "--net", "--pid",
            "env", f"--chdir={HERE}", f"KCI_TEST_ROOT={node.where.root}", f"KCI_TEST_CGROUP={node.cgroup}",
            sys.executable, "-m", "pytest", "-q", "--tb=short", "--show-capture=no",
            "-p", "no:cacheprovider", *arguments,
        ],
        capture_output=True, text=True, check=False, timeout=timeout_s,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
