"""Quantities, the downward API and resolvers, by the kubelet's own examples."""

import pytest

from kci.kube import dns, downward, errors, models, quantity


@pytest.mark.parametrize(
    ("text", "milli", "whole"),
    [
        ("0", 0, 0),
        ("500m", 500, 1),
        ("2", 2000, 2),
        ("1.5", 1500, 2),
        (".5", 500, 1),
        ("100u", 1, 1),
        ("1n", 1, 1),
        ("1Gi", 2**30 * 1000, 2**30),
        ("1.5Ki", 1536 * 1000, 1536),
        ("1G", 10**12, 10**9),
        ("1e3", 10**6, 1000),
        ("1E", 10**21 if 10**21 < 2**63 else 2**63 - 1, 10**18),
        ("100E", 2**63 - 1, 2**63 - 1),
        ("1E2", 100_000, 100),
        ("12E-1", 1200, 2),
        (4, 4000, 4),
        (0.1, 100, 1),
    ],
)
def test_a_quantity_is_read_exactly_and_rounded_up(text, milli, whole):
    assert (quantity.to_milli(text), quantity.to_bytes(text)) == (milli, whole)


@pytest.mark.parametrize("text", ["", "1 Gi", "1gi", "Gi", "--1", "1e9999", "1" * 300, "0x10", "\u0661"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(errors.InvalidError, match="as a quantity"):
        quantity.to_milli(text)


POD = models.Pod(
    metadata=models.ObjectMeta(
        name="p",
        namespace="ns",
        uid="u",
        labels={"b": "2", "a": 'x"\n\té\x01'},
        annotations={"example.com/role": "web"},
    ),
    spec=models.PodSpec(
        node_name="n1",
        service_account_name="sa",
        containers=(
            models.Container(
                name="c",
                resources=models.ResourceRequirements(
                    limits={"memory": "1Gi"}, requests={"cpu": "1250m", "memory": "100M"}
                ),
            ),
        ),
    ),
)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u"),
        ("metadata.labels", 'a="x\\"\\n\\té\\x01"\nb="2"'),
        ("metadata.labels['b']", "2"),
        ("metadata.annotations['example.com/role']", "web"),
        ("metadata.annotations['no']", ""),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "sa"),
        ("status.podIP", "10.0.0.2"),
        ("status.podIPs", "10.0.0.2,fd00::2"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1"),
    ],
)
def test_a_field_reads_as_in_a_kubelet(path, value):
    assert downward.pod_field(POD, path, pod_ips=("10.0.0.2", "fd00::2"), host_ips=("192.0.2.1",)) == value


@pytest.mark.parametrize("path", ["spec.nodeName", "status.podIP", "metadata.name['a']", "spec.hostname"])
def test_a_volume_shows_metadata_only(path):
    with pytest.raises(errors.ConfigError):
        downward.metadata_field(POD, path)


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("requests.cpu", None, "2"),
        ("requests.cpu", "1m", "1250"),
        ("requests.memory", "1Mi", "96"),
        ("limits.memory", "1Mi", "1024"),
        ("limits.memory", "0", str(2**30)),
        ("limits.cpu", "1m", "4000"),  # no limit of its own: the group's size
        ("requests.ephemeral-storage", None, "0"),
        ("limits.hugepages-2Mi", None, "0"),
    ],
)
def test_a_resource_is_divided_and_rounded_up(resource, divisor, value):
    selector = models.ResourceFieldSelector(resource=resource, container_name="c", divisor=divisor)
    assert downward.resource_field(selector, POD, allocatable={"cpu": "4", "memory": "8Gi"}) == value


def test_a_resource_of_an_unknown_container_or_kind_is_refused():
    with pytest.raises(errors.ConfigError, match="container x not found"):
        downward.resource_field(models.ResourceFieldSelector(resource="limits.cpu", container_name="x"), POD)
    with pytest.raises(errors.ConfigError, match="unsupported container resource"):
        downward.resource_field(models.ResourceFieldSelector(resource="limits.gpu", container_name="c"), POD)


MACHINE = dns.Resolver(("192.0.2.53",), ("corp.example",), ("rotate",))


def pod_with(policy, config=None):
    spec = models.PodSpec(dns_policy=policy, dns_config=config)
    return models.Pod(metadata=models.ObjectMeta(name="p", namespace="ns"), spec=spec)


def resolver_of(policy, config=None):
    return dns.resolve(
        pod_with(policy, config), cluster_dns=("10.0.0.10",), cluster_domain="cluster.local", machine=MACHINE
    ).resolver


def test_each_policy_has_its_base():
    cluster = dns.Resolver(
        ("10.0.0.10",),
        ("ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"),
        ("ndots:5",),
    )
    assert resolver_of("ClusterFirst") == resolver_of("ClusterFirstWithHostNet") == cluster
    assert resolver_of("Default") == MACHINE
    assert resolver_of("None") == dns.Resolver()


def test_the_pods_own_config_is_added_and_wins_among_options():
    own = models.PodDNSConfig(
        nameservers=("192.0.2.7", "10.0.0.10"),
        searches=("corp.example", "x"),
        options=(
            models.PodDNSConfigOption(name="ndots", value="2"),
            models.PodDNSConfigOption(name="edns0"),
        ),
    )
    found = resolver_of("ClusterFirst", own)
    assert found.servers == ("10.0.0.10", "192.0.2.7")
    assert found.searches[-2:] == ("corp.example", "x")
    assert found.options == ("ndots:2", "edns0")


def test_without_a_cluster_dns_the_default_is_taken_and_said():
    found = dns.resolve(pod_with("ClusterFirst"), machine=MACHINE)
    assert found.resolver == MACHINE
    assert [note.reason for note in found.notes] == ["MissingClusterDNS"]


def test_without_any_server_nothing_of_the_machine_is_used():
    assert dns.resolve(pod_with("Default")).resolver == dns.Resolver(("127.0.0.1",), (".",))


def test_what_exceeds_the_limits_is_cut_and_said():
    own = models.PodDNSConfig(
        nameservers=tuple(f"192.0.2.{n}" for n in range(5)),
        searches=("x" * 254, *(f"{n:03}{'y' * 97}" for n in range(40))),
    )
    found = dns.resolve(pod_with("None", own))
    assert len(found.resolver.servers) == 3
    assert len(" ".join(found.resolver.searches)) <= 2048
    assert "x" * 254 not in found.resolver.searches
    assert [note.reason for note in found.notes] == ["DNSConfigForming"] * 2
