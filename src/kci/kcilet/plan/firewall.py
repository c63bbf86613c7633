"""Which packets pass at the pods' links, from the wanted groups and their security groups. Pure.

The rows of an instance's security groups are one list, by priority over all of them, and of two rows with the
same priority the one that denies comes first; what no row fits is dropped. Pods with the same security groups
share one policy. A security group that is not known, or has a row that cannot be read, has no rows: nothing
passes by it, and the others of the instance hold all the same.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from kci.kcilet import ports
from kci.kube import models
from kci.link import types as link

_PORTS = range(1, 65536)
_ICMP_NUMBERS = range(256)
_WITH_PORTS = frozenset({link.Protocol.TCP, link.Protocol.UDP})
_EVERYBODY = ipaddress.IPv4Network("0.0.0.0/0")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A wanted group, and its pod once it is known."""

    group: link.WantedGroup
    pod_uid: models.PodUid | None


def plan(
    wanted: Iterable[Wanted], security_groups: Sequence[link.SecurityGroup], *, is_whole: bool = True
) -> ports.Firewall:
    """The firewall of a machine."""
    known = {group.security_group_id: to_rules(group) for group in security_groups}
    pods: list[ports.GuardedPod] = []
    policies: dict[str, ports.Policy] = {}
    members: dict[str, set[str]] = {}
    for one in wanted:
        group = one.group
        for security_group_id in group.security_group_ids:
            members.setdefault(security_group_id, set()).add(group.interface.address)
        key = policy_key(group.security_group_ids)
        if key and key not in policies:
            policies[key] = to_policy(group.security_group_ids, known)
        if one.pod_uid is not None:
            pods.append(ports.GuardedPod(one.pod_uid, group.interface, group.tenant_id, key))
    named = {
        rule.members_of
        for policy in policies.values()
        for rule in (*policy.incoming, *policy.outgoing)
        if rule.members_of
    }
    return ports.Firewall(
        pods=tuple(pods),
        policies=policies,
        members={name: frozenset(members.get(name, ())) for name in named},
        is_whole=is_whole,
    )


def policy_key(security_group_ids: Iterable[str]) -> str:
    """The same for the same security groups in any order; empty for none."""
    return " ".join(sorted(set(security_group_ids)))


def to_policy(
    security_group_ids: Iterable[str], known: Mapping[str, tuple[link.SecurityGroupRule, ...]]
) -> ports.Policy:
    """The union of these security groups."""
    rows = [row for one in sorted(set(security_group_ids)) for row in known.get(one, ())]
    rows.sort(key=lambda row: (row.priority, row.is_allowed))

    def of(direction: link.Direction) -> tuple[ports.PacketRule, ...]:
        # Two groups often have the same row.
        return tuple(dict.fromkeys(_to_packet_rule(row) for row in rows if row.direction is direction))

    return ports.Policy(incoming=of(link.Direction.IN), outgoing=of(link.Direction.OUT))


def to_rules(group: link.SecurityGroup) -> tuple[link.SecurityGroupRule, ...]:
    """Its rows; none if one of them cannot be read: what it was to deny would pass."""
    return group.rules if all(map(_is_readable, group.rules)) else ()


def _is_readable(row: link.SecurityGroupRule) -> bool:
    try:
        if row.cidr:
            _ = ipaddress.ip_network(row.cidr, strict=False)
    except ValueError:
        return False
    has_ports = row.first_port in _PORTS and row.last_port in _PORTS and row.first_port <= row.last_port
    has_numbers = all(number is None or number in _ICMP_NUMBERS for number in (row.icmp_type, row.icmp_code))
    return has_ports and has_numbers and not (row.cidr and row.security_group_id)


def _to_packet_rule(row: link.SecurityGroupRule) -> ports.PacketRule:
    has_ports, is_icmp = row.protocol in _WITH_PORTS, row.protocol is link.Protocol.ICMP
    return ports.PacketRule(
        is_allowed=row.is_allowed,
        protocol=row.protocol,
        first_port=row.first_port if has_ports else 1,
        last_port=row.last_port if has_ports else 65535,
        icmp_type=row.icmp_type if is_icmp else None,
        icmp_code=row.icmp_code if is_icmp and row.icmp_type is not None else None,
        cidr=_to_cidr(row.cidr),
        members_of=row.security_group_id,
    )


def _to_cidr(text: str) -> str:
    """In one form; empty for everybody."""
    if not text:
        return ""
    network = ipaddress.ip_network(text, strict=False)
    return "" if network == _EVERYBODY else str(network)
