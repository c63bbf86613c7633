"""The rules of a create call in cluster mode."""

import msgspec
import pytest

from kci.contract import errors, groups, wire

ID = "11111111-1111-4111-8111-111111111111"
LABELS = tuple(
    groups.Label(key=key, value=value)
    for key, value in (("cluster-id", "c"), ("namespace", "n"), ("pod-name", "p"))
)
GOOD = groups.CreateContainerGroup(
    container_group_name="n-p-1", subnet_id=ID, security_group_id=(ID,), kube_config="k", label=LABELS
)


def _aliased(ip, *names):
    return {"machine_host_aliase": (groups.HostAlias(ip=ip, hostname=names),)}


def test_a_whole_request_is_accepted_and_survives_the_wire():
    full = msgspec.structs.replace(
        GOOD,
        cpu=2.5,
        memory=3.125,
        kube_proxy=groups.KubeProxy(enabled=True),
        machine_dns_config=groups.MachineDnsConfig(name_server=("10.0.0.2",), search=("a.example",)),
        machine_host_aliase=(groups.HostAlias(ip="10.0.0.9", hostname=("registry.example", "r")),),
        container_spec=(groups.ContainerSpec(limit_cpu=1), groups.ContainerSpec(request_mem=0.5)),
        cluster_dns="10.0.0.10, 10.0.0.11",
    )
    groups.check_create(full)
    pairs = wire.flatten(msgspec.to_builtins(full))
    assert ("Label.0.Key", "cluster-id") in pairs
    assert wire.read(wire.nest(pairs), groups.CreateContainerGroup) == full


@pytest.mark.parametrize(
    ("changes", "code", "parameter"),
    [
        ({"kube_config": ""}, "MissingParameter", "KubeConfig"),
        ({"kube_config": "", "container": ({"Name": "a"},)}, "UnsupportedOperation", "Container"),
        ({"container_group_name": ""}, "MissingParameter", "ContainerGroupName"),
        ({"container_group_name": "Upper"}, "InvalidParameterValue", "ContainerGroupName"),
        ({"container_group_name": "ends-"}, "InvalidParameterValue", "ContainerGroupName"),
        ({"container_group_name": "line\n"}, "InvalidParameterValue", "ContainerGroupName"),
        ({"container_group_name": "a" * 129}, "InvalidParameterValue", "ContainerGroupName"),
        ({"subnet_id": ""}, "MissingParameter", "SubnetId"),
        ({"subnet_id": "x"}, "InvalidParameterValue", "SubnetId"),
        ({"security_group_id": ()}, "MissingParameter", "SecurityGroupId"),
        ({"label": LABELS[:2]}, "MissingParameter", "Label"),
        ({"label": (*LABELS, LABELS[0])}, "InvalidParameterValue", "Label"),
        ({"cpu": 0.0001}, "InvalidParameterValue", "Cpu"),
        ({"cluster_dns": "10.0.0.10,dns.example"}, "InvalidParameterValue", "ClusterDns"),
        (
            {"machine_dns_config": groups.MachineDnsConfig(search=("a.example\nnameserver 192.0.2.1",))},
            "InvalidParameterValue",
            "MachineDnsConfig.Search",
        ),
        (
            {"machine_dns_config": groups.MachineDnsConfig(option=(groups.DnsOption(value="1"),))},
            "InvalidParameterValue",
            "MachineDnsConfig.Option.Name",
        ),
        (
            {"container_spec": (groups.ContainerSpec(limit_mem=300),) * 2},
            "InvalidParameterValue",
            "ContainerSpec",
        ),
        (_aliased("registry", "r"), "InvalidParameterValue", "MachineHostAliase.Ip"),
        (_aliased("10.0.0.9"), "MissingParameter", "MachineHostAliase.Hostname"),
        (_aliased("10.0.0.9", "r\n10.0.0.1 s"), "InvalidParameterValue", "MachineHostAliase.Hostname"),
        ({"eip_allocation_id": ID}, "UnsupportedOperation", "EipAllocationId"),
        ({"gpu": 1}, "UnsupportedOperation", "Gpu"),
        ({"data_disk": ({"Type": "EHDD"},)}, "UnsupportedOperation", "DataDisk"),
    ],
)
def test_a_broken_rule_is_named_by_its_parameter(changes, code, parameter):
    with pytest.raises(errors.ApiError) as caught:
        groups.check_create(msgspec.structs.replace(GOOD, **changes))
    assert (caught.value.entry.code, caught.value.parameter) == (code, parameter)


def test_a_kubeconfig_is_not_in_the_repr():
    assert "canary" not in repr(msgspec.structs.replace(GOOD, kube_config="canary"))


def test_every_error_of_the_catalogue_has_a_status_of_its_kind():
    for entry in errors.CATALOGUE.values():
        assert (entry.status == 404) == (entry.kind is errors.Kind.NOT_FOUND)
        assert entry.retryable == (entry.status in {429, 503})
