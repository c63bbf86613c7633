"""The calls of service `vpc`: networks and security groups, one method per action that we use."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

import msgspec

from kci.client import errors
from kci.contract import errors as catalogue
from kci.contract import groups, networks, operations, security_groups

T = TypeVar("T")
_MAX_PAGES = 1000
# What a service says that does not know the scope, or the action.
_UNKNOWN = (catalogue.INVALID_ACTION.code, catalogue.INCOMPLETE_SIGNATURE.code)


class Caller(Protocol):
    """One signed call, as `KciClient` makes it."""

    async def __call__(
        self, operation: operations.Operation, request: groups.Parameters, kind: type[T], /
    ) -> T: ...


def is_unknown(error: errors.KciError) -> bool:
    """Whether an error of the calls here says that the service has none of them."""
    return error.code in _UNKNOWN


async def known(answer: Awaitable[T]) -> T | None:
    """The answer to one of the calls here; None from a service that has none of them."""
    try:
        return await answer
    except errors.KciError as error:
        if is_unknown(error):
            return None
        raise


class VpcCalls:
    """`call` sends once, `read` may be tried again."""

    def __init__(self, *, call: Caller, read: Caller) -> None:
        self._call = call
        self._read = read

    # ---- VPCs and subnets

    async def create_vpc(self, request: networks.CreateVpc) -> networks.Vpc:
        return (await self._call(operations.CREATE_VPC, request, networks.CreatedVpc)).vpc

    async def list_vpcs(self, ids: Sequence[str] = ()) -> list[networks.Vpc]:
        """All of them, or those of these ids."""
        found: list[networks.Vpc] = []
        request = networks.DescribeVpcs(vpc_id=tuple(ids), max_results=networks.MAX_PAGE)
        for _ in range(_MAX_PAGES):
            page = await self._read(operations.DESCRIBE_VPCS, request, networks.Vpcs)
            found += page.vpc_set
            if not page.next_token:
                return found
            request = msgspec.structs.replace(request, next_token=page.next_token)
        raise _endless("VPCs")

    async def delete_vpc(self, vpc_id: str) -> None:
        await self._call(operations.DELETE_VPC, networks.DeleteVpc(vpc_id=vpc_id), networks.Returned)

    async def create_subnet(self, request: networks.CreateSubnet) -> networks.Subnet:
        return (await self._call(operations.CREATE_SUBNET, request, networks.SubnetAnswer)).subnet

    async def list_subnets(
        self, ids: Sequence[str] = (), *, vpc_ids: Sequence[str] = ()
    ) -> list[networks.Subnet]:
        """All of them, or those of these ids, or VPCs."""
        found: list[networks.Subnet] = []
        of_vpcs = networks.SubnetFilter(name="vpc-id", value=tuple(vpc_ids))
        request = networks.DescribeSubnets(
            subnet_id=tuple(ids), filter=(of_vpcs,) if vpc_ids else (), max_results=networks.MAX_PAGE
        )
        for _ in range(_MAX_PAGES):
            page = await self._read(operations.DESCRIBE_SUBNETS, request, networks.Subnets)
            found += page.subnet_set
            if not page.next_token:
                return found
            request = msgspec.structs.replace(request, next_token=page.next_token)
        raise _endless("subnets")

    async def modify_subnet(self, request: networks.ModifySubnet) -> networks.Subnet:
        return (await self._call(operations.MODIFY_SUBNET, request, networks.SubnetAnswer)).subnet

    async def delete_subnet(self, subnet_id: str) -> None:
        request = networks.DeleteSubnet(subnet_id=subnet_id)
        await self._call(operations.DELETE_SUBNET, request, networks.Returned)

    # ---- security groups

    async def create_security_group(
        self, request: security_groups.CreateSecurityGroup
    ) -> security_groups.SecurityGroup:
        """It lets nothing through yet."""
        answer = await self._call(
            operations.CREATE_SECURITY_GROUP, request, security_groups.CreatedSecurityGroup
        )
        return answer.security_group

    async def list_security_groups(
        self, ids: Sequence[str] = (), *, vpc_ids: Sequence[str] = ()
    ) -> list[security_groups.SecurityGroup]:
        """All of them, or those of these ids, or VPCs."""
        found: list[security_groups.SecurityGroup] = []
        of_vpcs = security_groups.SecurityGroupFilter(name="vpc-id", value=tuple(vpc_ids))
        request = security_groups.DescribeSecurityGroups(
            security_group_id=tuple(ids), filter=(of_vpcs,) if vpc_ids else (), max_results=networks.MAX_PAGE
        )
        for _ in range(_MAX_PAGES):
            page = await self._read(
                operations.DESCRIBE_SECURITY_GROUPS, request, security_groups.SecurityGroups
            )
            found += page.security_group_set
            if not page.next_token:
                return found
            request = msgspec.structs.replace(request, next_token=page.next_token)
        raise _endless("security groups")

    async def modify_security_group(
        self, request: security_groups.ModifySecurityGroup
    ) -> security_groups.SecurityGroup:
        return await self._call(operations.MODIFY_SECURITY_GROUP, request, security_groups.SecurityGroup)

    async def delete_security_group(self, security_group_id: str) -> None:
        request = security_groups.DeleteSecurityGroup(security_group_id=security_group_id)
        await self._call(operations.DELETE_SECURITY_GROUP, request, networks.Returned)

    async def authorize_security_group_entry(
        self, request: security_groups.AuthorizeSecurityGroupEntry
    ) -> str:
        """The new entry's id."""
        answer = await self._call(
            operations.AUTHORIZE_SECURITY_GROUP_ENTRY, request, security_groups.Authorized
        )
        return next(iter(answer.security_group_entry_id_set), "")

    async def revoke_security_group_entry(self, security_group_id: str, entry_id: str) -> None:
        request = security_groups.RevokeSecurityGroupEntry(
            security_group_id=security_group_id, security_group_entry_id=entry_id
        )
        await self._call(operations.REVOKE_SECURITY_GROUP_ENTRY, request, networks.Returned)


def _endless(what: str) -> errors.KciError:
    return errors.UnreachableError(f"cannot list {what}: more than {_MAX_PAGES} pages")
