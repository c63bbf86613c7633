"""The pod controller's view of the API server: three calls and one event, behind a port of its own."""

from __future__ import annotations

from typing import Any, Protocol

from kci.kit import crashpoints
from kci.kube import client as clients
from kci.kube import events, models, reasons, resources
from kci.vnode import leadership

FIELD_MANAGER = "virtual-kubelet"


class PodApi(Protocol):
    """All raise errors of kube/errors.py, and the writes NotLeaderError. Every write has the UID as a
    precondition.
    """

    async def patch_status(self, pod: models.Pod, patch: dict[str, Any]) -> None: ...

    async def remove_pod(self, pod: models.Pod) -> None:
        """Remove the object at once, whatever its grace period: nothing runs it any more."""
        ...

    async def list_pod_uids(self) -> set[models.PodUid]:
        """Every pod of this node, read now and complete."""
        ...


class EventSink(Protocol):
    """Takes events and never blocks."""

    def warn(self, pod: models.Pod, reason: reasons.Reason, message: str) -> None: ...

    def tell(self, pod: models.Pod, reason: reasons.Reason, message: str) -> None: ...


class ClusterPodApi:
    """The real one."""

    def __init__(self, client: clients.Client, *, node_name: str, right: leadership.Right) -> None:
        self._client = client
        self._node_name = node_name
        self._right = right

    async def patch_status(self, pod: models.Pod, patch: dict[str, Any]) -> None:
        self._right.require()
        crashpoints.reached("vnode.patch_pod_status.before")
        await self._client.patch(
            resources.PODS,
            pod.metadata.name,
            patch,
            namespace=pod.metadata.namespace,
            subresource="status",
            patch_type=clients.PatchType.STRATEGIC,
            field_manager=FIELD_MANAGER,
        )
        crashpoints.reached("vnode.patch_pod_status.after")

    async def remove_pod(self, pod: models.Pod) -> None:
        self._right.require()
        crashpoints.reached("vnode.remove_pod.before")
        await self._client.delete(
            resources.PODS,
            pod.metadata.name,
            namespace=pod.metadata.namespace,
            uid=pod.metadata.uid,
            grace_period_s=0,
        )
        crashpoints.reached("vnode.remove_pod.after")

    async def list_pod_uids(self) -> set[models.PodUid]:
        selector = pod_selector(self._node_name)
        listing = await self._client.list_all(resources.PODS, field_selector=selector)
        # What cannot be read is there all the same, and what runs it must not be taken for nobody's.
        unreadable = {models.PodUid(meta.uid) for meta in listing.unreadable}
        return {pod.uid for pod in listing.items} | unreadable


class RecordedEvents:
    """EventSink onto Kubernetes' Events."""

    def __init__(self, recorder: events.EventRecorder) -> None:
        self._recorder = recorder

    def warn(self, pod: models.Pod, reason: reasons.Reason, message: str) -> None:
        self._recorder.record(events.of_pod(pod), type=events.WARNING, reason=reason, message=message)

    def tell(self, pod: models.Pod, reason: reasons.Reason, message: str) -> None:
        self._recorder.record(events.of_pod(pod), type=events.NORMAL, reason=reason, message=message)


def pod_selector(node_name: str) -> str:
    """All a node may ask for (Node authorizer), and all it needs."""
    return f"spec.nodeName={node_name}"
