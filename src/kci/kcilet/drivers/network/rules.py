"""The firewall as a table of nft(8): what stands in it, and the commands from one state to the next. Pure.

The table knows pods' links by their link group, so one that it was not told of passes nothing, and another
stack's are none of its business. A packet meets, in this order:

- `arriving`, before connections are tracked: what does not carry its link's own addresses, is no IPv4, or
  goes to nobody in particular or to addresses that never leave a machine, is dropped;
- `counting`: a pod has so many connections at once and no more;
- `passing` (to somewhere else), `entering` (to the machine) or `leaving` (from the machine to a pod): what
  belongs to a connection passes; what begins one meets its sender's tenant and policy, then the receiver's
  policy, and at the machine the list of what is reachable.

Rules of policies are in chains that all pods with the same security groups share; maps say which link goes
through which. So a pod that comes or goes changes some elements, and no rule.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kci.kcilet import ports
from kci.kcilet.drivers.network import cni
from kci.link import types as link

# Addresses that never leave a machine or a link, several receivers' and what is reserved; 169.254.169.254 is
# where clouds tell a machine its secrets.
_NEVER = "{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }"
_COUNTED_PODS = 65536


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An address and port of the machine."""

    address: str
    port: int
    protocol: str = "tcp"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """What does not change while the program runs."""

    table: str
    link_group: int
    # What pods may begin connections to on the machine, beside asking their gateway for an echo.
    reachable: frozenset[Endpoint] = frozenset()
    # Of one pod at once.
    connections: int


@dataclasses.dataclass(frozen=True)
class Ruleset:
    """The contents of the table; everything by its name."""

    # Type and flags, and elements; of a map with what each leads to.
    sets: Mapping[str, tuple[str, frozenset[str]]]
    maps: Mapping[str, tuple[str, Mapping[str, str]]]
    chains: Mapping[str, tuple[str, ...]]


def to_ruleset(firewall: ports.Firewall, frame: Frame) -> Ruleset:
    links = {pod: cni.to_link_name(pod.pod_uid) for pod in firewall.pods}
    tenants: dict[str, set[str]] = {}
    for pod in firewall.pods:
        tenants.setdefault(pod.tenant_id, set()).add(pod.interface.address)
    guarded = {pod: name for pod, name in links.items() if pod.policy}
    return Ruleset(
        sets={
            "pods": (
                "ifname . ether_addr . ipv4_addr",
                frozenset(
                    f'"{name}" . {pod.interface.mac_address} . {pod.interface.address}'
                    for pod, name in links.items()
                ),
            ),
            "gateways": (
                "ifname . ipv4_addr",
                frozenset(f'"{name}" . {pod.interface.gateway}' for pod, name in links.items()),
            ),
            "reachable": (
                "ipv4_addr . inet_proto . inet_service",
                frozenset(f"{one.address} . {one.protocol} . {one.port}" for one in frame.reachable),
            ),
            **{_name("tenant", one): ("ipv4_addr", frozenset(found)) for one, found in tenants.items()},
            **{_name("members", one): ("ipv4_addr", found) for one, found in firewall.members.items()},
        },
        maps={
            "tenants": (
                "ifname : verdict",
                {f'"{name}"': f"jump {_name('of_tenant', pod.tenant_id)}" for pod, name in links.items()},
            ),
            "outgoing": (
                "ifname : verdict",
                {f'"{name}"': f"jump {_name('out', pod.policy)}" for pod, name in guarded.items()},
            ),
            "incoming": (
                "ifname : verdict",
                {f'"{name}"': f"jump {_name('in', pod.policy)}" for pod, name in guarded.items()},
            ),
        },
        chains={
            **{
                _name("of_tenant", one): (
                    f"oifgroup {frame.link_group} ip daddr != @{_name('tenant', one)} drop",
                )
                for one in tenants
            },
            **{
                _name("out", key): tuple(_policy_rules(policy.outgoing, "daddr"))
                for key, policy in firewall.policies.items()
            },
            **{
                _name("in", key): tuple(_policy_rules(policy.incoming, "saddr"))
                for key, policy in firewall.policies.items()
            },
        },
    )


def pods_of(listed: Iterable[Mapping[str, Any]]) -> frozenset[tuple[str, str]]:
    """The links and addresses in the set of pods, as libnftables-json(5) lists it."""
    elements = [element for one in listed if "set" in one for element in one["set"].get("elem", ())]
    return frozenset((name, address) for name, _, address in (one["concat"] for one in elements))


def whole(ruleset: Ruleset, frame: Frame) -> str:
    """Commands that put the table in place of whatever has its name."""
    table = f"inet {frame.table}"
    lines = [f"add table {table}", f"delete table {table}", f"add table {table}"]
    lines += [f"add set {table} counted {{ type ipv4_addr; size {_COUNTED_PODS}; flags dynamic; }}"]
    lines += _additions(table, _EMPTY, ruleset)
    lines += [f"add chain {table} {name}" for name in ("from_pod", "to_pod")]
    for name, (hook, texts) in _frame_chains(frame).items():
        lines += [f"add chain {table} {name}{hook}"]
        lines += [f"add rule {table} {name} {text}" for text in texts]
    return _joined([*lines, *_elements(table, _EMPTY, ruleset)])


def changes(before: Ruleset, after: Ruleset, frame: Frame) -> str:
    """Commands that lead from one to the other; empty if there is no difference."""
    table = f"inet {frame.table}"
    lines = [*_additions(table, before, after), *_elements(table, before, after)]
    # Nothing leads to them any more, and they to nothing else.
    gone = sorted(before.chains.keys() - after.chains.keys())
    lines += [f"flush chain {table} {name}" for name in gone]
    lines += [f"delete chain {table} {name}" for name in gone]
    lines += [f"delete set {table} {name}" for name in sorted(before.sets.keys() - after.sets.keys())]
    return _joined(lines)


def rule_counts(ruleset: Ruleset | None, frame: Frame) -> dict[str, int]:
    """How many rules the chains of a table have, or those alone that each table has."""
    chains = {name: texts for name, (_, texts) in _frame_chains(frame).items()}
    return {name: len(texts) for name, texts in (chains | dict(ruleset.chains if ruleset else {})).items()}


_EMPTY = Ruleset(sets={}, maps={}, chains={})


def _frame_chains(frame: Frame) -> dict[str, tuple[str, tuple[str, ...]]]:
    ours, theirs = f"iifgroup {frame.link_group}", f"iifgroup != {frame.link_group}"
    towards = f"oifgroup {frame.link_group}"
    connected = ("ct state established,related accept", "ct state invalid drop")

    def hook(name: str, priority: str) -> str:
        return f" {{ type filter hook {name} priority {priority}; policy accept; }}"

    return {
        "from_pod": (
            "",
            (f"ip daddr {_NEVER} drop", "iifname vmap @tenants", "iifname vmap @outgoing"),
        ),
        "to_pod": ("", ("oifname vmap @incoming",)),
        "arriving": (
            hook("prerouting", "raw"),
            (
                f"{theirs} accept",
                "meta protocol != ip drop",
                "meta pkttype != host drop",
                "iifname . ether saddr . ip saddr != @pods drop",
                f"ip daddr {_NEVER} drop",
            ),
        ),
        "counting": (
            hook("prerouting", "mangle"),
            (f"{ours} ct state new add @counted {{ ip saddr ct count over {frame.connections} }} drop",),
        ),
        "passing": (
            hook("forward", "filter"),
            (
                f"{theirs} oifgroup != {frame.link_group} accept",
                "meta protocol != ip drop",
                *connected,
                f"{ours} jump from_pod",
                f"{towards} jump to_pod",
            ),
        ),
        "entering": (
            hook("input", "filter"),
            (
                f"{theirs} accept",
                *connected,
                "jump from_pod",
                "icmp type echo-request iifname . ip daddr @gateways accept",
                "ip daddr . meta l4proto . th dport @reachable accept",
                "drop",
            ),
        ),
        "leaving": (
            hook("output", "filter"),
            (
                f"oifgroup != {frame.link_group} accept",
                "meta protocol != ip drop",
                connected[0],
                "jump to_pod",
            ),
        ),
    }


def _policy_rules(rules: Iterable[ports.PacketRule], other_side: str) -> Iterator[str]:
    for rule in rules:
        if text := _rule_text(rule, other_side):
            yield text
    yield "drop"


def _rule_text(rule: ports.PacketRule, other_side: str) -> str:
    """Empty for one that can fit nothing: pods speak no IPv6."""
    if rule.cidr and ipaddress.ip_network(rule.cidr).version != 4:
        return ""
    words = []
    if rule.cidr:
        words.append(f"ip {other_side} {rule.cidr}")
    if rule.members_of:
        words.append(f"ip {other_side} @{_name('members', rule.members_of)}")
    return " ".join([*words, *_protocol_words(rule), "return" if rule.is_allowed else "drop"])


def _protocol_words(rule: ports.PacketRule) -> list[str]:
    match rule.protocol:
        case link.Protocol.ANY:
            return []
        case link.Protocol.ICMP:
            words = [] if rule.icmp_type is None else [f"icmp type {rule.icmp_type}"]
            words += [] if rule.icmp_code is None else [f"icmp code {rule.icmp_code}"]
            return words or ["meta l4proto icmp"]
        case link.Protocol.TCP | link.Protocol.UDP as protocol:
            return [f"{protocol.value} dport {rule.first_port}-{rule.last_port}"]


def _additions(table: str, before: Ruleset, after: Ruleset) -> Iterator[str]:
    """Sets, maps and chains that are new, and the rules of chains that are new or others."""
    for name, (kind, _) in sorted(after.sets.items()):
        if name not in before.sets:
            yield f"add set {table} {name} {{ type {kind}; }}"
    for name, (kind, _) in sorted(after.maps.items()):
        if name not in before.maps:
            yield f"add map {table} {name} {{ type {kind}; }}"
    for name in sorted(after.chains.keys() - before.chains.keys()):
        yield f"add chain {table} {name}"
    for name, rules in sorted(after.chains.items()):
        if rules != before.chains.get(name):
            if name in before.chains:
                yield f"flush chain {table} {name}"
            for rule in rules:
                yield f"add rule {table} {name} {rule}"


def _elements(table: str, before: Ruleset, after: Ruleset) -> Iterator[str]:
    for name, (_, elements) in sorted(after.sets.items()):
        known = before.sets[name][1] if name in before.sets else frozenset[str]()
        yield from _of_set(table, name, "delete", known - elements)
        yield from _of_set(table, name, "add", elements - known)
    for name, (_, leads) in sorted(after.maps.items()):
        former = before.maps[name][1] if name in before.maps else {}
        others = {key for key in leads if former.get(key) != leads[key]}
        gone = (former.keys() - leads.keys()) | (others & former.keys())
        yield from _of_set(table, name, "delete", gone)
        yield from _of_set(table, name, "add", {f"{key} : {leads[key]}" for key in others})


def _of_set(table: str, name: str, verb: str, elements: Iterable[str]) -> Iterator[str]:
    if found := sorted(elements):
        yield f"{verb} element {table} {name} {{ {', '.join(found)} }}"


def _name(kind: str, key: str) -> str:
    """Keys are others' words; names of nft(8) are few letters."""
    return f"{kind}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
