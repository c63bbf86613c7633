"""The actions on VPCs and subnets."""

from __future__ import annotations

from kci.contract import networks as api
from kci.service.app import networks
from kci.service.http import verification


class NetworkActions:
    """Request in, use case, answer out."""

    def __init__(self, service: networks.NetworkService) -> None:
        self._service = service

    async def create_vpc(self, caller: verification.Verified, request: api.CreateVpc) -> api.CreatedVpc:
        return api.CreatedVpc(vpc=await self._service.create_vpc(caller.identity, request))

    async def describe_vpcs(self, caller: verification.Verified, request: api.DescribeVpcs) -> api.Vpcs:
        return await self._service.describe_vpcs(caller.identity.tenant_id, request)

    async def delete_vpc(self, caller: verification.Verified, request: api.DeleteVpc) -> api.Returned:
        await self._service.delete_vpc(caller.identity, api.check_vpc_id(request.vpc_id))
        return api.Returned()

    async def create_subnet(
        self, caller: verification.Verified, request: api.CreateSubnet
    ) -> api.SubnetAnswer:
        return api.SubnetAnswer(subnet=await self._service.create_subnet(caller.identity, request))

    async def describe_subnets(
        self, caller: verification.Verified, request: api.DescribeSubnets
    ) -> api.Subnets:
        return await self._service.describe_subnets(caller.identity.tenant_id, request)

    async def modify_subnet(
        self, caller: verification.Verified, request: api.ModifySubnet
    ) -> api.SubnetAnswer:
        return api.SubnetAnswer(subnet=await self._service.modify_subnet(caller.identity, request))

    async def delete_subnet(self, caller: verification.Verified, request: api.DeleteSubnet) -> api.Returned:
        await self._service.delete_subnet(caller.identity, api.check_subnet_id(request.subnet_id))
        return api.Returned()
