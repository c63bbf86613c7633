"""Security groups: their use cases, and what a machine needs to know of them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Protocol, TypeVar

import structlog

from kci.contract import errors, ids
from kci.contract import networks as networks_api
from kci.contract import security_groups as api
from kci.kit import clock, crashpoints
from kci.link import types as link
from kci.service.app import accounts, replays, views
from kci.service.domain import security_groups as domain
from kci.service.store import database
from kci.service.store import groups as groups_table
from kci.service.store import networks as networks_table
from kci.service.store import security_groups as table

T = TypeVar("T")
log = structlog.get_logger(__name__)


class SecurityGroupSource(Protocol):
    async def security_groups(self) -> link.SecurityGroups:
        """All that groups may name, as they are now; each change has a higher generation."""
        ...


class SecurityGroupService:
    """The use cases; each signed call has its effect once only. `on_change` is called after each change of
    what `security_groups` gives.
    """

    def __init__(
        self,
        store: database.Database,
        clock: clock.Clock,
        replays: replays.Replays,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._replays = replays
        self._on_change = on_change
        # What was given last.
        self._given: link.SecurityGroups | None = None

    # ---- for the reconcilers

    async def security_groups(self) -> link.SecurityGroups:
        """All that there are, also those which no group names yet: so a machine knows a security group before
        the first instance of it starts. The generation grows with each change, past restarts, and stays as
        long as nothing changes and the service runs.
        """

        def work(session: database.Session) -> link.SecurityGroups:
            found = table.list_all_security_groups(session)
            rules: dict[ids.SecurityGroupId, list[domain.Rule]] = {one.security_group_id: [] for one in found}
            for rule in table.list_all_rules(session):
                rules[rule.security_group_id].append(rule)
            return link.SecurityGroups(
                # Of the whole store: it needs no count of its own, and is guarded against loss.
                generation=database.get_changes(session),
                security_groups=tuple(
                    link.SecurityGroup(
                        security_group_id=security_group_id,
                        rules=tuple(views.to_link_rule(rule) for rule in theirs),
                    )
                    for security_group_id, theirs in rules.items()
                ),
            )

        now = await self._store.run(work)
        if self._given is None or self._given.security_groups != now.security_groups:
            self._given = now
        return self._given

    # ---- the API

    async def create(self, caller: accounts.Identity, request: api.CreateSecurityGroup) -> api.SecurityGroup:
        api.check_create_security_group(request)
        now = self._clock.now()

        def work(session: database.Session) -> domain.SecurityGroup:
            vpc_id = networks_api.check_vpc_id(request.vpc_id)
            if networks_table.get_vpc(session, vpc_id, tenant_id=caller.tenant_id) is None:
                raise errors.ApiError(errors.VPC_NOT_FOUND, parameter="VpcId")
            _, count = table.list_security_groups(session, caller.tenant_id, (), offset=0, limit=0)
            if count >= domain.MAX_SECURITY_GROUPS:
                raise errors.ApiError(
                    errors.LIMIT_EXCEEDED,
                    f"cannot make more than {domain.MAX_SECURITY_GROUPS} security groups; delete one first",
                )
            group = domain.SecurityGroup(
                security_group_id=ids.SecurityGroupId(str(uuid.uuid4())),
                vpc_id=vpc_id,
                tenant_id=caller.tenant_id,
                created_at=now,
                name=request.security_group_name,
                description=request.description,
            )
            crashpoints.reached("service.create_security_group.before")
            table.insert_security_group(session, group)
            crashpoints.reached("service.create_security_group.after")
            return group

        group = await self._change(caller, work)
        log.info("security group created", security_group=group.security_group_id, vpc=group.vpc_id)
        return views.to_security_group(group, ())

    async def describe(
        self, tenant_id: ids.TenantId, request: api.DescribeSecurityGroups
    ) -> api.SecurityGroups:
        offset = networks_api.position(request.next_token)
        asked = {part.name: part.value for part in request.filter}

        def work(session: database.Session) -> tuple[list[api.SecurityGroup], int]:
            page, total = table.list_security_groups(
                session,
                tenant_id,
                request.security_group_id,
                vpc_ids=asked.get("vpc-id"),
                offset=offset,
                limit=request.max_results,
            )
            rules = table.list_rules(session, [group.security_group_id for group in page])
            return [views.to_security_group(group, rules[group.security_group_id]) for group in page], total

        shown, total = await self._store.run(work)
        return api.SecurityGroups(
            next_token=networks_api.next_token(offset, shown, total), security_group_set=tuple(shown)
        )

    async def modify(self, caller: accounts.Identity, request: api.ModifySecurityGroup) -> api.SecurityGroup:
        security_group_id = api.check_security_group_id(request.security_group_id)

        def work(session: database.Session) -> api.SecurityGroup:
            group = _existing(session, caller.tenant_id, security_group_id)
            newer = dataclasses.replace(
                group,
                name=request.security_group_name or group.name,
                description=request.description or group.description,
            )
            crashpoints.reached("service.modify_security_group.before")
            table.update_security_group(session, newer)
            crashpoints.reached("service.modify_security_group.after")
            rules = table.list_rules(session, [security_group_id])
            return views.to_security_group(newer, rules[security_group_id])

        return await self._change(caller, work)

    async def delete(self, caller: accounts.Identity, security_group_id: ids.SecurityGroupId) -> None:
        def work(session: database.Session) -> None:
            group = _existing(session, caller.tenant_id, security_group_id)
            if group.is_default:
                raise errors.ApiError(
                    errors.SECURITY_GROUP_IN_USE,
                    "cannot delete a VPC's default security group; it goes with its VPC",
                )
            if groups_table.has_member(session, security_group_id):
                raise errors.ApiError(
                    errors.SECURITY_GROUP_IN_USE, "container groups are in it; delete them first"
                )
            if table.is_named(session, security_group_id):
                raise errors.ApiError(
                    errors.SECURITY_GROUP_IN_USE,
                    "entries of other security groups name it; revoke them first",
                )
            crashpoints.reached("service.delete_security_group.before")
            table.remove_security_group(session, security_group_id)
            crashpoints.reached("service.delete_security_group.after")

        await self._change(caller, work, is_removal=True)
        log.info("security group deleted", security_group=security_group_id)

    async def authorize(
        self, caller: accounts.Identity, request: api.AuthorizeSecurityGroupEntry
    ) -> ids.RuleId:
        match = api.check_authorize(request)
        now = self._clock.now()

        def work(session: database.Session) -> domain.Rule:
            group = _existing(session, caller.tenant_id, ids.SecurityGroupId(request.security_group_id))
            peer = (
                table.get_security_group(session, match.peer_id, tenant_id=caller.tenant_id)
                if match.peer_id
                else None
            )
            others = table.list_rules(session, [group.security_group_id])[group.security_group_id]
            rule = domain.new_rule(request, group, peer, others=others, now=now)
            crashpoints.reached("service.add_rule.before")
            table.insert_rule(session, rule)
            crashpoints.reached("service.add_rule.after")
            return rule

        rule = await self._change(caller, work)
        log.info("security group entry added", security_group=rule.security_group_id, entry=rule.rule_id)
        return rule.rule_id

    async def revoke(
        self, caller: accounts.Identity, security_group_id: ids.SecurityGroupId, rule_id: ids.RuleId
    ) -> None:
        def work(session: database.Session) -> None:
            _existing(session, caller.tenant_id, security_group_id)
            crashpoints.reached("service.remove_rule.before")
            is_removed = table.remove_rule(session, security_group_id, rule_id)
            crashpoints.reached("service.remove_rule.after")
            if not is_removed:
                raise errors.ApiError(errors.SECURITY_GROUP_ENTRY_NOT_FOUND, parameter="SecurityGroupEntryId")

        await self._change(caller, work, is_removal=True)
        log.info("security group entry removed", security_group=security_group_id, entry=rule_id)

    async def _change(
        self, caller: accounts.Identity, work: Callable[[database.Session], T], *, is_removal: bool = False
    ) -> T:
        result = await self._replays.run_once(caller, work, is_removal=is_removal)
        self._on_change()
        return result


def _existing(
    session: database.Session, tenant_id: ids.TenantId, security_group_id: ids.SecurityGroupId
) -> domain.SecurityGroup:
    group = table.get_security_group(session, security_group_id, tenant_id=tenant_id)
    if group is None:
        raise errors.ApiError(errors.SECURITY_GROUP_NOT_FOUND, parameter="SecurityGroupId")
    return group
