"""A container group as the service knows it, and what the service offers to all of them."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import ipaddress

import msgspec

from kci.contract import groups, ids, packages
from kci.service.domain import sizes, states


@dataclasses.dataclass(frozen=True)
class Place:
    """What this service offers: one zone, and the sizes that there are. Networks are in the store."""

    region: str
    zone: str
    table: packages.Table = packages.STANDARD
    # Ranges of addresses that no subnet may have: the machine needs them for itself.
    reserved: tuple[ipaddress.IPv4Network, ...] = ()
    # The largest packet of an interface whose subnet does not say; 0 leaves it to the machine.
    mtu: int = 0


@dataclasses.dataclass(frozen=True)
class Interface:
    """The group's network interface, as it was made."""

    interface_id: str
    subnet_id: ids.SubnetId
    address: str
    prefix_length: int
    gateway: str
    mac_address: str


@dataclasses.dataclass(frozen=True)
class SubnetNow:
    """What a group's subnet says today. It is read with the group, and not kept with it."""

    vpc_id: ids.VpcId = ids.VpcId("")  # noqa: RUF009  (a NewType is no call)
    name_servers: tuple[str, ...] = ()
    mtu: int = 0


@dataclasses.dataclass(frozen=True)
class Group:
    """One row of the store. `request` is the create call without its secrets."""

    group_id: ids.GroupId
    tenant_id: ids.TenantId
    request: groups.CreateContainerGroup
    size: sizes.Size
    interface: Interface
    created_at: datetime.datetime
    # Not known of a subnet that is gone, or from before subnets were kept.
    subnet: SubnetNow = dataclasses.field(default_factory=SubnetNow)
    lifecycle: states.Lifecycle = states.Lifecycle.WANTED
    status: states.Status = states.Status.PENDING
    # The machine said that it holds nothing of the group.
    gone: bool = False
    reason: str = ""
    message: str = ""
    generation: int = 1
    # Grows with each change, so that a watcher can tell old from new.
    revision: int = 1

    @property
    def cluster_id(self) -> str:
        return self.request.label_value(groups.CLUSTER_ID)

    @property
    def node_name(self) -> str:
        return self.request.label_value(groups.NODE_NAME)

    def is_of(self, *, cluster_id: str, node_name: str) -> bool:
        """Whether its labels name this cluster and this node; an empty one is any."""
        return cluster_id in {"", self.cluster_id} and node_name in {"", self.node_name}

    @property
    def pod_uid(self) -> str:
        return self.request.label_value(groups.POD_UUID)


def fingerprint(request: groups.CreateContainerGroup) -> str:
    """Equal for two create calls that ask for the same. The kubeconfig is left out: its certificate may
    have been renewed between a call and its repetition. The fence says who asks, not for what; the restart
    policy says nothing here.
    """
    asked = msgspec.structs.replace(request, kube_config="", client_token="", fence=None, restart_policy="")
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


def to_stored(request: groups.CreateContainerGroup) -> groups.CreateContainerGroup:
    """What is kept of a create call: neither its secrets nor who sent it."""
    return msgspec.structs.replace(request, kube_config="", fence=None)
