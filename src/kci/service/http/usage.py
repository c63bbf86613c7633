"""The action that tells what groups use."""

from __future__ import annotations

from kci.contract import usage as api
from kci.service.app import usage
from kci.service.http import verification


class UsageActions:
    """Request in, use case, answer out."""

    def __init__(self, service: usage.UsageService) -> None:
        self._service = service

    async def describe(
        self, caller: verification.Verified, request: api.DescribeContainerGroupUsage
    ) -> api.ContainerGroupUsages:
        return await self._service.describe(caller.identity.tenant_id, request)
