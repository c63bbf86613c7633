"""What KCI says of groups' usage, as the virtual node understands it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kci.contract import groups, usage
from kci.kube import models
from kci.vnode import provider


def to_pods(found: Iterable[usage.ContainerGroupUsage]) -> tuple[provider.PodUsage, ...]:
    """A group that does not say whose pod it runs is left out, as it is everywhere here."""
    return tuple(_to_pod(one) for one in found if one.label(groups.POD_UUID))


def _to_pod(found: usage.ContainerGroupUsage) -> provider.PodUsage:
    return provider.PodUsage(
        pod_uid=models.PodUid(found.label(groups.POD_UUID)),
        started_at_ns=found.started_at_ns,
        usage=_to_usage(found.usage),
        traffic=None if found.traffic is None else provider.Traffic(**msgspec.structs.asdict(found.traffic)),
        containers=tuple(
            provider.ContainerUsage(
                name=one.name, started_at_ns=one.started_at_ns, usage=_to_usage(one.usage)
            )
            for one in found.containers
        ),
    )


def _to_usage(found: usage.Usage) -> provider.Usage:
    return provider.Usage(**msgspec.structs.asdict(found))
