"""Cluster DNS on the whole line: what pods have in their resolv.conf, and what CoreDNS answers them."""

import json

import pytest
from line import IDLE, eventually, pod

pytestmark = pytest.mark.e2e

NAMED, ALONE, DEFAULT, OWN = "named", "alone", "of-machine", "of-its-own"
SERVICE, HEADLESS = "web", "peers"
GONE = ("delete", "--wait=true", "--ignore-not-found", "--now")


def service(name, **spec):
    ports = [{"name": "http", "port": 80}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": NAMED}, "ports": ports, **spec},
    }


@pytest.fixture(scope="module")
def pods(line, guard):
    line.apply(
        service(SERVICE),
        service(HEADLESS, clusterIP="None"),
        pod(NAMED, IDLE, hostname="first", subdomain=HEADLESS),
        pod(ALONE, IDLE, dnsConfig={"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}),
        pod(DEFAULT, IDLE, dnsPolicy="Default"),
        pod(
            OWN,
            IDLE,
            dnsPolicy="None",
            dnsConfig={"nameservers": [dns_service(line)], "searches": ["x.example"]},
        ),
    )
    line.wait_ready(*(f"pod/{name}" for name in (NAMED, ALONE, DEFAULT, OWN)))
    yield line
    line.kubectl(*GONE, "pod", NAMED, ALONE, DEFAULT, OWN)
    line.kubectl(*GONE, "service", SERVICE, HEADLESS)


def gateway(line):
    return json.loads(line.kci("status", "-o", "json"))["gateway"]


def dns_service(line):
    return line.get("service", "kube-dns", "--namespace", "kube-system")["spec"]["clusterIP"]


def inside(line, name, command):
    return line.kubectl("exec", name, "--", "sh", "-c", command)


def looked_up(line, name):
    """The addresses of a whole name, as the pod is told them; busybox' nslookup has no search list for a name
    with dots.
    """
    # The first address is the server's.
    found = inside(line, ALONE, f"nslookup -type=a {name} || true")
    return [row.split()[1] for row in found.splitlines() if row.startswith("Address:")][1:]


def searched(line, name):
    """The address that the pod's C library finds, by its search list."""
    found = inside(line, ALONE, f"ping -c 1 -W 1 {name} || true")
    return found.partition("(")[2].partition(")")[0]


@pytest.mark.guide("flag --cluster-dns", "flag --virtual-node-dns", "flag --cluster-domain")
def test_each_policy_writes_the_resolv_conf_that_a_kubelet_writes(pods):
    search = "search default.svc.cluster.local svc.cluster.local cluster.local\n"
    expected = {
        NAMED: f"{search}nameserver {gateway(pods)}\noptions ndots:5\n",
        ALONE: f"{search}nameserver {gateway(pods)}\noptions ndots:2 edns0\n",
        # The node was given no --virtual-node-dns: as a kubelet with an empty --resolv-conf.
        DEFAULT: "search .\nnameserver 127.0.0.1\n",
        OWN: f"search x.example\nnameserver {dns_service(pods)}\n",
    }
    assert {name: inside(pods, name, "cat /etc/resolv.conf") for name in expected} == expected


@pytest.mark.guide("flag --cluster-dns", "flag --cluster-domain")
def test_a_pod_finds_services_by_their_names(pods):
    api = pods.get("service", "kubernetes")["spec"]["clusterIP"]
    web = pods.get("service", SERVICE)["spec"]["clusterIP"]
    assert looked_up(pods, "kubernetes.default.svc.cluster.local") == [api]
    assert looked_up(pods, f"{SERVICE}.default.svc.cluster.local") == [web]
    assert searched(pods, "kubernetes.default") == api
    assert searched(pods, SERVICE) == web
    assert searched(pods, "kube-dns.kube-system") == dns_service(pods)


def test_a_headless_service_is_its_pods(pods):
    address = pods.get("pod", NAMED)["status"]["podIP"]
    whole = f"{HEADLESS}.default.svc.cluster.local"
    assert eventually(lambda: looked_up(pods, whole)) == [address]
    assert looked_up(pods, f"first.{whole}") == [address]
    assert searched(pods, f"first.{HEADLESS}") == address


def test_a_name_that_nobody_knows_is_answered_at_once(pods):
    """Outside of this stack's network there is nobody to ask."""
    for name in ("www.example.com", "none.default.svc.cluster.local"):
        timed = f"before=$(date +%s); nslookup {name} >/dev/null 2>&1; echo $(($(date +%s) - before))"
        assert int(inside(pods, ALONE, timed)) <= 2


def test_a_service_is_found_as_soon_as_it_is_there(pods):
    """Though it was asked for before: what the cluster has not is not remembered."""
    late = "late.default.svc.cluster.local"
    assert looked_up(pods, late) == []
    pods.apply({**service("late"), "metadata": {"name": "late"}})
    try:
        address = pods.get("service", "late")["spec"]["clusterIP"]
        assert eventually(lambda: looked_up(pods, late), timeout_s=10) == [address]
    finally:
        pods.kubectl(*GONE, "service", "late")


def test_a_pod_whose_dns_takes_kube_proxy_is_told(pods):
    def told():
        events = pods.get("events", "--field-selector", f"involvedObject.name={OWN},reason=DNSNotReachable")
        return events["items"]

    (event,) = eventually(told)
    assert event["type"] == "Warning"
    assert (
        f"{dns_service(pods)} from this pod: it is the ClusterIP of Service kube-system/kube-dns"
        in event["message"]
    )
    assert "kci-kube-proxy-enabled" in event["message"]
    others = pods.get("events", "--field-selector", "reason=DNSNotReachable")["items"]
    assert [one["involvedObject"]["name"] for one in others] == [OWN]


def test_pods_with_kube_proxy_are_led_to_it_by_the_usual_service(pods):
    assert dns_service(pods).endswith(".10")
    slices = pods.get(
        "endpointslices", "--namespace", "kube-system", "--selector", "kubernetes.io/service-name=kube-dns"
    )["items"]
    assert [one["endpoints"][0]["addresses"] for one in slices] == [[gateway(pods)]]


def test_it_may_read_names_and_nothing_else(pods):
    def may(verb, resource):
        return pods.run_kubectl(
            "auth", "can-i", verb, resource, "--as", "system:coredns", "--all-namespaces"
        ).stdout.strip()

    for resource in ("services", "namespaces", "endpointslices.discovery.k8s.io", "pods"):
        assert may("watch", resource) == "yes"
    assert may("list", "secrets") == "no"
    assert may("update", "services") == "no"


def test_its_crash_harms_nobody(pods):
    before = pods.get("pod", ALONE)["status"]["containerStatuses"]
    killed = pods.kill("coredns")
    pods.wait_back("coredns", killed)
    assert looked_up(pods, "kubernetes.default.svc.cluster.local")
    assert pods.get("pod", ALONE)["status"]["containerStatuses"] == before
