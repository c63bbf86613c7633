"""What the runtime answers, as the ports' values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import labels
from kci.kcilet.drivers.runtime.api import api_pb2
from kci.kube import models

# Kubernetes' own default, for a container that does not say.
_DEFAULT_GRACE_S = 30
_PHASES = {
    api_pb2.ContainerState.CONTAINER_CREATED: ports.ContainerPhase.CREATED,
    api_pb2.ContainerState.CONTAINER_RUNNING: ports.ContainerPhase.RUNNING,
    api_pb2.ContainerState.CONTAINER_EXITED: ports.ContainerPhase.EXITED,
    api_pb2.ContainerState.CONTAINER_UNKNOWN: ports.ContainerPhase.UNKNOWN,
}


@dataclasses.dataclass(frozen=True)
class Listing:
    """The runtime's two lists, the one of sandboxes taken first."""

    sandboxes: Sequence[api_pb2.PodSandbox]
    containers: Sequence[api_pb2.Container]

    def of(self, pod_uid: models.PodUid) -> Listing:
        return self._by_pod.get(pod_uid) or Listing([], [])

    @functools.cached_property
    def _by_pod(self) -> dict[models.PodUid, Listing]:
        """Once for all who share the look."""
        found: dict[models.PodUid, tuple[list[api_pb2.PodSandbox], list[api_pb2.Container]]] = {}
        for sandbox in self.sandboxes:
            found.setdefault(models.PodUid(sandbox.metadata.uid), ([], []))[0].append(sandbox)
        for container in self.containers:
            found.setdefault(models.PodUid(container.labels[labels.POD_UID]), ([], []))[1].append(container)
        return {pod_uid: Listing(*lists) for pod_uid, lists in found.items()}


def to_container(listed: api_pb2.Container, status: api_pb2.ContainerStatus | None) -> ports.SeenContainer:
    """Without a status (a container that was never started) only what the list says."""
    if status is None:
        status = api_pb2.ContainerStatus(
            image=listed.image, image_ref=listed.image_ref, state=listed.state, created_at=listed.created_at
        )
    return ports.SeenContainer(
        id=ports.ContainerId(listed.id),
        sandbox_id=ports.SandboxId(listed.pod_sandbox_id),
        name=listed.metadata.name,
        attempt=listed.metadata.attempt,
        phase=_PHASES[status.state],
        image=status.image.image,
        image_id=status.image_ref,
        created_at_ns=status.created_at,
        started_at_ns=status.started_at,
        finished_at_ns=status.finished_at,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        log_path=status.log_path,
        grace_s=_to_grace_s(listed.annotations.get(labels.GRACE, "")),
    )


def _to_grace_s(text: str) -> int:
    return int(text) if text.isdecimal() else _DEFAULT_GRACE_S


def to_sandbox(listed: api_pb2.PodSandbox, address: str) -> ports.SeenSandbox:
    return ports.SeenSandbox(
        id=ports.SandboxId(listed.id),
        pod_uid=models.PodUid(listed.metadata.uid),
        namespace=listed.metadata.namespace,
        name=listed.metadata.name,
        attempt=listed.metadata.attempt,
        ready=listed.state == api_pb2.PodSandboxState.SANDBOX_READY,
        created_at_ns=listed.created_at,
        address=address,
        group_id=listed.labels.get(labels.GROUP_ID, ""),
    )


def to_pods(
    sandboxes: Iterable[ports.SeenSandbox], containers: Mapping[models.PodUid, list[ports.SeenContainer]]
) -> list[ports.SeenPod]:
    """Grouped by pod UID: newest sandbox first, newest attempt of a container first."""
    by_pod: dict[models.PodUid, list[ports.SeenSandbox]] = {pod_uid: [] for pod_uid in containers}
    for sandbox in sandboxes:
        by_pod.setdefault(sandbox.pod_uid, []).append(sandbox)
    return [
        ports.SeenPod(
            pod_uid=pod_uid,
            sandboxes=tuple(sorted(own, key=lambda s: (-s.created_at_ns, -s.attempt))),
            containers=tuple(
                sorted(containers.get(pod_uid, ()), key=lambda c: (c.name, -c.attempt, -c.created_at_ns))
            ),
        )
        for pod_uid, own in by_pod.items()
    ]
