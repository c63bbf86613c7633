"""The guide's annotations on pods: from a real API server to a real KCI service, and what comes out below."""

import os
import subprocess
import sys

import needs
import pytest

from kci.contract import networks, security_groups
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


@pytest.mark.guide("annotation kci-subnet-id", "annotation kci-security-group-id")
async def test_a_pod_comes_to_the_subnet_and_the_security_groups_that_it_names(line, namespace):
    calls = line.service.alice.vpc
    vpc = await calls.create_vpc(networks.CreateVpc(cidr_block="10.20.0.0/16"))
    subnet = await calls.create_subnet(
        networks.CreateSubnet(vpc_id=vpc.vpc_id, cidr_block="10.20.1.0/24", mtu=1400)
    )
    (default,) = await calls.list_security_groups(vpc_ids=(vpc.vpc_id,))
    web = await calls.create_security_group(security_groups.CreateSecurityGroup(vpc_id=vpc.vpc_id))
    named = (default.security_group_id, web.security_group_id)
    said = {annotations.SUBNET: subnet.subnet_id, annotations.SECURITY_GROUPS: ", ".join(named)}
    async with line.running():
        await line.bind(namespace, annotations=said)
        await line.groups(1)
        await line.until_running()
        (found,) = line.service.kcilet.wanted.values()
    assert (found.interface.address, found.interface.gateway) == ("10.20.1.2", "10.20.1.1")
    assert (found.interface.prefix_length, found.interface.mtu) == (24, 1400)
    assert found.security_group_ids == named


@pytest.mark.guide("annotation kci-subnet-id")
async def test_a_pod_that_names_a_subnet_which_is_not_there_is_told_so(line, namespace):
    missing = "99999999-9999-4999-8999-999999999999"
    async with line.running():
        await line.bind(namespace, annotations={annotations.SUBNET: missing})
        pod = await line.until(
            lambda: line.admin.get(resources.PODS, "web", namespace=namespace),
            lambda found: found.status.message,
        )
    assert "SubnetNotFound" in pod.status.message


@pytest.mark.guide("annotation kci-retain-ip")
async def test_the_next_pod_of_a_name_has_the_address_of_the_one_before_it(line, namespace):
    said = {annotations.RETAIN_IP: "true"}

    async def is_gone():
        return await line.until(
            lambda: line.admin.get(resources.PODS, "db-0", namespace=namespace), lambda found: found is None
        )

    async with line.running():
        addresses, uids = [], []
        for round_ in range(2):
            pod = await line.bind(namespace, name="db-0", annotations=said)
            uids.append(pod.metadata.uid)
            await line.groups(1)
            await line.until_running()
            (group,) = await line.service.alice.list_container_groups()
            assert group.label("pod-uuid") == pod.metadata.uid
            addresses.append(group.private_address)
            await line.admin.delete(resources.PODS, "db-0", namespace=namespace)
            await is_gone()
            if round_ == 0:
                # Somebody else comes in between, and does not get it.
                await line.bind(namespace, name="other")
                await line.groups(1)
                await line.admin.delete(resources.PODS, "other", namespace=namespace)
                await line.groups(0)
    assert len(set(uids)) == 2
    assert len(set(addresses)) == 1


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
