"""The rules of a create call in cluster mode."""

import msgspec
import pytest
from ksyun.client.kci.v20200702 import models

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
    ],
)
def test_a_broken_rule_is_named_by_its_parameter(changes, code, parameter):
    with pytest.raises(errors.ApiError) as caught:
        groups.check_create(msgspec.structs.replace(GOOD, **changes))
    assert (caught.value.entry.code, caught.value.parameter) == (code, parameter)


# One value of each, as an SDK sends it.
NOT_HONOURED = {
    "Gpu": "1.0",
    "AdvanceSettings.SystemDisk.Type": "SSD3.0",
    "DataDisk.0.Type": "EHDD",
    "EipAllocationId": ID,
    "MultiEipAllocationId.0": ID,
    "ImageCacheId": ID,
    "KlogEnabled": "true",
    "HostPID": "true",
    "Container.0.Name": "a",
    "InitContainer.0.Name": "a",
    "Volume.0.Name": "a",
    "ImageRegistryCredential.0.Server": "registry.example",
    "DnsConfig.NameServer.0": "10.0.0.2",
    "HostAliase.0.Ip": "10.0.0.9",
}


def _sent(**more):
    return wire.read(
        wire.nest([*wire.flatten(msgspec.to_builtins(GOOD)), *more.items()]), groups.CreateContainerGroup
    )


@pytest.mark.parametrize(("name", "value"), NOT_HONOURED.items())
def test_what_cannot_be_honoured_is_refused_by_its_name_and_never_dropped(name, value):
    with pytest.raises(errors.ApiError) as caught:
        groups.check_create(_sent(**{name: value}))
    assert caught.value.entry is errors.UNSUPPORTED_OPERATION
    assert caught.value.parameter == name.partition(".")[0]


def test_none_of_it_asks_for_anything_where_it_is_empty():
    assert {name.partition(".")[0] for name in NOT_HONOURED} == {
        field.encode_name for field in msgspec.structs.fields(groups.NotHonoured)
    }
    empty = {
        "Gpu": "0.0",
        "KlogEnabled": "false",
        "HostPID": "0",
    }
    groups.check_create(_sent(**empty))


def test_what_chooses_among_kingsofts_machines_prices_and_caches_is_taken_where_there_is_one_of_each():
    choices = {
        "InstanceType": "N3.4B",
        "InstanceFamily": "S6,X7",
        "ChargeType": "Spot",
        "SpotStrategy": "SpotAsPriceGo",
        "AutoMatchImageCache": "True",
        "RestartPolicy": "Always",
    }
    groups.check_create(_sent(**choices))


def test_each_parameter_of_kingsofts_own_sdk_is_known():
    ours = {field.encode_name for field in msgspec.structs.fields(groups.CreateContainerGroup)}
    assert set(vars(models.CreateContainerGroupRequest())) <= ours


def test_a_kubeconfig_is_not_in_the_repr():
    assert "canary" not in repr(msgspec.structs.replace(GOOD, kube_config="canary"))


def test_every_error_of_the_catalogue_has_a_status_of_its_kind():
    for entry in errors.CATALOGUE.values():
        assert (entry.status == 404) == (entry.kind is errors.Kind.NOT_FOUND)
        assert (entry.kind is errors.Kind.TRY_LATER) == (entry.status in {429, 503})
