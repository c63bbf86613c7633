"""Which accounts are to be read of what runs, and what they come to for the groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kci.contract import ids
from kci.kcilet import ports
from kci.kcilet.plan import records
from kci.kube import models
from kci.link import types as link


def to_accounts(
    groups: Mapping[ids.GroupId, ports.SeenPod],
) -> Mapping[models.PodUid, Sequence[ports.ContainerId]]:
    """The containers that run, by pods that have a sandbox."""
    return {
        seen.pod_uid: tuple(one.id for one in seen.containers if one.phase is records.Phase.RUNNING)
        for seen in groups.values()
        if records.current_sandbox(seen) is not None
    }


def to_usages(
    groups: Mapping[ids.GroupId, ports.SeenPod], found: Mapping[models.PodUid, ports.PodUsage]
) -> link.Usages:
    return link.Usages(
        groups=tuple(
            _to_group(group_id, seen, found[seen.pod_uid])
            for group_id, seen in groups.items()
            if seen.pod_uid in found
        )
    )


def _to_group(group_id: ids.GroupId, seen: ports.SeenPod, found: ports.PodUsage) -> link.GroupUsage:
    sandbox = records.newest_sandbox(seen)
    return link.GroupUsage(
        group_id=group_id,
        started_at_ns=0 if sandbox is None else sandbox.created_at_ns,
        usage=found.usage,
        traffic=found.traffic,
        containers=tuple(
            link.ContainerUsage(
                name=one.name, started_at_ns=one.started_at_ns, usage=found.containers[one.id]
            )
            for one in sorted(seen.containers, key=lambda one: one.name)
            if one.id in found.containers
        ),
    )
