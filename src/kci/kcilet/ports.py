"""What the kcilet's workers need from the machine: one small protocol per driver, and their values.

`ensure_` may be repeated; `remove_` and `stop_` are safe without the thing and safe twice.
Every driver raises only the errors below; the text starts with "cannot …" and names the thing.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import NamedTuple, NewType, Protocol, TypeAlias

from kci.kit import secret
from kci.kube import models, reasons
from kci.link import types as link

SandboxId = NewType("SandboxId", str)
ContainerId = NewType("ContainerId", str)


class DriverError(Exception):
    """A driver could not do what was asked; trying again may help."""


class UnavailableError(DriverError):
    """No answer, or not before something asked earlier is done: nothing is said of the thing itself, and what
    was asked may or may not have been done.
    """


class NotFoundError(DriverError):
    """The sandbox, container or image is not there."""


class ImagePullError(DriverError):
    """An image could not be had. `reason` is the kubelet's:
    ErrImagePull, ErrImageNeverPull, InvalidImageName.
    """

    def __init__(self, reason: reasons.OfAttempt, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class ContainerError(DriverError):
    """A container could not be made or started. `reason` is the kubelet's:
    CreateContainerConfigError, CreateContainerError, RunContainerError.
    """

    def __init__(self, reason: reasons.OfAttempt, message: str) -> None:
        self.reason = reason
        super().__init__(message)


# ---- runtime (CRI) ----------------------------------------------------------------------------


class ContainerPhase(enum.Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Health:
    """What the probes of a running container say; one without probes is well."""

    started: bool = True
    ready: bool = True
    # Which probe failed for good, so that the container is to be stopped; empty if none.
    failed: str = ""


WELL = Health()


@dataclasses.dataclass(frozen=True)
class SeenContainer:
    """A container as the runtime reports it. Times are Unix nanoseconds, 0 if not reached."""

    id: ContainerId
    sandbox_id: SandboxId
    name: str
    attempt: int
    phase: ContainerPhase
    image: str = ""
    image_id: str = ""
    created_at_ns: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    # Where its log is on the machine; empty if it was never started.
    log_path: str = ""
    # The pod's own grace period, as it was when the container was made.
    grace_s: int = 30
    # Not the runtime's to say (plan/probes.py).
    health: Health = WELL


@dataclasses.dataclass(frozen=True)
class SeenSandbox:
    id: SandboxId
    pod_uid: models.PodUid
    namespace: str
    name: str
    attempt: int
    ready: bool
    created_at_ns: int
    address: str = ""
    group_id: str = ""


@dataclasses.dataclass(frozen=True)
class SeenPod:
    """All the runtime holds of one pod UID: newest sandbox first, newest attempt of a container first."""

    pod_uid: models.PodUid
    sandboxes: tuple[SeenSandbox, ...] = ()
    containers: tuple[SeenContainer, ...] = ()


@dataclasses.dataclass(frozen=True)
class RuntimeEvent:
    """Something happened to a pod's sandbox or containers: look at that pod again."""

    pod_uid: models.PodUid


@dataclasses.dataclass(frozen=True)
class DnsConfig:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SandboxSpec:
    """All that RunPodSandbox needs."""

    pod: models.Pod
    group_id: str
    attempt: int
    hostname: str
    log_directory: str
    cgroup_parent: str
    dns: DnsConfig
    runtime_handler: str = ""


@dataclasses.dataclass(frozen=True)
class Mount:
    container_path: str
    host_path: str
    read_only: bool = False
    propagation: str = "None"


@dataclasses.dataclass(frozen=True)
class ContainerSpec:
    """All that CreateContainer needs; environment and mounts are resolved."""

    pod: models.Pod
    container: models.Container
    attempt: int
    image_id: str
    env: Mapping[str, str]
    mounts: Sequence[Mount]
    # Pod-level ceilings that a container's own limits are clamped to; 0 = none.
    cpu_milli_limit: int = 0
    memory_mib_limit: int = 0


@dataclasses.dataclass(frozen=True)
class ImageRef:
    """An image on this machine."""

    id: str
    user: str = ""
    size_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class RegistryAuth:
    server: str
    username: str
    password: secret.Secret


@dataclasses.dataclass(frozen=True)
class RuntimeVersion:
    name: str
    version: str


class Runtime(Protocol):
    """A container runtime behind CRI v1. Knows only pods that carry this kcilet's label."""

    async def version(self) -> RuntimeVersion: ...
    async def list_pods(self) -> list[SeenPod]: ...
    async def observe_pod(self, pod_uid: models.PodUid) -> SeenPod:
        """The pod now, from the runtime itself; empty if it holds nothing of it."""
        ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Endless; raises DriverError when the runtime goes away (list again, then ask again)."""
        ...

    async def find_image(self, image: str) -> ImageRef | None: ...
    async def pull_image(self, image: str, auths: Sequence[RegistryAuth]) -> ImageRef:
        """Raises ImagePullError."""
        ...

    async def run_sandbox(self, spec: SandboxSpec) -> SandboxId: ...
    async def stop_sandbox(self, sandbox_id: SandboxId) -> None: ...
    async def remove_sandbox(self, sandbox_id: SandboxId) -> None: ...
    async def create_container(self, sandbox_id: SandboxId, spec: ContainerSpec) -> ContainerId:
        """Raises ContainerError."""
        ...

    async def start_container(self, container_id: ContainerId) -> None:
        """Raises ContainerError."""
        ...

    async def stop_container(self, container_id: ContainerId, grace_s: int) -> None: ...
    async def remove_container(self, container_id: ContainerId) -> None: ...


# ---- volumes -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class VolumeFile:
    """A file of a volume: path relative to the volume's root, never leaving it."""

    path: str
    content: bytes
    mode: int = 0o644
    # The user it belongs to; None for root.
    owner: int | None = None


@dataclasses.dataclass(frozen=True)
class ContentVolume:
    """configMap, secret, downwardAPI or projected, resolved to files. Replaced as a whole, atomically
    (kubelet's AtomicWriter: `..data` is a link that is swapped).
    """

    name: str
    files: tuple[VolumeFile, ...]
    # Secrets and tokens lie on a tmpfs.
    in_memory: bool
    fs_group: int | None = None


@dataclasses.dataclass(frozen=True)
class EmptyDir:
    name: str
    in_memory: bool = False
    size_limit_bytes: int | None = None
    fs_group: int | None = None


class Volumes(Protocol):
    """Folders of a pod on this machine."""

    async def ensure_volumes(
        self, pod_uid: models.PodUid, volumes: Sequence[ContentVolume | EmptyDir]
    ) -> None: ...
    async def ensure_file(
        self, pod_uid: models.PodUid, name: str, content: bytes, *, mode: int = 0o644
    ) -> str:
        """A file of our own for the pod (hosts, termination log); returns its host path.
        Existing content is replaced in place.
        """
        ...

    def host_path(self, pod_uid: models.PodUid, volume: str) -> str:
        """The volume's root on the machine, to be mounted into containers."""
        ...

    async def ensure_sub_path(self, pod_uid: models.PodUid, volume: str, sub_path: str) -> str:
        """The host path of a sub-path, made if missing, resolved beneath the volume's root without
        following links out of it; DriverError otherwise.
        """
        ...

    async def read_file(self, pod_uid: models.PodUid, name: str, *, limit: int) -> bytes:
        """The last `limit` bytes of a file made by ensure_file; empty if absent or not a regular file."""
        ...

    async def remove_volumes(self, pod_uid: models.PodUid) -> None: ...
    async def list_pods(self) -> list[models.PodUid]:
        """Pods that have a folder here, for cleaning up after a crash."""
        ...


# ---- network, cgroups ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrafficLimits:
    """Bits per second; 0 is no limit."""

    ingress_bits: int = 0
    egress_bits: int = 0


NO_LIMITS = TrafficLimits()


@dataclasses.dataclass(frozen=True, order=True)
class Reachable:
    """A port of the machine that pods may reach although it is the machine's."""

    address: str
    port: int
    # tcp, udp or sctp.
    protocol: str = "tcp"


class ServiceAddress(NamedTuple):
    """Where a Service is reached, such as its ClusterIP and one of its ports. IPv4."""

    address: str
    # As Reachable.
    protocol: str
    port: int


class Endpoint(NamedTuple):
    address: str
    port: int


@dataclasses.dataclass(frozen=True)
class Backend:
    """What is behind a ServiceAddress; without endpoints, connections to it are refused."""

    endpoints: tuple[Endpoint, ...] = ()
    # For how long a client keeps its endpoint; 0 for not at all.
    affinity_s: int = 0
    # Flows without connections may go on to these, chosen or not; None: to the endpoints alone.
    serving: tuple[Endpoint, ...] | None = None


ServiceTable: TypeAlias = Mapping[ServiceAddress, Backend]


@dataclasses.dataclass(frozen=True)
class ServiceChange:
    """How one table becomes another: what is new or different, and what is no more. With `is_whole`, `put`
    is the table, whatever was before.
    """

    put: ServiceTable
    gone: frozenset[ServiceAddress] = frozenset()
    is_whole: bool = False


@dataclasses.dataclass(frozen=True)
class PacketRule:
    """What passes or is dropped; of a list the first that fits decides."""

    is_allowed: bool
    protocol: link.Protocol = link.Protocol.ANY
    # Both included; TCP and UDP only.
    first_port: int = 1
    last_port: int = 65535
    # None is all; ICMP only.
    icmp_type: int | None = None
    icmp_code: int | None = None
    # The other side: addresses, or a key of Firewall.members; both empty: everybody.
    cidr: str = ""
    members_of: str = ""


@dataclasses.dataclass(frozen=True)
class Policy:
    """What may begin a connection with a pod, and what a pod may begin one with; what fits no rule is
    dropped. Answers always pass.
    """

    incoming: tuple[PacketRule, ...] = ()
    outgoing: tuple[PacketRule, ...] = ()


@dataclasses.dataclass(frozen=True)
class GuardedPod:
    """A pod that has a link, or may get one."""

    pod_uid: models.PodUid
    interface: link.Interface
    # Pods of different tenants never reach each other.
    tenant_id: str = ""
    # A key of Firewall.policies; empty: no policy, and so everything else passes.
    policy: str = ""


@dataclasses.dataclass(frozen=True)
class Firewall:
    """What holds for the links of all pods of this machine. A link that is not in it passes nothing."""

    pods: tuple[GuardedPod, ...] = ()
    policies: Mapping[str, Policy] = dataclasses.field(default_factory=dict)
    # Addresses, by what rules name them by.
    members: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    # Until it is known what is wanted as a whole, nothing that an earlier run left is taken away.
    is_whole: bool = True


class Network(Protocol):
    """Gives each pod the address the service chose. The CNI plugin asks this driver over its unix
    socket when the runtime makes or ends a sandbox.
    """

    def expect(
        self, pod_uid: models.PodUid, interface: link.Interface, limits: TrafficLimits, *, outlook: str = ""
    ) -> None:
        """Say which interface a pod gets, what may pass it, and whose Services it reaches from its first
        process on (none without an outlook); before run_sandbox.
        """
        ...

    async def guard(self, firewall: Firewall) -> None:
        """Have these rules and no others, at once and without a moment in between. No pod is connected before
        its rules are there.
        """
        ...

    async def until_meddled(self) -> None:
        """Return once somebody else has taken away rules of ours: `guard` and `change_services` bring them
        back.
        """
        ...

    async def limit_traffic(self, pod_uid: models.PodUid, limits: TrafficLimits) -> None:
        """Have these limits and no others from now on; nothing happens without a link."""
        ...

    async def remove_network(self, pod_uid: models.PodUid) -> None:
        """Remove the pod's link if the runtime did not, and its way to Services."""
        ...

    async def change_services(
        self, outlook: str, change: ServiceChange, members: Mapping[models.PodUid, link.Interface]
    ) -> None:
        """Change the Services of an outlook for all pods that have it, at once and as a whole or not at all;
        these pods have it from now on if they had not. After an error only a whole table is sure to be taken.
        """
        ...

    async def forget_services(self, outlook: str) -> None:
        """Nobody keeps these Services up to date any more; they go with the last pod that has them."""
        ...

    async def own_addresses(self) -> frozenset[str]:
        """The machine's IPv4 addresses, to which no Service may lead."""
        ...


class Cgroups(Protocol):
    """One parent cgroup per pod, v1 or v2, that holds the granted size."""

    async def ensure_cgroup(
        self, pod_uid: models.PodUid, *, cpu_milli: int, memory_mib: int, pids: int
    ) -> str:
        """Make it with its limits (0 = none); returns the path for `cgroup_parent`."""
        ...

    async def remove_cgroup(self, pod_uid: models.PodUid) -> None: ...
    async def list_dead(self, containers: Mapping[ContainerId, models.PodUid]) -> set[ContainerId]:
        """Those of these containers in whose cgroups no process is left."""
        ...


# ---- usage ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PodUsage:
    """What a pod has used: all of it, and its containers by id."""

    usage: link.Usage
    traffic: link.Traffic | None = None
    containers: Mapping[ContainerId, link.Usage] = dataclasses.field(default_factory=dict)


class Stats(Protocol):
    """What pods use of this machine."""

    async def read_usage(
        self, pods: Mapping[models.PodUid, Sequence[ContainerId]]
    ) -> Mapping[models.PodUid, PodUsage]:
        """Of these pods and these containers of theirs. What is not there any more is left out."""
        ...


# ---- logs ----------------------------------------------------------------------------------------


class LogFolders(Protocol):
    """The folders of pods' logs. The runtime makes and writes them; nobody else ever removes them."""

    def log_directory(self, pod: models.Pod) -> str: ...
    async def remove_log(self, log_path: str) -> None:
        """The log of one attempt, with what rotation has put aside of it."""
        ...

    async def remove_logs(self, pod_uid: models.PodUid) -> None: ...
    async def list_pods(self) -> list[models.PodUid]:
        """Pods that have a folder here, for cleaning up after a crash."""
        ...


# ---- probes ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ExecCheck:
    """A command in a container; exit code 0 is its success."""

    container_id: ContainerId
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class HttpCheck:
    """A GET, dialled inside the pod's network; 200 to 399 is its success."""

    sandbox_id: SandboxId
    scheme: str
    host: str
    port: int
    # Path and query, as they are sent.
    target: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class TcpCheck:
    """A connection, dialled inside the pod's network."""

    sandbox_id: SandboxId
    host: str
    port: int


@dataclasses.dataclass(frozen=True)
class GrpcCheck:
    """grpc.health.v1.Health/Check, dialled inside the pod's network; SERVING is its success."""

    sandbox_id: SandboxId
    host: str
    port: int
    service: str = ""


Check: TypeAlias = ExecCheck | HttpCheck | TcpCheck | GrpcCheck


@dataclasses.dataclass(frozen=True)
class CheckResult:
    succeeded: bool
    # For people; with a success only if it should be told all the same.
    output: str = ""


@dataclasses.dataclass(frozen=True)
class CommandResult:
    exit_code: int
    # What it wrote, the beginning of it.
    output: bytes


class Probes(Protocol):
    async def check(self, check: Check, *, timeout_s: float) -> CheckResult:
        """What the container answers within that time. DriverError if nothing can be said of it."""
        ...

    def leave(self, sandbox_id: SandboxId) -> None:
        """Nothing will be checked in this sandbox any more, or not for long."""
        ...


# ---- the store that is served --------------------------------------------------------------------


class Served(Protocol):
    """Which store this machine serves, kept over restarts."""

    @property
    def place(self) -> str:
        """The file that an operator removes to have another store served."""
        ...

    async def get_store(self) -> str:
        """Its id; empty if none was served yet, or an operator wants another one served."""
        ...

    async def ensure_store(self, store_id: str) -> None:
        """Note it."""
        ...


# ---- streams --------------------------------------------------------------------------------------


class StreamPeer(Protocol):
    """The client's side of a command, an attachment or a port: v5.channel.k8s.io messages
    (kit/channels.py). `receive` returns None once the client is gone.
    """

    async def send(self, message: bytes) -> None: ...
    async def receive(self) -> bytes | None: ...


class Streams(Protocol):
    async def exec(self, container_id: ContainerId, options: link.ExecOptions, peer: StreamPeer) -> None:
        """Run a command and carry its streams until it ends (the last message is the status) or the
        peer is gone or this is cancelled (then the command is ended).
        """
        ...

    async def attach(self, container_id: ContainerId, options: link.AttachOptions, peer: StreamPeer) -> None:
        """Carry the streams of a container's own process until it ends or the peer is gone; the container
        runs on.
        """
        ...

    async def forward(self, sandbox_id: SandboxId, port: int, peer: StreamPeer) -> None:
        """Connect to a port on the pod's loopback and carry the connection until both directions have
        ended or the peer is gone. A connection that cannot be made is told as the status.
        """
        ...

    def log(
        self,
        log_directory: str,
        container_name: str,
        options: link.LogOptions,
        *,
        attempt: int | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The log of one attempt, by default the newest (`previous`: the one before), out of CRI's format.
        NotFoundError if there is none; the first item is empty and says that there is one. With
        `follow`, goes on over rotation until the attempt has ended, as a kubelet does.
        """
        ...
