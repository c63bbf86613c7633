"""The stack's cluster DNS: what it is configured with, whom it asks, what it may read."""

import ipaddress
import pathlib

import pytest

from kci.kit import errors
from kci.stack import addresses, clusterdns, coredns, layout, programs, record, settings

WHERE = layout.Layout(pathlib.Path("/state"))
SERVICES = ipaddress.IPv4Network("10.152.0.0/16")
RANGES = addresses.Ranges(ipaddress.IPv4Network("10.88.0.0/16"), SERVICES)
CHOICES = record.Choices(
    format=record.FORMAT,
    kci_version="0",
    cluster="",
    pod_cidr="10.88.0.0/16",
    service_cidr="10.152.0.0/16",
    etcd_port=4001,
    etcd_peer_port=4002,
    controller_manager_port=4003,
    scheduler_port=4004,
    registry_port=4005,
    dns_ready_port=4006,
    dns_metrics_port=4007,
    service_metrics_port=4008,
    kcilet_metrics_port=4009,
    node_metrics_port=4010,
)
RESOLV_CONF = """\
# made by somebody
domain corp.example
nameserver 127.0.0.53
nameserver 192.0.2.53
nameserver 10.88.0.1
nameserver
nameserver here
nameserver 192.0.2.53
nameserver 2001:db8::53
options rotate
"""


def corefile(*resolvers, **more):
    return coredns.corefile(
        coredns.Plan(
            where=WHERE,
            binary=pathlib.Path("/cache/coredns"),
            version="v1",
            ranges=RANGES,
            choices=CHOICES,
            cluster_domain="corp.example",
            resolvers=resolvers,
            **more,
        )
    )


def lines(*resolvers):
    return [line.strip() for line in corefile(*resolvers).splitlines()]


def test_it_listens_where_pods_reach_it_and_tells_of_itself_on_loopback():
    assert "bind 10.88.0.1" in lines()
    assert {"ready 127.0.0.1:4006", "prometheus 127.0.0.1:4007"} <= set(lines())
    assert "kubernetes corp.example in-addr.arpa ip6.arpa {" in lines()
    assert corefile().count("{") == corefile().count("}")


def test_other_names_are_asked_of_the_machines_resolvers_or_denied_at_once():
    assert "forward . 192.0.2.53 2001:db8::53 {" in lines("192.0.2.53", "2001:db8::53")
    assert "rcode NXDOMAIN" not in lines("192.0.2.53")
    assert "rcode NXDOMAIN" in lines()
    assert "forward" not in corefile()


def test_kcis_internal_name_is_answered_only_where_the_service_is_behind_it():
    found = corefile("192.0.2.53", answers_internal_name=True)
    zone = found.partition("internal.api.ksyun.com {")[2]
    assert 'answer "{{ .Name }} 30 IN A 10.88.0.1"' in zone
    # Of its names none is asked of anybody else.
    assert "forward" not in zone
    assert found.count("{") == found.count("}")
    assert "ksyun.com" not in corefile("192.0.2.53")


def test_it_never_asks_itself_nor_a_loopback_that_is_not_its_own():
    asked = ("192.0.2.53", "2001:db8::53")
    found = coredns.read_resolvers(RESOLV_CONF, own="10.88.0.1", loopback_is_ours=False)
    assert found == asked
    found = coredns.read_resolvers(RESOLV_CONF, own="10.88.0.1", loopback_is_ours=True)
    assert found == ("127.0.0.53", *asked)
    many = "".join(f"nameserver 192.0.2.{number}\n" for number in range(40))
    assert len(coredns.read_resolvers(many, own="", loopback_is_ours=True)) == coredns.MAX_RESOLVERS


def test_it_may_read_what_names_are_made_of_and_nothing_else():
    rules = clusterdns.role()["rules"]
    assert {resource for rule in rules for resource in rule["resources"]} == {
        "services",
        "pods",
        "namespaces",
        "endpointslices",
    }
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}
    assert clusterdns.binding()["subjects"][0]["name"] == clusterdns.USER


def test_pods_with_kube_proxy_find_it_at_the_usual_address():
    assert clusterdns.service(SERVICES)["spec"]["clusterIP"] == "10.152.0.10"
    smallest = ipaddress.IPv4Network(f"10.0.0.16/{settings.SMALLEST_POD_PREFIX}")
    address = clusterdns.service(smallest)["spec"]["clusterIP"]
    assert ipaddress.IPv4Address(address) in set(smallest.hosts())
    assert clusterdns.endpoint_slice("10.88.0.1")["endpoints"][0]["addresses"] == ["10.88.0.1"]


def test_the_node_is_told_the_cluster_dns_that_there_is():
    plan = programs.Plan(
        where=WHERE,
        asked=settings.Settings(),
        ranges=RANGES,
        choices=CHOICES,
        identity=record.Identity(
            access_key="AK", secret_key="s", cluster_id="c", subnet_id="s", security_group_id="g"
        ),
        cri_endpoint=WHERE.containerd_socket,
        runtime_handler="runc",
        path="/bin",
    )

    def argv(address):
        return programs.virtual_kubelet(
            plan, cluster_server="https://a:1", node_kubeconfig=pathlib.Path("/k"), cluster_dns=address
        ).argv

    told = argv("10.88.0.1")
    assert told[told.index("--cluster-dns") + 1] == "10.88.0.1"
    assert "--cluster-dns" not in argv("")


def test_a_cluster_that_is_given_keeps_its_own_dns(tmp_path):
    assert settings.Settings().own_dns
    assert not settings.Settings(dns=settings.Dns.CLUSTER).own_dns
    file = tmp_path / "kubeconfig"
    file.touch()
    assert not settings.Settings(kubeconfig=str(file)).own_dns
    with pytest.raises(errors.SettingsError, match="--dns own"):
        settings.checked(settings.Settings(kubeconfig=str(file), dns=settings.Dns.OWN))
