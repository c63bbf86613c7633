"""What the CNI plugin asks and what it prints: one JSON line each way, and the CNI's own result.

The plugin is src/kci/stack/go/cni/main.go. Source of the result: containernetworking/cni SPEC.md 0.3.1.
"""

from __future__ import annotations

import hashlib

import msgspec

from kci.kube import models
from kci.link import types as link

CNI_VERSION = "0.3.1"
INTERFACE_NAME = "eth0"
# A pod has its address and no neighbours: all that it sends goes to its gateway.
PREFIX_LENGTH = 32


class Request(msgspec.Struct, frozen=True):
    command: str
    container_id: str = ""
    netns: str = ""
    ifname: str = INTERFACE_NAME
    args: str = ""


class _Interface(msgspec.Struct, frozen=True):
    name: str
    mac: str
    sandbox: str


class _Address(msgspec.Struct, frozen=True):
    version: str
    interface: int
    address: str
    gateway: str


class _Route(msgspec.Struct, frozen=True):
    dst: str
    gw: str


class Result(msgspec.Struct, frozen=True, rename="camel"):
    cni_version: str
    interfaces: tuple[_Interface, ...]
    ips: tuple[_Address, ...]
    routes: tuple[_Route, ...]
    dns: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    result: Result | None = None
    error: str = ""


def parse_pod_uid(args: str) -> models.PodUid:
    """The pod from CNI_ARGS (`K8S_POD_UID=…;…`); ValueError if it is not named."""
    for pair in args.split(";"):
        key, _, value = pair.partition("=")
        if key == "K8S_POD_UID" and value:
            return models.PodUid(value)
    raise ValueError("CNI_ARGS has no K8S_POD_UID")


def to_link_name(pod_uid: models.PodUid) -> str:
    """The machine's end of a pod's veth pair: the same after any restart, within 15 characters."""
    return f"kv{hashlib.sha256(pod_uid.encode()).hexdigest()[:10]}"


def to_result(interface: link.Interface, request: Request) -> Result:
    return Result(
        cni_version=CNI_VERSION,
        interfaces=(_Interface(name=request.ifname, mac=interface.mac_address, sandbox=request.netns),),
        ips=(
            _Address(
                version="4",
                interface=0,
                address=f"{interface.address}/{PREFIX_LENGTH}",
                gateway=interface.gateway,
            ),
        ),
        routes=(_Route(dst="0.0.0.0/0", gw=interface.gateway),),
    )
