"""What KCI says of a group, as the virtual node understands it: one line for each status. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from kci.contract import groups
from kci.kube import models
from kci.provider.plan import names
from kci.vnode import provider

_PHASES: Mapping[str, provider.Phase] = {
    "Scheduling": provider.Phase.PENDING,
    "Pending": provider.Phase.PENDING,
    "ImagePulling": provider.Phase.PENDING,
    "Running": provider.Phase.RUNNING,
    "Succeeded": provider.Phase.ENDED,
    "Failed": provider.Phase.ENDED,
    # The machine below did not come up: nothing ran, and nothing will.
    "CreateError": provider.Phase.CREATE_FAILED,
}


def is_ours(group: groups.ContainerGroup, *, cluster_id: str, node_name: str) -> bool:
    """Whether a group was made by this node of this cluster; all others are none of our business."""
    return group.label(groups.CLUSTER_ID) == cluster_id and group.label(groups.NODE_NAME) == node_name


def to_instance(group: groups.ContainerGroup) -> provider.Instance | None:
    """None if it cannot be told whose pod it runs: such a group is left alone."""
    uid = group.label(groups.POD_UUID) or names.to_uid(group.container_group_name)
    if not uid:
        return None
    return provider.Instance(
        id=provider.InstanceId(group.container_group_id),
        pod_uid=models.PodUid(uid),
        phase=_PHASES.get(group.status, provider.Phase.UNKNOWN),
        created_at=group.create_time,
        message=group.status_message,
    )
