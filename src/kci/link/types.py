"""What the service wants of a machine, and what the machine says it sees.

HTTP/1.1 with JSON over the kcilet's unix socket; the kcilet listens, the service's engine calls:

    PUT    /v1/groups                    Sync: the whole wanted set. A group that is not in it is removed;
                                         until the first Sync after its start the kcilet removes nothing.
                                         Refused as a whole if it comes from another store than the one that
                                         the machine serves.
    PUT    /v1/groups/{group_id}         WantedGroup: ensure it runs as said; an older generation is ignored
    PUT    /v1/security-groups           SecurityGroups: all that wanted groups name; holds for running ones
                                         at once. An older generation is ignored.
    DELETE /v1/groups/{group_id}         wish to have it gone; its report says Gone when nothing is left
    GET    /v1/reports                   endless JSON lines of GroupReport: all now, then each change;
                                         an empty line each 15 s proves that the line is alive
    GET    /v1/stats                     Usages: what the pod of each group has used, read at most once
                                         a second
    GET    /v1/groups/{id}/containers/{name}/log    LogOptions as query; the log's bytes, chunked
    GET    /v1/groups/{id}/containers/{name}/exec   ExecOptions as query, of up to 4 MiB; WebSocket,
                                                    v5.channel.k8s.io
    GET    /v1/groups/{id}/containers/{name}/attach AttachOptions as query; the same
    GET    /v1/groups/{id}/ports/{port}             one connection to the port; the same framing, with STDIN
                                                    to the pod, STDOUT from it, CLOSE as half-close, and a
                                                    STATUS if it could not be made or broke
    GET    /v1/version                   {"version": "..."}

Errors are `{"error": {"code": ..., "message": ...}}` with codes NotFound (404), InvalidArgument (400),
OtherStore (409), Unavailable (503). Losing or repeating a message does no harm: each carries a whole state.
"""

from __future__ import annotations

import enum

import msgspec

from kci.contract import ids
from kci.kube import models


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The user's cluster, as an instance reaches it. The kubeconfig is a secret: never log this struct."""

    cluster_id: str
    kubeconfig: str

    def __repr__(self) -> str:
        return f"Cluster(cluster_id={self.cluster_id!r}, kubeconfig=****)"


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """The group's primary network interface, as the service allocated it."""

    address: str
    prefix_length: int
    gateway: str
    mac_address: str
    # Bytes; 0 is the machine's own.
    mtu: int = 0


class Direction(enum.StrEnum):
    """As the instance sees it: what comes to it, what leaves it."""

    IN = "in"
    OUT = "out"


class Protocol(enum.StrEnum):
    """ANY includes what has no name here."""

    ANY = "ip"
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


class SecurityGroupRule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a security group. Rows are looked at by priority, the lowest number first; the first that
    fits decides. What no row of any of an instance's groups fits is dropped.
    """

    direction: Direction
    is_allowed: bool = True
    # 1 to 100; of two with the same number the one that denies counts, of whichever group it is.
    priority: int = 1
    protocol: Protocol = Protocol.ANY
    # Both included; TCP and UDP only.
    first_port: int = 1
    last_port: int = 65535
    # None is all types and all codes; ICMP only.
    icmp_type: int | None = None
    icmp_code: int | None = None
    # The other side: addresses, or the instances of a security group. Never both.
    cidr: str = ""
    security_group_id: str = ""


class SecurityGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Its rows. Its members are the wanted groups that name it."""

    security_group_id: str
    rules: tuple[SecurityGroupRule, ...] = ()


class SecurityGroups(msgspec.Struct, frozen=True, kw_only=True):
    """All security groups that a machine needs to know; a group that is not there lets nothing through."""

    generation: int
    security_groups: tuple[SecurityGroup, ...]


class HostAlias(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a hosts file."""

    ip: str
    hostnames: tuple[str, ...]


class WantedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A container group that should run on this machine (cluster mode)."""

    group_id: ids.GroupId
    generation: int
    # Groups of different tenants never reach each other, whatever their security groups say, nor share
    # anything of their clusters, whatever these are called.
    tenant_id: str = ""
    cluster: Cluster
    namespace: str
    pod_name: str
    # Without a UID (a client that does not send the extension label) the first pod seen under
    # the name is the group's pod for good.
    pod_uid: str = ""
    node_name: str = ""
    # The granted size: the limit of the pod's cgroup.
    cpu_milli: int = 0
    memory_mib: int = 0
    interface: Interface
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    # DNS servers for pods with dnsPolicy Default (MachineDnsConfig in the API).
    machine_dns: tuple[str, ...] = ()
    machine_searches: tuple[str, ...] = ()
    # Names that the group's machine knows (MachineHostAliase in the API): in its pod's /etc/hosts.
    machine_host_aliases: tuple[HostAlias, ...] = ()
    # As resolv.conf has them: name, or name:value.
    machine_options: tuple[str, ...] = ()
    kube_proxy: bool = False
    # At most three; none: a service that knows of no security groups, and nothing is filtered.
    security_group_ids: tuple[str, ...] = ()
    # Bits per second; 0 is no limit.
    ingress_bits: int = 0
    egress_bits: int = 0
    # The trace that its start belongs to (W3C Trace Context); empty: none, or the service was started anew.
    traceparent: str = ""


class Sync(msgspec.Struct, frozen=True, kw_only=True):
    groups: tuple[WantedGroup, ...]
    # None from a service that knows of none.
    security_groups: SecurityGroups | None = None
    # Made with the service's store, and the same in each copy of it; empty from an older service.
    store_id: str = ""


class Phase(enum.StrEnum):
    """What the machine sees of a group. The service maps it to the API's Status in one place."""

    PENDING = "Pending"
    IMAGE_PULLING = "ImagePulling"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    GONE = "Gone"


class StartStep(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a start, from its first try to its last success. Parts may overlap. Unix milliseconds."""

    # A value of kcilet.plan.starts.Step; who does not know it shows it by its name.
    step: str
    began_ms: int
    ended_ms: int


class GroupReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the machine has to say of a group now."""

    group_id: ids.GroupId
    # The wanted generation that this report answers.
    generation: int
    phase: Phase
    address: str = ""
    pod_uid: str = ""
    reason: str = ""
    message: str = ""
    # How the pod's start went, once it is over; empty of a pod that ran before the kcilet was started.
    start: tuple[StartStep, ...] = ()


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a cgroup has used up to a moment. Counters are since the cgroup was made, so of a container since
    its start; they begin anew with a new one.
    """

    # Unix nanoseconds: when this was read.
    time_ns: int
    # Time on a core, of all cores together.
    cpu_core_ns: int = 0
    memory_bytes: int = 0
    # What would not be given back under pressure: without file pages that were not used for long.
    working_set_bytes: int = 0
    rss_bytes: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    # 0 is none.
    memory_limit_bytes: int = 0
    processes: int = 0


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What has passed a pod's interface, as the pod sees it."""

    received_bytes: int = 0
    received_errors: int = 0
    sent_bytes: int = 0
    sent_errors: int = 0


class ContainerUsage(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    # Unix nanoseconds.
    started_at_ns: int
    usage: Usage


class GroupUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The pod of a group as a whole, and those of its containers that run."""

    group_id: ids.GroupId
    started_at_ns: int
    usage: Usage
    # None: it has no interface.
    traffic: Traffic | None = None
    containers: tuple[ContainerUsage, ...] = ()


class Usages(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of which nothing runs are not in it."""

    groups: tuple[GroupUsage, ...] = ()


# Kubernetes' own options; the queries carry them under these types' JSON names.
LogOptions = models.PodLogOptions
ExecOptions = models.PodExecOptions
AttachOptions = models.PodAttachOptions
