"""What no runner of ours can run faithfully, found before anything is made. Pure.

Such a pod stays Pending with these sentences, because a pod that runs otherwise than it was written is worse
than one that waits. The rules are the vendor guide's list (host namespaces, hostPath, privileged,
DaemonSets) and what the kcilet does not do yet; a rule goes when its feature comes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from kci.kube import models, reasons

# Ported from Kubernetes v1.36.3 pkg/kubelet/sysctl/safe_sysctls.go: all are the pod's own.
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})
_CONTENT_KINDS = ("empty_dir", "config_map", "secret", "downward_api", "projected")
_DIRECTORY = "use emptyDir, configMap, secret, downwardAPI or projected"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One field that cannot be granted; `message` names it and the remedy."""

    field: str
    reason: reasons.OfRefusal
    message: str


def refusals(pod: models.Pod) -> list[Refusal]:
    """Everything that stands against running this pod, in the order of its fields; empty if nothing does."""
    found = [
        *_of_owner(pod),
        *_of_pod(pod.spec),
        *_of_pod_security(pod.spec.security_context or models.PodSecurityContext()),
        *(
            refusal
            for number, volume in enumerate(pod.spec.volumes)
            for refusal in _of_volume(number, volume)
        ),
    ]
    for number, container in enumerate(pod.spec.init_containers):
        # With the one policy that an init container may have it is a sidecar.
        policy = None if container.is_sidecar else container.restart_policy
        found.extend(_of_container(f"spec.initContainers[{number}]", container, restart_policy=policy))
    for number, container in enumerate(pod.spec.containers):
        policy = container.restart_policy
        found.extend(_of_container(f"spec.containers[{number}]", container, restart_policy=policy))
    return found


def _refuse(field: str, reason: reasons.OfRefusal, why: str, remedy: str) -> Refusal:
    return Refusal(field, reason, f"{field}: {why}; {remedy}")


def _of_owner(pod: models.Pod) -> Iterator[Refusal]:
    for number, owner in enumerate(pod.metadata.owner_references):
        if owner.controller and owner.kind == "DaemonSet":
            yield _refuse(
                f"metadata.ownerReferences[{number}]",
                "DaemonSetNotSupported",
                "a virtual node has no machine for a DaemonSet to serve",
                f"keep DaemonSet {owner.name} away by node affinity: type NotIn [virtual-kubelet]",
            )


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Refuses a pod whose spec sets a field."""

    field: str
    reason: reasons.OfRefusal
    is_set: Callable[[models.PodSpec], object]
    why: str = "it is not supported yet"
    remedy: str = "remove it"


_NO_MACHINE = "the pod shares no machine with others"
_POD_RULES = (
    _Rule("hostNetwork", "HostNetworkNotSupported", lambda spec: spec.host_network, _NO_MACHINE),
    _Rule("hostPID", "HostPidNotSupported", lambda spec: spec.host_pid, _NO_MACHINE),
    _Rule("hostIPC", "HostIpcNotSupported", lambda spec: spec.host_ipc, _NO_MACHINE),
    _Rule("hostUsers", "UserNamespaceNotSupported", lambda spec: spec.host_users is False),
    _Rule(
        "hostnameOverride",
        "HostnameOverrideNotSupported",
        lambda spec: spec.hostname_override,
        remedy="use hostname",
    ),
    _Rule(
        "ephemeralContainers",
        "EphemeralContainersNotSupported",
        lambda spec: spec.ephemeral_containers,
        remedy="use kubectl exec",
    ),
    _Rule(
        "runtimeClassName",
        "RuntimeClassNotSupported",
        lambda spec: spec.runtime_class_name,
        "the node chooses the runtime",
    ),
    _Rule(
        "resourceClaims",
        "ResourceClaimsNotSupported",
        lambda spec: spec.resource_claims,
        "the node has no devices",
    ),
    _Rule(
        "os.name",
        "OsNotSupported",
        lambda spec: (spec.os or {}).get("name", "linux") != "linux",
        "only linux runs here",
        "schedule the pod on another node",
    ),
)


def _of_pod(spec: models.PodSpec) -> Iterator[Refusal]:
    for rule in _POD_RULES:
        if rule.is_set(spec):
            yield _refuse(f"spec.{rule.field}", rule.reason, rule.why, rule.remedy)


def _of_pod_security(context: models.PodSecurityContext) -> Iterator[Refusal]:
    path = "spec.securityContext"
    yield from _of_profiles(path, context.seccomp_profile, context.app_armor_profile)
    if context.supplemental_groups_policy not in {None, "", "Merge"}:
        yield _refuse(
            f"{path}.supplementalGroupsPolicy",
            "SupplementalGroupsPolicyNotSupported",
            "groups of the image are always merged",
            "use Merge",
        )
    for number, sysctl in enumerate(context.sysctls):
        if sysctl.name not in SAFE_SYSCTLS:
            yield _refuse(
                f"{path}.sysctls[{number}]",
                "SysctlForbidden",
                f"{sysctl.name} is not among the safe sysctls",
                "remove it",
            )


def _of_volume(number: int, volume: models.Volume) -> Iterator[Refusal]:
    path = f"spec.volumes[{number}]"
    if volume.host_path is not None:
        yield _refuse(f"{path}.hostPath", "HostPathNotSupported", "there is no machine of yours", _DIRECTORY)
    elif all(getattr(volume, kind) is None for kind in _CONTENT_KINDS):
        yield _refuse(
            path,
            "VolumeKindNotSupported",
            f"the kind of volume {volume.name!r} is not supported yet",
            _DIRECTORY,
        )
    if volume.empty_dir is not None and volume.empty_dir.medium not in {"", "Memory"}:
        yield _refuse(
            f"{path}.emptyDir.medium",
            "VolumeMediumNotSupported",
            f"there is no medium {volume.empty_dir.medium!r}",
            "leave it empty or use Memory",
        )
    sources = volume.projected.sources if volume.projected else None
    for index, source in enumerate(sources or ()):
        if not any((source.config_map, source.secret, source.downward_api, source.service_account_token)):
            yield _refuse(
                f"{path}.projected.sources[{index}]",
                "VolumeKindNotSupported",
                "this kind of source is not supported yet",
                "use configMap, secret, downwardAPI or serviceAccountToken",
            )


def _of_container(path: str, container: models.Container, *, restart_policy: str | None) -> Iterator[Refusal]:
    features: dict[str, tuple[reasons.OfRefusal, object]] = {
        "lifecycle": ("LifecycleHooksNotSupported", container.lifecycle),
        "volumeDevices": ("BlockVolumesNotSupported", container.volume_devices),
        "restartPolicy": ("ContainerRestartPolicyNotSupported", restart_policy),
    }
    for field, (reason, value) in features.items():
        if value:
            yield _refuse(f"{path}.{field}", reason, "it is not supported yet", "remove it")
    checks: tuple[Callable[[str, models.Container], Iterator[Refusal]], ...] = (
        _of_security,
        _of_ports,
        _of_resources,
        _of_variables,
        _of_mounts,
    )
    for check in checks:
        yield from check(path, container)


def _of_security(path: str, container: models.Container) -> Iterator[Refusal]:
    context = container.security_context or models.SecurityContext()
    path = f"{path}.securityContext"
    if context.privileged:
        yield _refuse(
            f"{path}.privileged",
            "PrivilegedNotSupported",
            "no container may control the machine",
            "remove it, and add single capabilities if needed",
        )
    if context.proc_mount not in {None, "", "Default"}:
        yield _refuse(f"{path}.procMount", "ProcMountNotSupported", "only Default is granted", "remove it")
    yield from _of_profiles(path, context.seccomp_profile, context.app_armor_profile)


def _of_profiles(
    path: str, seccomp: models.SeccompProfile | None, app_armor: models.AppArmorProfile | None
) -> Iterator[Refusal]:
    if seccomp is not None and seccomp.type not in {"", "RuntimeDefault"}:
        yield _refuse(
            f"{path}.seccompProfile",
            "SeccompProfileNotSupported",
            f"type {seccomp.type} is not granted",
            "use RuntimeDefault",
        )
    if app_armor is not None and app_armor.type == "Localhost":
        yield _refuse(
            f"{path}.appArmorProfile",
            "AppArmorProfileNotSupported",
            "there is no machine of yours with that profile",
            "remove it",
        )


def _of_ports(path: str, container: models.Container) -> Iterator[Refusal]:
    for number, port in enumerate(container.ports):
        if port.host_port:
            yield _refuse(
                f"{path}.ports[{number}].hostPort",
                "HostPortNotSupported",
                "the pod has an address of its own",
                "remove it and use the pod's address or a Service",
            )


def _of_resources(path: str, container: models.Container) -> Iterator[Refusal]:
    resources = container.resources
    for name in sorted({*resources.limits, *resources.requests} - _RESOURCES):
        yield _refuse(
            f"{path}.resources",
            "ResourceNotSupported",
            f"the node has no {name}",
            "remove it from the container",
        )


def _of_variables(path: str, container: models.Container) -> Iterator[Refusal]:
    for number, variable in enumerate(container.env):
        if variable.value_from is not None and variable.value_from.file_key_ref is not None:
            yield _refuse(
                f"{path}.env[{number}].valueFrom.fileKeyRef",
                "EnvFilesNotSupported",
                "it is not supported yet",
                "use a configMapKeyRef or secretKeyRef",
            )


def _of_mounts(path: str, container: models.Container) -> Iterator[Refusal]:
    for number, mount in enumerate(container.volume_mounts):
        if mount.mount_propagation == "Bidirectional":
            yield _refuse(
                f"{path}.volumeMounts[{number}].mountPropagation",
                "MountPropagationNotSupported",
                "Bidirectional needs a privileged container",
                "use None or HostToContainer",
            )
        if mount.recursive_read_only == "Enabled":
            yield _refuse(
                f"{path}.volumeMounts[{number}].recursiveReadOnly",
                "RecursiveReadOnlyNotSupported",
                "the runtime cannot promise it",
                "use IfPossible",
            )
