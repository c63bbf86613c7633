"""What a tenant's groups use: the engine's word of the moment, which nothing here keeps in the store.

Who asks within a second of another is given the same; the engine has one machine's pods to look at, however
many nodes and tenants they belong to.
"""

from __future__ import annotations

import msgspec

from kci.contract import errors, ids
from kci.contract import groups as api
from kci.contract import usage as usage_api
from kci.kit import kept
from kci.link import types as link
from kci.service.app import groups
from kci.service.domain import groups as domain
from kci.service.engines import port

KEPT_S = 1.0


class UsageService:
    """The use case."""

    def __init__(self, service: groups.GroupService, engine: port.Engine) -> None:
        self._groups = service
        self._kept = kept.Kept(engine.read_usage, for_s=KEPT_S)

    async def describe(
        self, tenant_id: ids.TenantId, request: usage_api.DescribeContainerGroupUsage
    ) -> usage_api.ContainerGroupUsages:
        """Of the tenant's groups alone, whatever the engine tells."""
        own = {
            group.group_id: group
            for group in await self._groups.list_unfinished(tenant_id)
            if group.is_of(cluster_id=request.cluster_id, node_name=request.node_name)
        }
        if not own:
            return usage_api.ContainerGroupUsages()
        try:
            found = await self._kept.get()
        except port.EngineError as error:
            raise errors.ApiError(errors.SERVICE_UNAVAILABLE, str(error), retry_after_s=1) from error
        return usage_api.ContainerGroupUsages(
            container_group_usages=tuple(
                to_answer(own[one.group_id], one) for one in found.groups if one.group_id in own
            )
        )


def to_answer(group: domain.Group, found: link.GroupUsage) -> usage_api.ContainerGroupUsage:
    return usage_api.ContainerGroupUsage(
        container_group_id=group.group_id,
        labels=tuple(api.LabelValue(key=label.key, value=label.value) for label in group.request.label),
        started_at_ns=found.started_at_ns,
        usage=_to_usage(found.usage),
        traffic=None if found.traffic is None else usage_api.Traffic(**msgspec.structs.asdict(found.traffic)),
        containers=tuple(
            usage_api.ContainerUsage(
                name=one.name, started_at_ns=one.started_at_ns, usage=_to_usage(one.usage)
            )
            for one in found.containers
        ),
    )


def _to_usage(found: link.Usage) -> usage_api.Usage:
    return usage_api.Usage(**msgspec.structs.asdict(found))
