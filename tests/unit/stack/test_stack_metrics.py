"""metrics-server in a stack: how it is started, what it may do, when it is there."""

import ipaddress
import pathlib

import pytest

from kci.kit import errors
from kci.stack import (
    addresses,
    certificates,
    controlplane,
    goprograms,
    layout,
    metricsapi,
    metricsserver,
    parts,
    record,
    settings,
)

WHERE = layout.Layout(pathlib.Path("/state"))
RANGES = addresses.Ranges(ipaddress.IPv4Network("10.88.0.0/16"), ipaddress.IPv4Network("10.152.0.0/16"))
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
    metrics_server_port=4011,
)


def flags():
    plan = metricsserver.Plan(WHERE, pathlib.Path("/cache/metrics-server"), "v0.9.0", RANGES, CHOICES)
    words = metricsserver.command(plan).argv[1:]
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def test_it_trusts_nodes_and_the_api_server_by_certificates_alone():
    assert flags()["kubelet-certificate-authority"] == "/state/pki/ca.crt"
    assert flags()["requestheader-client-ca-file"] == "/state/pki/front-proxy-ca.crt"
    assert flags()["requestheader-allowed-names"] == "front-proxy-client"
    assert not [name for name in flags() if "insecure" in name]


def test_it_is_one_certificate_for_who_asks_it_and_whom_it_asks():
    leaves = certificates.plan_leaves(
        gateway="10.88.0.1", first_service_address="10.152.0.1", cluster_domain="cluster.local"
    )
    (leaf,) = (leaf for leaf in leaves if leaf.name == metricsserver.NAME)
    assert leaf.common_name == metricsapi.USER
    assert set(leaf.server_names) == {metricsapi.SERVER_NAME, flags()["bind-address"]}
    assert leaf.client
    assert leaf.authority == "ca"


def test_the_api_server_asks_it_at_its_endpoint_since_no_cluster_ip_is_reached_from_the_machine():
    plan = controlplane.Plan(
        where=WHERE,
        binary=pathlib.Path("/b"),
        version="v1",
        etcd_version="v3",
        ranges=RANGES,
        choices=CHOICES,
        api_port=6443,
        cluster_domain="cluster.local",
    )
    assert "--enable-aggregator-routing=true" in controlplane.api_server(plan).argv
    found = metricsapi.endpoint_slice("10.88.0.1", CHOICES.metrics_server_port)
    (endpoint,), (port,) = found["endpoints"], found["ports"]
    assert endpoint["addresses"] == [flags()["bind-address"]]
    assert str(port["port"]) == flags()["secure-port"]
    # What an APIService's port is called in the Service must be called so here.
    (in_service,) = metricsapi.service()["spec"]["ports"]
    assert (port["name"], metricsapi.PORT) == (in_service["name"], in_service["port"])


def test_it_may_ask_nodes_know_pods_and_ask_whether_a_caller_may_ask_and_no_more():
    rights = {
        (verb, resource)
        for rule in metricsapi.role()["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    assert rights == {
        ("get", "nodes/metrics"),
        ("list", "nodes"),
        ("watch", "nodes"),
        ("list", "pods"),
        ("watch", "pods"),
        ("create", "subjectaccessreviews"),
    }


@pytest.mark.parametrize("wanted", [True, False])
def test_its_process_is_there_if_asked_for_and_the_step_that_takes_it_away_always(wanted):
    planned = parts.plan(own_control_plane=True, own_containerd=True, own_dns=True, metrics_server=wanted)
    assert (parts.Part.METRICS_SERVER in planned) == wanted
    assert parts.Part.METRICS_API in planned
    planned = parts.plan(own_control_plane=False, own_containerd=True, own_dns=False, metrics_server=False)
    assert not {parts.Part.METRICS_API, parts.Part.METRICS_SERVER} & set(planned)


def test_a_cluster_that_is_given_has_its_own_or_none(tmp_path):
    file = tmp_path / "kubeconfig"
    file.touch()
    with pytest.raises(errors.SettingsError, match="--metrics-server"):
        settings.checked(settings.Settings(kubeconfig=str(file), metrics_server=True))


def test_it_is_built_to_know_its_version_and_from_the_control_planes_kubernetes():
    module = goprograms.read_module(program=goprograms.METRICS_SERVER)
    version = module.version_of(goprograms.METRICS_SERVER)
    assert f"gitVersion={version} " in " ".join(goprograms.plan_flags(goprograms.METRICS_SERVER, version))
    kubernetes = goprograms.read_module().kubernetes_version
    assert module.required["k8s.io/client-go"].split(".", 1)[1] == kubernetes.split(".", 1)[1]
