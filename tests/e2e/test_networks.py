"""Subnets and addresses on a real line: what is made by command is where pods come to."""

import ipaddress
import json
import subprocess
import sys

import pytest
from line import IDLE, eventually, pod

pytestmark = pytest.mark.e2e

CIDR = "10.213.0.0/16"
SUBNET = "10.213.7.0/24"


def kci(line, *words):
    """The command where the stack's service can be reached; its answer, or its complaint."""
    argv = line.inside(sys.executable, "-m", "kci.cli.main", *words, "--state-dir", str(line.state_dir))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (done.stdout or done.stderr).strip()


def test_the_stacks_own_network_is_listed_and_the_range_of_services_is_no_subnets(line):
    seen = json.loads(line.kci("status", "-o", "json"))
    code, listed = kci(line, "subnets", "-o", "json")
    assert code == 0, listed
    assert seen["gateway"] in {subnet["gateway"] for subnet in json.loads(listed)}
    service = line.get("service", "kubernetes")["spec"]["clusterIP"]
    range_ = ".".join(service.split(".")[:2])
    _, vpc = kci(line, "vpc", "create", "--cidr", f"{range_}.0.0/16")
    try:
        code, told = kci(line, "subnet", "create", "--vpc", vpc, "--cidr", f"{range_}.9.0/24")
        assert (code, "CidrConflict" in told) == (1, True), told
    finally:
        assert kci(line, "vpc", "delete", vpc) == (0, "")


@pytest.mark.guide("annotation kci-retain-ip")
def test_the_next_pod_of_a_name_has_the_address_of_the_one_before_it(line):
    said = {"annotations": {"k8s.ksyun.com/kci-retain-ip": "true"}}
    addresses = []
    for other in ("first", "second"):
        line.apply(pod("keeps", "ip -4 addr show eth0; " + IDLE, metadata=said))
        line.wait_ready("pod/keeps")
        addresses.append(line.get("pod", "keeps")["status"]["podIP"])
        assert f"inet {addresses[-1]}/" in line.kubectl("logs", "keeps")
        line.kubectl("delete", "pod", "keeps")
        line.apply(pod(other, IDLE))
        line.wait_ready(f"pod/{other}")
        assert line.get("pod", other)["status"]["podIP"] not in addresses
    line.kubectl("delete", "pod", "first", "second")
    assert len(set(addresses)) == 1
    eventually(lambda: not line.get("pods")["items"], what="all pods gone")


@pytest.mark.guide("annotation kci-subnet-id", "annotation kci-security-group-id")
def test_pods_in_a_subnet_that_was_made_reach_each_other_and_the_machine_reaches_them(line):
    _, vpc = kci(line, "vpc", "create", "--cidr", CIDR, "--name", "made")
    code, subnet = kci(line, "subnet", "create", "--vpc", vpc, "--cidr", SUBNET)
    assert code == 0, subnet
    _, listed = kci(line, "security-groups", "-o", "json")
    (group,) = (one["id"] for one in json.loads(listed) if one["vpc"] == vpc)
    said = {
        "annotations": {
            "k8s.ksyun.com/kci-subnet-id": subnet,
            "k8s.ksyun.com/kci-security-group-id": group,
        }
    }
    serve = "mkdir -p /tmp/www && echo made > /tmp/www/index.html && httpd -f -p 8080 -h /tmp/www & " + IDLE
    line.apply(pod("serves", serve, metadata=said), pod("asks", IDLE, metadata=said))
    line.wait_ready("pod/serves", "pod/asks")
    address = line.get("pod", "serves")["status"]["podIP"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network(SUBNET)
    # Its own wget crashes where it is linked statically.
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 8080"
    eventually(
        lambda: "made" in line.run_kubectl("exec", "asks", "--", "sh", "-c", ask).stdout,
        what="an answer from the other pod",
    )
    assert line.http(f"http://{address}:8080/").strip() == "made"
    code, told = kci(line, "subnet", "delete", subnet)
    assert (code, "SubnetInUse" in told) == (1, True), told
    line.kubectl("delete", "pod", "serves", "asks")
    eventually(lambda: kci(line, "subnet", "delete", subnet) == (0, ""), what="the subnet deleted")
    assert kci(line, "vpc", "delete", vpc) == (0, "")
