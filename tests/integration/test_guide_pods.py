"""The guide's annotations on pods: from a real API server to a real KCI service, and what comes out below."""

import os
import subprocess
import sys

import needs
import pytest

from kci.kube import bandwidth, resources
from kci.kube import config as configs
from kci.link import types as link
from kci.provider import annotations, settings

pytestmark = pytest.mark.integration


@pytest.mark.guide(
    "annotation kci-kube-proxy-enabled",
    "annotation kci-host-aliases",
    "annotation ingress-bandwidth",
    "annotation egress-bandwidth",
)
async def test_what_a_pods_annotations_say_reaches_the_instance(line, namespace):
    said = {
        annotations.KUBE_PROXY: "true",
        annotations.HOST_ALIASES: '[{"ip": "198.18.0.9", "hostnames": ["db", "db.example"]}]',
        bandwidth.INGRESS: "10M",
        bandwidth.EGRESS: "0.5G",
    }
    async with line.running():
        await line.bind(namespace, annotations=said)
        await line.groups(1)
        await line.until_running()
        (found,) = line.service.kcilet.wanted.values()
    assert found.kube_proxy
    assert found.machine_host_aliases == (link.HostAlias(ip="198.18.0.9", hostnames=("db", "db.example")),)
    assert (found.ingress_bits, found.egress_bits) == (10_000_000, 500_000_000)


@pytest.mark.guide(
    "limit securityGroups",
    "annotation kci-kube-proxy-enabled",
    "annotation kci-host-aliases",
    "annotation kci-security-group-id",
    "annotation ingress-bandwidth",
)
async def test_an_annotation_that_cannot_be_held_is_refused_by_its_name_and_nothing_is_made(line, namespace):
    wrong = {
        annotations.SECURITY_GROUPS: "sg-1,sg-2,sg-3,sg-4",
        annotations.KUBE_PROXY: "perhaps",
        annotations.HOST_ALIASES: "one host",
        bandwidth.INGRESS: "fast",
    }
    async with line.running():
        await line.bind(namespace, annotations=wrong)
        pod = await line.until(
            lambda: line.admin.get(resources.PODS, "web", namespace=namespace),
            lambda found: found.status.reason,
        )
        assert await line.service.alice.list_container_groups() == []
    assert pod.status.phase == "Pending"
    for name in wrong:
        assert name in pod.status.message
    assert "4 security groups: name 1 to 3" in pod.status.message


@pytest.mark.guide("env KCI_REQUEST_INTERNAL")
def test_the_program_calls_the_internal_endpoint_if_the_variable_is_there_even_empty(line, tmp_path):
    """In a network namespace without a way out: it says whom it means to call, and reaches nobody."""
    needs.demand("" if os.geteuid() == 0 else "only root can make a network namespace")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(configs.render(line.config))
    environment = {name: text for name, text in line.environment.items() if name != "KCI_ENDPOINT"}
    environment |= {"KCI_REQUEST_INTERNAL": "", "KUBECONFIG": str(kubeconfig)}
    argv = ["unshare", "--net", sys.executable, "-m", "kci.provider.main", *line.flags]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            told = next((text for text in program.stderr if "started" in text), "")
        finally:
            program.kill()
    assert settings.INTERNAL_ENDPOINT in told
