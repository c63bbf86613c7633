"""Security contexts: the pod's and the container's merged, checked and in the CRI's words.

Ported from pkg/securitycontext/util.go and pkg/kubelet/kuberuntime/security_context*.go (1.36).
What differs is stricter: an empty seccomp profile is RuntimeDefault, and what would open the
machine to a tenant (privileged, no seccomp, profiles from the machine, unmasked proc) is an error.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TypeVar

from kci.kcilet import ports
from kci.kcilet.drivers.runtime.api import api_pb2
from kci.kube import models

T = TypeVar("T")

# Dropped unless the container adds them itself. Empty is the kubelet's behaviour, which images
# rely on (ping); put "NET_RAW" here to refuse ARP and DNS spoofing by default.
DROPPED_BY_DEFAULT: tuple[str, ...] = ()

# What it takes to become `pause` and to wait: a quarter of RuntimeDefault's list. A profile is compiled anew
# for each container, which costs 15 ms of CPU for RuntimeDefault and 5 ms for this one (runc 1.1.5).
PAUSE_PROFILE = pathlib.Path(__file__).with_name("pause-seccomp.json")

_MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclasses.dataclass(frozen=True)
class _Effective:
    """What holds for a container: its own fields win over the pod's."""

    run_as_user: int | None
    run_as_group: int | None
    run_as_non_root: bool
    seccomp: models.SeccompProfile
    own: models.SecurityContext


def to_sandbox_context(pod: models.Pod) -> api_pb2.LinuxSandboxSecurityContext:
    """The pause process runs as the pod says, always under a seccomp profile of its own."""
    context = pod.spec.security_context or models.PodSecurityContext()
    return api_pb2.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(pod),
        run_as_user=_int64(context.run_as_user),
        run_as_group=_int64(context.run_as_group),
        supplemental_groups=_supplemental_groups(context),
        seccomp=api_pb2.SecurityProfile(
            profile_type=api_pb2.SecurityProfile.Localhost, localhost_ref=str(PAUSE_PROFILE)
        ),
    )


def to_container_context(
    pod: models.Pod, container: models.Container, *, image_user: str
) -> api_pb2.LinuxContainerSecurityContext:
    """`image_user` is the image's: a number, a name, or empty for root. Raises ContainerError."""
    effective = _merge(pod, container)
    _check_allowed(container.name, effective)
    _check_non_root(container.name, effective, image_user)
    user, name = effective.run_as_user, ""
    if user is None:
        user, name = (int(image_user or 0), "") if _is_number(image_user or "0") else (None, image_user)
    capabilities = effective.own.capabilities or models.Capabilities()
    return api_pb2.LinuxContainerSecurityContext(
        capabilities=api_pb2.Capability(
            add_capabilities=capabilities.add,
            drop_capabilities=(
                *capabilities.drop,
                *(name for name in DROPPED_BY_DEFAULT if name not in capabilities.add),
            ),
        ),
        namespace_options=_namespaces(pod),
        run_as_user=_int64(user),
        run_as_username=name,
        run_as_group=_int64(effective.run_as_group),
        readonly_rootfs=bool(effective.own.read_only_root_filesystem),
        supplemental_groups=_supplemental_groups(pod.spec.security_context or models.PodSecurityContext()),
        no_new_privs=effective.own.allow_privilege_escalation is False,
        masked_paths=_MASKED_PATHS,
        readonly_paths=_READ_ONLY_PATHS,
        seccomp=_runtime_default(),
    )


def _merge(pod: models.Pod, container: models.Container) -> _Effective:
    own = container.security_context or models.SecurityContext()
    shared = pod.spec.security_context or models.PodSecurityContext()
    return _Effective(
        run_as_user=_first(own.run_as_user, shared.run_as_user),
        run_as_group=_first(own.run_as_group, shared.run_as_group),
        run_as_non_root=bool(_first(own.run_as_non_root, shared.run_as_non_root)),
        seccomp=_first(own.seccomp_profile, shared.seccomp_profile) or models.SeccompProfile(),
        own=own,
    )


def _check_allowed(name: str, effective: _Effective) -> None:
    """Refused before a pod gets here (kube/admission.py); here again, because here it would take effect."""
    wrong = ""
    if effective.own.privileged:
        wrong = "securityContext.privileged is true"
    elif effective.seccomp.type not in {"", "RuntimeDefault"}:
        wrong = f"securityContext.seccompProfile.type is {effective.seccomp.type!r}, not RuntimeDefault"
    elif effective.own.proc_mount not in {None, "", "Default"}:
        wrong = f"securityContext.procMount is {effective.own.proc_mount!r}, not Default"
    if wrong:
        raise _config_error(f"cannot run container {name!r}: {wrong}")


def _check_non_root(name: str, effective: _Effective, image_user: str) -> None:
    if not effective.run_as_non_root:
        return
    if effective.run_as_user is not None:
        if effective.run_as_user == 0:
            raise _config_error(f"cannot run container {name!r}: runAsUser 0 breaks its runAsNonRoot")
        return
    if not _is_number(image_user or "0"):
        raise _config_error(
            f"cannot run container {name!r}: it has runAsNonRoot and its image's user {image_user!r} is no "
            "number, so that nobody can tell whether it is root; set runAsUser"
        )
    if int(image_user or 0) == 0:
        raise _config_error(
            f"cannot run container {name!r}: it has runAsNonRoot and its image runs as root; set runAsUser"
        )


def _config_error(message: str) -> ports.ContainerError:
    return ports.ContainerError("CreateContainerConfigError", message)


def _namespaces(pod: models.Pod) -> api_pb2.NamespaceOption:
    """Always the pod's own network and IPC; never the machine's anything."""
    shared = pod.spec.share_process_namespace
    return api_pb2.NamespaceOption(
        network=api_pb2.NamespaceMode.POD,
        ipc=api_pb2.NamespaceMode.POD,
        pid=api_pb2.NamespaceMode.POD if shared else api_pb2.NamespaceMode.CONTAINER,
    )


def _supplemental_groups(context: models.PodSecurityContext) -> tuple[int, ...]:
    fs_group = () if context.fs_group is None else (context.fs_group,)
    return (*fs_group, *context.supplemental_groups)


def _runtime_default() -> api_pb2.SecurityProfile:
    return api_pb2.SecurityProfile(profile_type=api_pb2.SecurityProfile.RuntimeDefault)


def _int64(value: int | None) -> api_pb2.Int64Value | None:
    return None if value is None else api_pb2.Int64Value(value=value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _first(own: T | None, shared: T | None) -> T | None:
    return shared if own is None else own
