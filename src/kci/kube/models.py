"""Kubernetes objects as frozen types, decoded once at the door.

Only fields that somebody reads are modelled; decoding ignores others, so an object read here is
never written back whole: writes are patches (kube/client.py). Attribute names are the API's in
snake case; `None` means absent. Source: k8s.io/api v0.36, core/v1 and coordination/v1.
"""

from __future__ import annotations

from typing import Any, NewType

import msgspec

PodUid = NewType("PodUid", str)


class Model(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Base of all Kubernetes types."""


class OwnerReference(Model, frozen=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class ObjectMeta(Model, frozen=True):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class LocalObjectReference(Model, frozen=True):
    name: str = ""


class KeySelector(Model, frozen=True):
    """A key of a ConfigMap or Secret."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class ObjectFieldSelector(Model, frozen=True):
    field_path: str = ""
    api_version: str = "v1"


class ResourceFieldSelector(Model, frozen=True):
    resource: str = ""
    container_name: str = ""
    divisor: str | int | None = None


class EnvVarSource(Model, frozen=True):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None
    file_key_ref: dict[str, Any] | None = None


class EnvVar(Model, frozen=True):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvFromRef(Model, frozen=True):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(Model, frozen=True):
    prefix: str = ""
    config_map_ref: EnvFromRef | None = None
    secret_ref: EnvFromRef | None = None


class ContainerPort(Model, frozen=True):
    container_port: int
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    name: str = ""
    protocol: str = "TCP"


class VolumeMount(Model, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str = ""
    recursive_read_only: str = ""


class ResourceRequirements(Model, frozen=True):
    """Quantities as Kubernetes writes them ("500m", "1Gi"); kube/quantity.py reads them."""

    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}


class Capabilities(Model, frozen=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(Model, frozen=True):
    type: str = ""
    localhost_profile: str = ""


class AppArmorProfile(Model, frozen=True):
    type: str = ""
    localhost_profile: str = ""


class SecurityContext(Model, frozen=True):
    privileged: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities | None = None
    seccomp_profile: SeccompProfile | None = None
    proc_mount: str | None = None
    app_armor_profile: AppArmorProfile | None = None


class Sysctl(Model, frozen=True):
    name: str
    value: str


class PodSecurityContext(Model, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    fs_group: int | None = None
    fs_group_change_policy: str | None = None
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None
    supplemental_groups_policy: str | None = None
    sysctls: tuple[Sysctl, ...] = ()


class ExecAction(Model, frozen=True):
    command: tuple[str, ...] = ()


class HTTPHeader(Model, frozen=True):
    name: str
    value: str = ""


class HTTPGetAction(Model, frozen=True):
    path: str = "/"
    port: int | str = 0
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocketAction(Model, frozen=True):
    port: int | str = 0
    host: str = ""


class GRPCAction(Model, frozen=True):
    port: int = 0
    service: str | None = None


class Probe(Model, frozen=True):
    """One of the four actions, and when it is done; the defaults are the API server's."""

    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Container(Model, frozen=True):
    """A container of any kind. Hooks stay raw objects until something runs them."""

    name: str
    image: str = ""
    image_pull_policy: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: tuple[VolumeMount, ...] = ()
    volume_devices: tuple[dict[str, Any], ...] = ()
    security_context: SecurityContext | None = None
    restart_policy: str | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: dict[str, Any] | None = None

    @property
    def is_sidecar(self) -> bool:
        """Of an init container: whether it runs beside the containers after it."""
        return self.restart_policy == "Always"


class KeyToPath(Model, frozen=True):
    key: str
    path: str
    mode: int | None = None


class EmptyDirVolume(Model, frozen=True):
    medium: str = ""
    size_limit: str | int | None = None


class ConfigMapVolume(Model, frozen=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class SecretVolume(Model, frozen=True):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class DownwardAPIFile(Model, frozen=True):
    path: str
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolume(Model, frozen=True):
    items: tuple[DownwardAPIFile, ...] = ()
    default_mode: int | None = None


class ServiceAccountTokenProjection(Model, frozen=True):
    path: str = ""
    audience: str = ""
    expiration_seconds: int = 3600


class SecretProjection(Model, frozen=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class ConfigMapProjection(Model, frozen=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class DownwardAPIProjection(Model, frozen=True):
    items: tuple[DownwardAPIFile, ...] = ()


class VolumeProjection(Model, frozen=True):
    config_map: ConfigMapProjection | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardAPIProjection | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None
    cluster_trust_bundle: dict[str, Any] | None = None
    pod_certificate: dict[str, Any] | None = None


class ProjectedVolume(Model, frozen=True):
    # Go sends null for an empty list here.
    sources: tuple[VolumeProjection, ...] | None = None
    default_mode: int | None = None


class Volume(Model, frozen=True):
    """A volume; of kinds that no driver of ours serves only the presence is modelled (kube/admission.py)."""

    name: str
    empty_dir: EmptyDirVolume | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardAPIVolume | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolume | None = None
    host_path: dict[str, Any] | None = None
    nfs: dict[str, Any] | None = None
    persistent_volume_claim: dict[str, Any] | None = None
    csi: dict[str, Any] | None = None
    ephemeral: dict[str, Any] | None = None
    image: dict[str, Any] | None = None
    git_repo: dict[str, Any] | None = None


class HostAlias(Model, frozen=True):
    ip: str = ""
    hostnames: tuple[str, ...] = ()


class PodDNSConfigOption(Model, frozen=True):
    name: str = ""
    value: str | None = None


class PodDNSConfig(Model, frozen=True):
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[PodDNSConfigOption, ...] = ()


class Toleration(Model, frozen=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodReadinessGate(Model, frozen=True):
    condition_type: str = ""


class PodSpec(Model, frozen=True):
    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[dict[str, Any], ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    host_users: bool | None = None
    share_process_namespace: bool = False
    security_context: PodSecurityContext | None = None
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    hostname: str = ""
    hostname_override: str | None = None
    subdomain: str = ""
    set_hostname_as_fqdn: bool | None = msgspec.field(default=None, name="setHostnameAsFQDN")
    host_aliases: tuple[HostAlias, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    enable_service_links: bool | None = None
    readiness_gates: tuple[PodReadinessGate, ...] = ()
    runtime_class_name: str | None = None
    priority: int | None = None
    overhead: dict[str, str | int | float] = {}
    resources: ResourceRequirements | None = None
    resource_claims: tuple[dict[str, Any], ...] = ()
    os: dict[str, Any] | None = None

    @property
    def all_containers(self) -> tuple[Container, ...]:
        """The init containers and then the others: their names are different."""
        return (*self.init_containers, *self.containers)


class ContainerStateWaiting(Model, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Model, frozen=True):
    started_at: str | None = None


class ContainerStateTerminated(Model, frozen=True, omit_defaults=False):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str = msgspec.field(default="", name="containerID")


class ContainerState(Model, frozen=True):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Model, frozen=True, omit_defaults=False):
    name: str
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str = msgspec.field(default="", name="containerID")
    started: bool | None = None


class PodCondition(Model, frozen=True):
    type: str
    status: str
    observed_generation: int = 0
    last_probe_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class PodIP(Model, frozen=True):
    ip: str = ""


class PodStatus(Model, frozen=True):
    phase: str = ""
    observed_generation: int = 0
    conditions: tuple[PodCondition, ...] = ()
    message: str = ""
    reason: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")
    start_time: str | None = None
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    qos_class: str = ""

    @property
    def all_containers(self) -> tuple[ContainerStatus, ...]:
        """As PodSpec.all_containers."""
        return (*self.init_container_statuses, *self.container_statuses)


class Pod(Model, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def uid(self) -> PodUid:
        return PodUid(self.metadata.uid)

    @property
    def key(self) -> str:
        """`namespace/name`, for people and events; identity is the UID."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class ConfigMap(Model, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    immutable: bool = False


class Secret(Model, frozen=True):
    """A Secret; `data` is base64 as the API sends it."""

    metadata: ObjectMeta = ObjectMeta()
    type: str = ""
    data: dict[str, str] = {}
    immutable: bool = False


class Taint(Model, frozen=True):
    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(Model, frozen=True):
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False


class NodeAddress(Model, frozen=True):
    type: str
    address: str


class NodeCondition(Model, frozen=True):
    type: str
    status: str
    last_heartbeat_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class NodeStatus(Model, frozen=True):
    addresses: tuple[NodeAddress, ...] = ()
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    conditions: tuple[NodeCondition, ...] = ()
    node_info: dict[str, Any] = {}


class Node(Model, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class LeaseSpec(Model, frozen=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    renew_time: str | None = None


class Lease(Model, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: LeaseSpec = LeaseSpec()


class ServicePort(Model, frozen=True):
    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class ClientIPConfig(Model, frozen=True):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Model, frozen=True):
    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(Model, frozen=True):
    type: str = ""
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    ip_families: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    load_balancer_source_ranges: tuple[str, ...] = ()
    session_affinity: str = ""
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str = ""
    ports: tuple[ServicePort, ...] = ()


class LoadBalancerIngress(Model, frozen=True):
    ip: str = ""
    ip_mode: str = ""


class LoadBalancerStatus(Model, frozen=True):
    ingress: tuple[LoadBalancerIngress, ...] | None = None


class ServiceStatus(Model, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Model, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointConditions(Model, frozen=True):
    """None is for who does not say; what it stands for differs (plan/services.py of the kcilet)."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class HintedName(Model, frozen=True):
    """A zone or a node."""

    name: str = ""


class EndpointHints(Model, frozen=True):
    for_zones: tuple[HintedName, ...] | None = None
    for_nodes: tuple[HintedName, ...] | None = None


class Endpoint(Model, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    node_name: str | None = None
    hints: EndpointHints | None = None


class EndpointPort(Model, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Model, frozen=True):
    """discovery.k8s.io/v1; Go sends null for empty lists here."""

    metadata: ObjectMeta = ObjectMeta()
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class ObjectReference(Model, frozen=True):
    """What an Event is about."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = "v1"
    resource_version: str = ""
    field_path: str = ""


class EventSource(Model, frozen=True):
    component: str = ""
    host: str = ""


class Event(Model, frozen=True):
    """core/v1 Event."""

    metadata: ObjectMeta = ObjectMeta()
    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    count: int = 0
    type: str = ""


class CertificateSigningRequestSpec(Model, frozen=True):
    """`request` is base64 of PEM; the rest is what the API server knows of the requester."""

    request: str = ""
    signer_name: str = ""
    usages: tuple[str, ...] = ()
    username: str = ""
    groups: tuple[str, ...] = ()


class CertificateSigningRequestStatus(Model, frozen=True):
    """`certificate` is base64 of PEM, empty until issued."""

    certificate: str = ""
    conditions: tuple[PodCondition, ...] = ()


class CertificateSigningRequest(Model, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: CertificateSigningRequestSpec = CertificateSigningRequestSpec()
    status: CertificateSigningRequestStatus = CertificateSigningRequestStatus()


class PodLogOptions(Model, frozen=True):
    """What `kubectl logs` may ask for. `tail_lines` None means all lines, 0 none."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since_seconds: int | None = None
    since_time: str | None = None
    limit_bytes: int | None = None


class PodExecOptions(Model, frozen=True):
    """What `kubectl exec` asks for; with `tty` there is no separate standard error."""

    command: tuple[str, ...] = ()
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class PodAttachOptions(Model, frozen=True):
    """What `kubectl attach` asks for; with `tty` there is no separate standard error."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class ListMeta(Model, frozen=True):
    resource_version: str = ""
    # "continue" is a Python keyword
    continue_: str = msgspec.field(default="", name="continue")


def to_json_types(value: Any) -> Any:
    """A model as plain JSON types, for patches and request bodies."""
    return msgspec.to_builtins(value)
