"""Addresses, sizes and lifecycles: plain values."""

import ipaddress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kci.contract import errors, groups, ids, packages
from kci.service.domain import addresses, sizes, states
from kci.service.domain import groups as stored


def subnet(length=29, gateway=1):
    network = ipaddress.IPv4Network(f"10.9.0.0/{length}")
    return addresses.Subnet(ids.SubnetId("s"), network, network[gateway])


@settings(max_examples=300)
@given(st.integers(1, 6), st.lists(st.integers(0, 7), max_size=60))
def test_addresses_are_unique_usable_and_rested(gateway, steps):
    """Each step takes an address (0 to 3) or gives back one that is held (4 to 7)."""
    where = subnet(gateway=gateway)
    usable = set(where.network.hosts()) - {where.gateway}
    held, resting, ever = [], [], set()
    for step in steps:
        if step >= 4 and held:
            resting.append(held.pop(step % len(held)))
            continue
        chosen = addresses.choose_address(
            where, highest_used=max(ever, default=None), longest_released=resting[0] if resting else None
        )
        if chosen is None:
            assert set(held) == usable
            continue
        assert chosen in usable - set(held)
        # A used address comes back only when there is no fresh one, and then the one that rested longest.
        assert chosen not in ever or (ever == usable and chosen == resting.pop(0))
        held.append(chosen)
        ever.add(chosen)


def test_a_mac_is_local_and_follows_from_the_address():
    assert addresses.mac_address(ipaddress.IPv4Address("10.9.1.255")) == "0a:58:0a:09:01:ff"


@pytest.mark.parametrize(
    ("asked", "cores", "gib"),
    [
        ({}, "2", "4"),
        ({"cpu": 0.25, "memory": 0.5}, "1", "1"),
        ({"memory": 7.8}, "2", "8"),
        (
            {
                "container_spec": (
                    groups.ContainerSpec(limit_cpu=1, request_cpu=9),
                    groups.ContainerSpec(request_cpu=0.5),
                )
            },
            "2",
            "2",
        ),
        ({"cpu": 3, "container_spec": (groups.ContainerSpec(limit_cpu=1),)}, "4", "4"),
    ],
)
def test_a_size_is_the_smallest_that_has_what_was_asked_for(asked, cores, gib):
    size = sizes.choose_size(groups.CreateContainerGroup(**asked))
    assert (repr(size.cores), repr(size.gib)) == (cores, gib)


@given(st.integers(1, 9_999))
def test_a_size_of_the_table_is_never_less_than_it_says(thousandths):
    table = packages.to_table([packages.Package(thousandths / 1000, (thousandths / 1000,))])
    size = sizes.choose_size(groups.CreateContainerGroup(), table)
    assert size.cpu_milli == thousandths
    assert thousandths * 1024 <= 1000 * size.memory_mib < (thousandths + 1) * 1024 + 1000


def test_a_size_above_every_package_is_refused_with_the_parameter():
    with pytest.raises(errors.ApiError, match="no size has 65 cores or more: the largest is 64") as told:
        sizes.choose_size(groups.CreateContainerGroup(cpu=65))
    assert (told.value.entry, told.value.parameter) == (errors.INVALID_PARAMETER_VALUE, "Cpu")


def test_deletion_only_goes_forward():
    legal = {(old, new) for old in states.Lifecycle for new in states.Lifecycle if _is_legal(old, new)}
    assert legal == {("wanted", "deleting"), ("wanted", "deleted"), ("deleting", "deleted")}


def _is_legal(old, new):
    try:
        return states.change(ids.GroupId("g"), old, new, why="test") is new
    except states.IllegalChangeError:
        return False


@given(st.lists(st.sampled_from(states.Status)))
def test_what_has_ended_stays_ended(seen):
    status = states.Status.PENDING
    ended = None
    for one in seen:
        status = states.next_status(status, one)
        if ended is None and status in {states.Status.SUCCEEDED, states.Status.FAILED}:
            ended = status
    assert ended in {None, status}


def test_a_stored_create_call_is_known_again_by_later_versions():
    """Its fingerprint is kept; one that came out otherwise would refuse each repetition over an upgrade."""
    asked = groups.CreateContainerGroup(
        container_group_name="web",
        subnet_id="s",
        multi_subnet_id=("t",),
        security_group_id=("g",),
        charge_type="Spot",
        spot_strategy="SpotAsPriceGo",
        instance_type="N3.4B",
        instance_family="S6,X7",
        project_id=7,
        cpu=2,
        memory=4,
        retain_ip=True,
        retain_ip_hours=48,
        auto_match_image_cache=True,
        machine_dns_config=groups.MachineDnsConfig(name_server=("10.0.0.3",)),
        machine_host_aliase=(groups.HostAlias(ip="10.0.0.9", hostname=("r",)),),
        cluster_dns="10.0.0.2",
        cluster_domain="c",
        label=(groups.Label(key="pod-name", value="web"),),
        kube_proxy=groups.KubeProxy(enabled=True),
        container_spec=(groups.ContainerSpec(request_cpu=1),),
        bandwidth=groups.Bandwidth(ingress=1),
    )
    kept = "6362d5ce4f7c15a0f8fd7307f885b421d0ea4d283fc856e59378a6cb44c3ca4e"
    assert stored.fingerprint(asked) == kept
    again = msgspec.structs.replace(asked, kube_config="renewed", client_token="t", restart_policy="Always")
    assert stored.fingerprint(again) == kept
