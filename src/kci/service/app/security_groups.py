"""Where the rules of security groups come from."""

from __future__ import annotations

from typing import Protocol

from kci.link import types as link
from kci.service.domain import groups


class SecurityGroupSource(Protocol):
    async def security_groups(self) -> link.SecurityGroups:
        """All that groups may name, as they are now; each change has a higher generation."""
        ...


class DefaultSecurityGroups:
    """Each security group that the service was started with has the default rules: its subnet may come in,
    and everything may go out. What of the machine can be reached is not said here (`kcilet run --reachable`).
    """

    def __init__(self, place: groups.Place) -> None:
        self._all = link.SecurityGroups(
            generation=1,
            security_groups=tuple(
                link.SecurityGroup(security_group_id=one, rules=default_rules(place))
                for one in sorted(place.security_group_ids)
            ),
        )

    async def security_groups(self) -> link.SecurityGroups:
        return self._all


def default_rules(place: groups.Place) -> tuple[link.SecurityGroupRule, ...]:
    """The gateway's address is one of the subnet's."""
    return (
        link.SecurityGroupRule(direction=link.Direction.IN, cidr=str(place.subnet.network)),
        link.SecurityGroupRule(direction=link.Direction.OUT),
    )
