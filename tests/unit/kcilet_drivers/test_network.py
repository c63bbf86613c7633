"""The CNI driver's line protocol and names."""

import json

import msgspec
import pytest

from kci.kcilet.drivers.network import cni
from kci.link import types as link

INTERFACE = link.Interface(
    address="10.88.0.7", prefix_length=16, gateway="10.88.0.1", mac_address="02:00:00:00:00:07"
)


def test_the_result_is_what_a_runtime_reads():
    request = cni.Request(command="ADD", netns="/run/netns/x")
    assert json.loads(msgspec.json.encode(cni.Answer(result=cni.to_result(INTERFACE, request)))) == {
        "result": {
            "cniVersion": "0.3.1",
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/run/netns/x"}],
            "ips": [{"version": "4", "interface": 0, "address": "10.88.0.7/32", "gateway": "10.88.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}],
            "dns": {},
        }
    }


def test_the_pod_is_named_in_the_arguments():
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_UID=uid-1;K8S_POD_NAME=web"
    assert cni.parse_pod_uid(args) == "uid-1"
    for wrong in ("", "K8S_POD_UID=", "K8S_POD_NAME=web"):
        with pytest.raises(ValueError):
            cni.parse_pod_uid(wrong)


def test_a_links_name_fits_and_is_the_pods_own():
    names = {cni.to_link_name(f"uid-{number}") for number in range(1000)}
    assert len(names) == 1000
    assert all(len(name) <= 15 and name.startswith("kv") for name in names)
