"""Container groups as the API speaks of them: requests and answers, and the rules a request must keep.

Field names here are the wire's in snake case (kci-reference 2.1 to 2.3). Types and simple limits stand at
the fields and are checked when the wire form is read; rules over several fields are in the `check_`
functions below. What this service cannot honour is refused by name, never dropped.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import re
import uuid
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from kci.contract import errors, ids
from kci.kit import clock

CLUSTER_ID = "cluster-id"
NAMESPACE = "namespace"
POD_NAME = "pod-name"
NODE_NAME = "node-name"
POD_UUID = "pod-uuid"

MODE_CLUSTER = "Cluster"
KCI_TYPE = "RBKCI"

RETAIN_IP_HOURS = 24
DEFAULT_TAIL_LINES = 500
MAX_TAIL_LINES = 2000
DEFAULT_PAGE = 20
MAX_PAGE = 100
MAX_NAME_LENGTH = 128
MAX_LABEL_LENGTH = 63

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
_CONTAINER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_MAX_HOST_NAME_LENGTH = 253
_LABEL = r"\A[a-zA-Z0-9]([-a-zA-Z0-9._]*[a-zA-Z0-9])?\Z"
_MAX_KUBECONFIG_LENGTH = 256 * 1024
_MAX_INT = 2**53 - 1

Text = Annotated[str, msgspec.Meta(max_length=1024)]
Int = Annotated[int, msgspec.Meta(ge=0, le=_MAX_INT)]
Cores = Annotated[float, msgspec.Meta(ge=0, le=256)]
Gigabytes = Annotated[float, msgspec.Meta(ge=0, le=512)]


class Parameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """Base of requests. A default stands for an absent parameter."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of answers: every field is written, as Kingsoft's SDKs expect."""


# ---- CreateContainerGroup -----------------------------------------------------------------------


class Label(Parameters, frozen=True):
    key: Literal["cluster-id", "namespace", "pod-name", "node-name", "pod-uuid"]
    value: Annotated[str, msgspec.Meta(max_length=MAX_LABEL_LENGTH, pattern=_LABEL)] = ""


class DnsOption(Parameters, frozen=True):
    name: Text = ""
    value: Text = ""


class MachineDnsConfig(Parameters, frozen=True):
    """DNS of the machine below: what pods with dnsPolicy Default get."""

    name_server: Annotated[tuple[Text, ...], msgspec.Meta(max_length=3)] = ()
    search: Annotated[tuple[Text, ...], msgspec.Meta(max_length=32)] = ()
    option: tuple[DnsOption, ...] = ()


class HostAlias(Parameters, frozen=True):
    """One line of a hosts file."""

    ip: Text = ""
    hostname: Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)] = ()


class KubeProxy(Parameters, frozen=True):
    """Access to ClusterIP services."""

    enabled: bool = False


class Bandwidth(Parameters, frozen=True):
    """Extension: limits of the group's traffic in bits per second; 0 is none."""

    ingress: Int = 0
    egress: Int = 0


class ContainerSpec(Parameters, frozen=True):
    """What one container asks for, in cores and GB."""

    request_cpu: Cores = 0
    request_mem: Gigabytes = 0
    limit_cpu: Cores = 0
    limit_mem: Gigabytes = 0


class Fence(Parameters, frozen=True):
    """Extension: who writes, and in which term. A service refuses a write of a term that is older than the
    newest it has seen of that holder, so that of two copies of one node only the later one writes.
    """

    # Such as <cluster>/<node>.
    holder: Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"\A[!-~]+\Z")]
    epoch: Int


class NotHonoured(Parameters, frozen=True):
    """What a create call may say to Kingsoft's service and this one has nothing for: each is refused by its
    name unless it is empty.
    """

    gpu: Annotated[float, msgspec.Meta(ge=0, le=256)] = 0
    advance_settings: dict[str, object] = {}
    data_disk: tuple[dict[str, object], ...] = ()
    eip_allocation_id: Text = ""
    multi_eip_allocation_id: tuple[Text, ...] = ()
    image_cache_id: Text = ""
    klog_enabled: bool = False
    host_pid: bool = msgspec.field(default=False, name="HostPID")
    # Standalone mode's, where the call says what the cluster's pod says here.
    container: tuple[dict[str, object], ...] = ()
    init_container: tuple[dict[str, object], ...] = ()
    volume: tuple[dict[str, object], ...] = ()
    image_registry_credential: tuple[dict[str, object], ...] = ()
    dns_config: dict[str, object] = {}
    host_aliase: tuple[dict[str, object], ...] = ()


class CreateContainerGroup(NotHonoured, frozen=True):
    """Cluster mode: the pod itself is read from the cluster that `kube_config` leads to.

    `kube_config` is a secret; it is left out of the repr. By the order of the fields a stored call is known
    again (domain/groups.py, fingerprint): a new one goes to the end.
    """

    container_group_name: Text = ""
    subnet_id: Text = ""
    multi_subnet_id: Annotated[tuple[Text, ...], msgspec.Meta(max_length=5)] = ()
    security_group_id: Annotated[tuple[Text, ...], msgspec.Meta(max_length=3)] = ()
    kci_type: Literal["RBKCI"] = "RBKCI"
    charge_type: Literal["HourlyInstantSettlement", "Spot"] = "HourlyInstantSettlement"
    # On which machine, at what price, and from which cache below: here machines are of one kind and cost
    # nothing, and images that were pulled once are kept. So these four are taken and choose nothing.
    spot_strategy: Literal["SpotAsPriceGo", ""] = ""
    instance_type: Text = ""
    instance_family: Text = ""
    project_id: Int = 0
    # Cores and GB, up to three decimals; 0 leaves the choice to the service.
    cpu: Cores = 0
    memory: Gigabytes = 0
    kube_config: Annotated[str, msgspec.Meta(max_length=_MAX_KUBECONFIG_LENGTH)] = ""
    retain_ip: bool = False
    retain_ip_hours: Annotated[int, msgspec.Meta(ge=0, le=8760)] = RETAIN_IP_HOURS
    auto_match_image_cache: bool = False
    machine_dns_config: MachineDnsConfig | None = None
    # Names that the machine below knows beside those of its DNS.
    machine_host_aliase: Annotated[tuple[HostAlias, ...], msgspec.Meta(max_length=64)] = ()
    cluster_dns: Text = ""
    cluster_domain: Text = ""
    label: tuple[Label, ...] = ()
    kube_proxy: KubeProxy | None = None
    container_spec: Annotated[tuple[ContainerSpec, ...], msgspec.Meta(max_length=64)] = ()
    # Extension: the same token and parameters give the same group again.
    client_token: Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[!-~]*\Z")] = ""
    bandwidth: Bandwidth | None = None
    fence: Fence | None = None
    # Standalone mode's, which a caller may always fill: in cluster mode the pod says.
    restart_policy: Literal["Always", "OnFailure", "Never", ""] = ""

    def label_value(self, key: str) -> str:
        return next((label.value for label in self.label if label.key == key), "")

    def __repr__(self) -> str:
        return (
            f"CreateContainerGroup(container_group_name={self.container_group_name!r},"
            f" label={self.label!r}, kube_config=****)"
        )


class Created(Answer, frozen=True):
    container_group_id: ids.GroupId


# ---- DescribeContainerGroup ---------------------------------------------------------------------


class Filter(Parameters, frozen=True):
    name: Literal["subnet-id", "vpc-id", "availability-zone.name", "status"]
    value: Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)] = ()


class DescribeContainerGroup(Parameters, frozen=True):
    container_group_id: Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)] = ()
    max_results: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    marker: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    project_id: tuple[Int, ...] = ()
    search: Text = ""
    filter: Annotated[tuple[Filter, ...], msgspec.Meta(max_length=10)] = ()


class LabelValue(Answer, frozen=True):
    key: str
    value: str


class SecurityGroup(Answer, frozen=True):
    security_group_id: str


class NetworkInterface(Answer, frozen=True):
    network_interface_id: str = ""
    network_interface_type: str = "primary"
    vpc_id: str = ""
    subnet_id: str = ""
    private_ip_address: str = ""
    public_ip: str = ""
    mac_address: str = ""
    security_groups: tuple[SecurityGroup, ...] = ()


class ContainerGroup(Answer, frozen=True):
    """A group as DescribeContainerGroup shows it. `create_time` is Beijing time, as Kingsoft's."""

    container_group_id: ids.GroupId
    container_group_name: str = ""
    availability_zone: str = ""
    charge_type: str = ""
    project_id: int = 0
    kci_type: str = KCI_TYPE
    kci_mode: str = MODE_CLUSTER
    instance_type: str = ""
    status: str = ""
    create_time: str = ""
    cpu: float = 0
    memory: float = 0
    gpu: float = 0
    retain_ip: bool = False
    retain_ip_hours: int = 0
    network_interface_attributes: tuple[NetworkInterface, ...] = ()
    labels: tuple[LabelValue, ...] = ()
    # Extensions: why the status is what it is, in a word and in a sentence.
    status_reason: str = ""
    status_message: str = ""

    def label(self, key: str) -> str:
        """A label's value, empty if it is not there."""
        return next((label.value for label in self.labels if label.key == key), "")

    @property
    def private_address(self) -> str:
        return next((part.private_ip_address for part in self.network_interface_attributes), "")


class ContainerGroups(Answer, frozen=True):
    """One page. `marker` is where the next one starts; 0 says that this was the last."""

    max_results: int = 0
    marker: int = 0
    total_count: int = 0
    container_groups: tuple[ContainerGroup, ...] = ()


# ---- the small actions ---------------------------------------------------------------------------


class DeleteContainerGroup(Parameters, frozen=True):
    container_group_id: Text = ""
    fence: Fence | None = None


class Done(Answer, frozen=True):
    """An answer that says nothing but its request id."""


class DescribeContainerLog(Parameters, frozen=True):
    container_group_id: Text = ""
    container_name: Text = ""
    tail: Annotated[int, msgspec.Meta(ge=0, le=MAX_TAIL_LINES)] = DEFAULT_TAIL_LINES


class ContainerLog(Answer, frozen=True):
    content: str


class ExecContainerCommand(Parameters, frozen=True):
    """`stdin`, `stdout` and `stderr` are extensions; without them only a terminal has standard input."""

    container_group_id: Text = ""
    container_name: Text = ""
    command: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=65536)], ...], msgspec.Meta(max_length=500)
    ] = ()
    tty: bool = msgspec.field(default=False, name="TTY")
    stdin: bool | None = None
    stdout: bool = True
    stderr: bool = True


class StreamAddress(Answer, frozen=True):
    """`web_socket_uri` is a bearer credential: good once, for a minute."""

    web_socket_uri: str

    def __repr__(self) -> str:
        return "StreamAddress(web_socket_uri=****)"


# ---- extensions -----------------------------------------------------------------------------------


class DescribeCapabilities(Parameters, frozen=True):
    """Asks for the extensions of this service."""


class CapabilityList(Answer, frozen=True):
    capabilities: tuple[str, ...] = ()
    version: str = ""


class StreamContainerLog(Parameters, frozen=True):
    container_group_id: Text = ""
    container_name: Text = ""
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    # None gives all lines, 0 none.
    tail_lines: Int | None = None
    since_seconds: Int | None = None
    since_time: Text | None = None
    limit_bytes: Int | None = None


class AttachContainer(Parameters, frozen=True):
    """The streams of a container's own process; `tty` must be as the container was made."""

    container_group_id: Text = ""
    container_name: Text = ""
    tty: bool = msgspec.field(default=False, name="TTY")
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class PortForwardContainerGroup(Parameters, frozen=True):
    """One connection to a port on the group's loopback. On its WebSocket, STDIN is what the client sends,
    STDOUT what the port answers, a close message half-closes, and STATUS says why it could not be made or
    broke.
    """

    container_group_id: Text = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


class WatchContainerGroups(Parameters, frozen=True):
    """All groups of the caller, or only those of one cluster or node (by their labels)."""

    cluster_id: Text = ""
    node_name: Text = ""


@dataclasses.dataclass(frozen=True)
class GroupChange:
    """One line of a watch: a group as it is now, or absent, or the mark that all groups were told."""

    group_id: ids.GroupId = ids.GroupId("")  # noqa: RUF009  (a NewType is no call)
    group: ContainerGroup | None = None
    absent: bool = False
    synced: bool = False


class GroupLine(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """The lines of a watch that are no group."""

    container_group_id: ids.GroupId = ids.GroupId("")
    absent: bool = False
    synced: bool = False


# ---- rules over several fields --------------------------------------------------------------------


def check_create(request: CreateContainerGroup) -> None:
    """Raise ApiError for the first rule of cluster mode that the request breaks."""
    _check_mode(request)
    _require(request.container_group_name, "ContainerGroupName")
    if len(request.container_group_name) > MAX_NAME_LENGTH or not _NAME.match(request.container_group_name):
        raise _invalid(
            "ContainerGroupName",
            f"must be at most {MAX_NAME_LENGTH} lower-case letters, digits, '-' and '.',"
            " with a letter or digit at both ends",
        )
    _check_network(request)
    _check_labels(request)
    _check_sizes(request)
    _check_dns(request)
    _check_host_aliases(request)
    _check_unsupported(request)


def check_group_id(value: str) -> ids.GroupId:
    """The id if one is given. Whether it exists is another question: a wrong form is just as missing."""
    _require(value, "ContainerGroupId")
    return ids.GroupId(value)


def check_log(request: StreamContainerLog) -> None:
    check_container_name(request.container_name)
    if request.since_time:
        try:
            _ = clock.parse_rfc3339_ns(request.since_time)
        except ValueError as error:
            raise _invalid("SinceTime", "is no RFC 3339 time, such as 2026-01-31T08:00:00Z") from error


def check_exec(request: ExecContainerCommand) -> None:
    check_container_name(request.container_name)
    if not request.command or not request.command[0]:
        raise errors.ApiError(errors.MISSING_PARAMETER, parameter="Command")
    _check_some_stream(request)


def check_attach(request: AttachContainer) -> None:
    check_container_name(request.container_name)
    _check_some_stream(request)


def check_port_forward(request: PortForwardContainerGroup) -> None:
    if not request.port:
        raise errors.ApiError(errors.MISSING_PARAMETER, parameter="Port")


def check_container_name(value: str) -> None:
    """A DNS label: the name travels on as part of a path."""
    _require(value, "ContainerName")
    if len(value) > MAX_LABEL_LENGTH or not _CONTAINER_NAME.match(value):
        raise _invalid("ContainerName", "is no container's name")


def _check_some_stream(request: ExecContainerCommand | AttachContainer) -> None:
    if not (request.stdin or request.stdout or request.stderr or request.tty):
        raise _invalid("Stdout", "one of Stdin, Stdout and Stderr must be true")


def _check_mode(request: CreateContainerGroup) -> None:
    if request.kube_config:
        return
    if request.container:
        raise errors.ApiError(
            errors.UNSUPPORTED_OPERATION,
            "cannot create a standalone container group: this service runs cluster mode only;"
            " give KubeConfig and Label instead of Container",
            parameter="Container",
        )
    raise errors.ApiError(errors.MISSING_PARAMETER, parameter="KubeConfig")


def _check_network(request: CreateContainerGroup) -> None:
    if not request.subnet_id and not request.multi_subnet_id:
        raise errors.ApiError(errors.MISSING_PARAMETER, parameter="SubnetId")
    if not request.security_group_id:
        raise errors.ApiError(errors.MISSING_PARAMETER, parameter="SecurityGroupId")
    _check_uuid(request.subnet_id, "SubnetId")
    for value in request.multi_subnet_id:
        _check_uuid(value, "MultiSubnetId")
    for value in request.security_group_id:
        _check_uuid(value, "SecurityGroupId")


def _check_labels(request: CreateContainerGroup) -> None:
    keys = [label.key for label in request.label]
    if len(set(keys)) != len(keys):
        raise _invalid("Label", "each key may be given once")
    for key in (CLUSTER_ID, NAMESPACE, POD_NAME):
        if not request.label_value(key):
            raise errors.ApiError(
                errors.MISSING_PARAMETER, f"cluster mode needs a label {key!r}", parameter="Label"
            )


def _check_sizes(request: CreateContainerGroup) -> None:
    for name, value in (("Cpu", request.cpu), ("Memory", request.memory)):
        if not math.isclose(value, round(value, 3), rel_tol=0, abs_tol=1e-9):
            raise _invalid(name, "has more than three decimals")
    for name, total, most in (
        ("Cpu", sum(spec.limit_cpu or spec.request_cpu for spec in request.container_spec), 256),
        ("Memory", sum(spec.limit_mem or spec.request_mem for spec in request.container_spec), 512),
    ):
        if total > most:
            raise _invalid("ContainerSpec", f"{name} adds up to {total:g}, more than {most}")


def _check_dns(request: CreateContainerGroup) -> None:
    servers = [("ClusterDns", part.strip()) for part in request.cluster_dns.split(",") if part.strip()]
    if request.machine_dns_config:
        servers += [("MachineDnsConfig.NameServer", part) for part in request.machine_dns_config.name_server]
    for name, value in servers:
        try:
            ipaddress.ip_address(value)
        except ValueError as error:
            raise _invalid(name, "is no IP address") from error
    if request.machine_dns_config:
        _check_words("MachineDnsConfig.Search", request.machine_dns_config.search)
        options = request.machine_dns_config.option
        _check_words("MachineDnsConfig.Option.Name", [option.name for option in options])
        _check_words("MachineDnsConfig.Option.Value", [option.value for option in options if option.value])


def _check_words(name: str, values: Iterable[str]) -> None:
    """Each becomes one word of a resolv.conf, where white space would begin something else."""
    for value in values:
        if value.split() != [value]:
            raise _invalid(name, "is not one word")


def _check_host_aliases(request: CreateContainerGroup) -> None:
    for alias in request.machine_host_aliase:
        try:
            ipaddress.ip_address(alias.ip)
        except ValueError as error:
            raise _invalid("MachineHostAliase.Ip", "is no IP address") from error
        if not alias.hostname:
            raise errors.ApiError(errors.MISSING_PARAMETER, parameter="MachineHostAliase.Hostname")
        if not all(is_host_name(name) for name in alias.hostname):
            raise _invalid("MachineHostAliase.Hostname", "is no host name")


def is_host_name(text: str) -> bool:
    """As Kubernetes has it (DNS-1123): what may stand in a hosts file as one word."""
    return len(text) <= _MAX_HOST_NAME_LENGTH and bool(_HOST_NAME.match(text))


def _check_unsupported(request: CreateContainerGroup) -> None:
    for field in msgspec.structs.fields(NotHonoured):
        if getattr(request, field.name):
            raise errors.ApiError(
                errors.UNSUPPORTED_OPERATION,
                "cannot be honoured by this service; leave it out",
                parameter=field.encode_name,
            )


def _check_uuid(value: str, name: str) -> None:
    if not value:
        return
    try:
        uuid.UUID(value)
    except ValueError as error:
        raise _invalid(name, "is no UUID") from error


def _require(value: str, name: str) -> None:
    if not value:
        raise errors.ApiError(errors.MISSING_PARAMETER, parameter=name)


def _invalid(name: str, message: str) -> errors.ApiError:
    return errors.ApiError(errors.INVALID_PARAMETER_VALUE, message, parameter=name)
