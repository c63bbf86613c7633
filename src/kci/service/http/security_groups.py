"""The actions on security groups."""

from __future__ import annotations

from kci.contract import networks as networks_api
from kci.contract import security_groups as api
from kci.service.app import security_groups
from kci.service.http import verification


class SecurityGroupActions:
    """Request in, use case, answer out."""

    def __init__(self, service: security_groups.SecurityGroupService) -> None:
        self._service = service

    async def create(
        self, caller: verification.Verified, request: api.CreateSecurityGroup
    ) -> api.CreatedSecurityGroup:
        made = await self._service.create(caller.identity, request)
        return api.CreatedSecurityGroup(security_group=made)

    async def describe(
        self, caller: verification.Verified, request: api.DescribeSecurityGroups
    ) -> api.SecurityGroups:
        return await self._service.describe(caller.identity.tenant_id, request)

    async def modify(
        self, caller: verification.Verified, request: api.ModifySecurityGroup
    ) -> api.SecurityGroup:
        return await self._service.modify(caller.identity, request)

    async def delete(
        self, caller: verification.Verified, request: api.DeleteSecurityGroup
    ) -> networks_api.Returned:
        security_group_id = api.check_security_group_id(request.security_group_id)
        await self._service.delete(caller.identity, security_group_id)
        return networks_api.Returned()

    async def authorize(
        self, caller: verification.Verified, request: api.AuthorizeSecurityGroupEntry
    ) -> api.Authorized:
        rule_id = await self._service.authorize(caller.identity, request)
        return api.Authorized(security_group_entry_id_set=(rule_id,))

    async def revoke(
        self, caller: verification.Verified, request: api.RevokeSecurityGroupEntry
    ) -> networks_api.Returned:
        security_group_id = api.check_security_group_id(request.security_group_id)
        rule_id = api.check_rule_id(request.security_group_entry_id)
        await self._service.revoke(caller.identity, security_group_id, rule_id)
        return networks_api.Returned()
