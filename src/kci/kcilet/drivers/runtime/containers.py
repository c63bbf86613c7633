"""A container in the CRI's words.

Ported from pkg/kubelet/kuberuntime/kuberuntime_container.go (1.36).
"""

from __future__ import annotations

import re

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import labels, resources, security
from kci.kcilet.drivers.runtime.api import api_pb2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_PROPAGATION = {
    "": api_pb2.MountPropagation.PROPAGATION_PRIVATE,
    "None": api_pb2.MountPropagation.PROPAGATION_PRIVATE,
    "HostToContainer": api_pb2.MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
}


def to_container_config(
    spec: ports.ContainerSpec, *, image_user: str, machine_memory_bytes: int
) -> api_pb2.ContainerConfig:
    """Raises ContainerError (CreateContainerConfigError) for what must not or cannot run."""
    container = spec.container
    if not _NAME.fullmatch(container.name):
        # It becomes a part of paths, and a user's API server may say anything.
        raise ports.ContainerError(
            "CreateContainerConfigError", f"cannot use {container.name[:64]!r} as a container's name"
        )
    return api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name=container.name, attempt=spec.attempt),
        image=api_pb2.ImageSpec(image=spec.image_id, user_specified_image=container.image),
        command=container.command,
        args=container.args,
        working_dir=container.working_dir,
        envs=[api_pb2.KeyValue(key=key, value=value.encode()) for key, value in spec.env.items()],
        mounts=[_to_mount(container.name, mount) for mount in spec.mounts],
        labels={**labels.of_pod(spec.pod), labels.CONTAINER_NAME: container.name},
        annotations=_to_annotations(spec),
        log_path=to_log_path(container.name, spec.attempt),
        stdin=container.stdin,
        stdin_once=container.stdin_once,
        tty=container.tty,
        linux=api_pb2.LinuxContainerConfig(
            resources=resources.to_linux_resources(spec, machine_memory_bytes=machine_memory_bytes),
            security_context=security.to_container_context(spec.pod, container, image_user=image_user),
        ),
    )


def _to_annotations(spec: ports.ContainerSpec) -> dict[str, str]:
    """What must be known of it when nobody can be asked about its pod."""
    grace_s = spec.pod.spec.termination_grace_period_seconds
    told = {} if grace_s is None else {labels.GRACE: str(grace_s)}
    return {labels.RESTART_COUNT: str(spec.attempt), **told}


def to_log_path(name: str, attempt: int) -> str:
    """Relative to the sandbox's log directory."""
    return f"{name}/{attempt}.log"


def _to_mount(container: str, mount: ports.Mount) -> api_pb2.Mount:
    if mount.propagation not in _PROPAGATION:
        raise ports.ContainerError(
            "CreateContainerConfigError",
            f"cannot mount {mount.container_path} into container {container!r}: "
            f"mountPropagation {mount.propagation} would need a privileged container",
        )
    return api_pb2.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.read_only,
        propagation=_PROPAGATION[mount.propagation],
    )
