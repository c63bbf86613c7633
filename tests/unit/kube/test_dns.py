"""A pod's resolver against the kubelet's own code: the whole product of policy, host network, dnsConfig,
cluster DNS, cluster domain and machine, with the answers that kubelet_dns.go got from it.
"""

import itertools
import json
import pathlib

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from kci.kube import dns, models

KUBELET = json.loads(pathlib.Path(__file__).with_name("kubelet_dns.json").read_text())
EXAMPLES = 200


def product():
    """In the order of kubelet_dns.go's loops."""
    return list(
        itertools.product(
            KUBELET["policies"],
            KUBELET["hostNetwork"],
            sorted(KUBELET["configs"]),
            sorted(KUBELET["servers"]),
            KUBELET["domains"],
            sorted(KUBELET["machines"]),
        )
    )


def ours(policy, host_network, config, servers, domain, machine):
    own = KUBELET["configs"][config]
    pod = models.Pod(
        metadata=models.ObjectMeta(name="p", namespace="ns", uid="u-1"),
        spec=models.PodSpec(
            dns_policy=policy,
            host_network=host_network,
            dns_config=None if own is None else msgspec.convert(own, models.PodDNSConfig),
        ),
    )
    below = {name: value or () for name, value in KUBELET["machines"][machine].items()}
    resolved = dns.resolve(
        pod,
        cluster_dns=KUBELET["servers"][servers],
        cluster_domain=domain,
        machine=dns.of_machine(**below),
    )
    return {
        "servers": list(resolved.resolver.servers),
        "searches": list(resolved.resolver.searches),
        "options": sorted(resolved.resolver.options),
        "notes": [f"{note.reason} {note.message}" for note in resolved.notes],
    }


def kubelets(number):
    return {name: value or [] for name, value in KUBELET["answers"][number].items()}


@pytest.mark.guide("flag --cluster-dns", "flag --virtual-node-dns", "flag --cluster-domain")
def test_each_pod_of_the_product_gets_the_kubelets_resolver_and_is_told_the_same():
    cases = product()
    assert len(cases) == len(KUBELET["cases"]) == 1200
    different = [
        case for case, number in zip(cases, KUBELET["cases"], strict=True) if ours(*case) != kubelets(number)
    ]
    assert different == []


def test_a_machine_is_read_as_a_resolv_conf():
    found = dns.of_machine(("192.0.2.1",), ("a.", ".", "a"), ("ndots:1", "rotate", "ndots:3"))
    assert found == dns.Resolver(("192.0.2.1",), ("a", "a"), ("ndots:3", "rotate"))


words = strategies.text("abc.", min_size=1, max_size=260)
lists = strategies.lists(words, max_size=40).map(tuple)
configs = strategies.builds(
    models.PodDNSConfig,
    nameservers=lists,
    searches=lists,
    options=strategies.lists(
        strategies.builds(
            models.PodDNSConfigOption,
            name=strategies.text("abc", min_size=1, max_size=3),
            value=strategies.none() | strategies.text("123", max_size=2),
        ),
        max_size=6,
    ).map(tuple),
)
specs = strategies.builds(
    models.PodSpec,
    dns_policy=strategies.sampled_from(KUBELET["policies"]),
    host_network=strategies.booleans(),
    dns_config=strategies.none() | configs,
)


@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(specs, lists, strategies.sampled_from(KUBELET["domains"]), lists, lists, lists)
def test_no_resolver_exceeds_a_limit_and_whatever_is_cut_is_told(
    spec, cluster_dns, domain, servers, searches, options
):
    pod = models.Pod(metadata=models.ObjectMeta(name="p", namespace="ns", uid="u-1"), spec=spec)
    resolved = dns.resolve(
        pod,
        cluster_dns=cluster_dns,
        cluster_domain=domain,
        machine=dns.of_machine(servers, searches, options),
    )
    found, told = resolved.resolver, [note.message for note in resolved.notes]
    assert len(found.servers) <= dns.MAX_SERVERS
    assert len(found.searches) <= dns.MAX_SEARCHES
    assert len(" ".join(found.searches)) <= dns.MAX_SEARCH_LINE
    assert all(len(domain) <= dns.MAX_DOMAIN for domain in found.searches)
    names = [option.partition(":")[0] for option in found.options]
    assert len(names) == len(set(names))
    if spec.dns_config is not None:
        wanted = {one.name: one.value or "" for one in spec.dns_config.options}
        assert wanted.items() <= dict(option.partition(":")[::2] for option in found.options).items()
        for server in spec.dns_config.nameservers:
            assert server in found.servers or any("Nameserver limits" in text for text in told)
        for search in spec.dns_config.searches:
            assert search in found.searches or any("Search Line limits" in text for text in told)
    # Only "None" leaves a pod with no server but its own.
    assert found.servers or spec.dns_policy == "None"


@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(specs, lists, lists)
def test_the_cluster_is_asked_first_and_the_machines_servers_never_beside_it(spec, cluster_dns, servers):
    hypothesis.assume(spec.dns_policy != "None" and cluster_dns)
    pod = models.Pod(metadata=models.ObjectMeta(name="p", namespace="ns", uid="u-1"), spec=spec)
    found = dns.resolve(pod, cluster_dns=cluster_dns, cluster_domain="d", machine=dns.of_machine(servers))
    of_machine = spec.dns_policy == "Default" or (spec.dns_policy == "ClusterFirst" and spec.host_network)
    base = (servers or ("127.0.0.1",)) if of_machine else cluster_dns
    if spec.dns_config is not None:
        base = tuple(dict.fromkeys(base))
    assert found.resolver.servers[: len(base)] == base[: dns.MAX_SERVERS]
    assert (found.resolver.searches[:1] == ("ns.svc.d",)) is not of_machine
