"""Services as texts of nft(8): what the table `inet <bridge>-services` holds, and how it changes. Pure.

Each outlook has maps of its own, which all its members share, so that a pod more costs three elements and a
changed endpoint one small transaction:

    members   source address -> the outlook's chain, where new connections are looked at
    <o>-ports service address -> the chain for its number of endpoints, or for its affinity
    <o>-eN    service address and a number below N -> endpoint; chosen by chance in the chain <o>-nN

What is addressed to a ClusterIP and has not been sent on is refused at once: no endpoints, or no such port.
Affinity as kube-proxy has it (pkg/proxy/nftables/proxier.go, 1.36): a set for each endpoint remembers its
clients, and each new connection renews that.
A pod that reaches itself comes from the gateway's address, or it would see a packet from its own.

Names come from hashes, so a restarted kcilet finds the same ones; only what `ports` types hold gets into a
text, and those hold checked addresses and numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from kci.kcilet import ports

MEMBERS, CHECKS, HAIRPINS, REACHABLE = "members", "checks", "hairpins", "reachable"
_SERVICE_KEY = "typeof ip daddr . meta l4proto . th dport"
_HASH_CHARACTERS = 12
_OUTLOOK = re.compile(rf"o[0-9a-f]{{{_HASH_CHARACTERS}}}(?=-|$)")
# Clients that one endpoint's set remembers.
_CLIENTS = 65535


@functools.lru_cache(maxsize=256)
def outlook_name(outlook: str) -> str:
    """What its chains, maps and sets begin with."""
    return f"o{_hash(outlook)}"


@dataclasses.dataclass(frozen=True)
class Kept:
    """Names of one outlook that the kernel has, whatever is in them."""

    chains: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()


NOTHING_KEPT = Kept()


@dataclasses.dataclass(frozen=True)
class Member:
    """A pod that reaches Services."""

    # Tells pods apart (cni.to_link_name).
    owner: str
    address: str
    # The chain's name in the kernel (outlook_name).
    outlook: str


# Chains of the base, with their hooks and rules.
_BASE = {
    "prerouting": ("type nat hook prerouting priority dstnat - 5", (f"ip saddr vmap @{MEMBERS}",)),
    # After addresses were exchanged.
    "check": ("type filter hook prerouting priority dstnat + 10", (f"ip saddr vmap @{CHECKS}",)),
    "postrouting": (
        "type nat hook postrouting priority srcnat - 5",
        (f"ct status dnat snat ip to ip saddr . ip daddr map @{HAIRPINS}",),
    ),
    "refuse": ("", ("meta l4proto tcp reject with tcp reset", "reject with icmp port-unreachable")),
}


class Rules:
    """Texts for one table; `table` is its name."""

    def __init__(self, table: str) -> None:
        self._in = f"inet {table}"

    def base(self, reachable: Iterable[ports.Reachable]) -> str:
        """What there is without any Service. May be repeated: elements and outlooks stay."""
        at, key = self._in, "ipv4_addr . inet_proto . inet_service"
        lines = [
            f"add table {at}",
            f"add map {at} {MEMBERS} {{ type ipv4_addr : verdict; }}",
            f"add map {at} {CHECKS} {{ type ipv4_addr : verdict; }}",
            f"add map {at} {HAIRPINS} {{ type ipv4_addr . ipv4_addr : ipv4_addr; }}",
            f"add set {at} {REACHABLE} {{ type {key}; }}",
            f"flush set {at} {REACHABLE}",
        ]
        elements = [f"{one.address} . {one.protocol} . {one.port}" for one in sorted(set(reachable))]
        lines += self._elements("add", REACHABLE, elements)
        for chain, (hook, texts) in _BASE.items():
            lines += self._chain(chain, texts, hook)
        return "\n".join(lines)

    def remove(self) -> str:
        """All of it. What is not there cannot be deleted, so it is made first."""
        return f"add table {self._in}\ndelete table {self._in}"

    def open(self, name: str) -> str:
        """An outlook without Services; may be repeated, and leaves what it has."""
        at = self._in
        sent_on = f"ct direction original ct original ip daddr @{name}-ips"
        own = "fib daddr type != unicast"
        forbidden = f"ip daddr . meta l4proto . th dport != @{REACHABLE}"
        lines = [
            f"add set {at} {name}-ips {{ type ipv4_addr; }}",
            f"add map {at} {name}-ports {{ {_SERVICE_KEY} : verdict; }}",
            *self._chain(name, [f"ip daddr . meta l4proto . th dport vmap @{name}-ports"]),
            *self._chain(
                f"{name}-check",
                # The planner knows the machine's addresses of a moment ago; the kernel those of now.
                [f"ip daddr @{name}-ips goto refuse", f"{sent_on} {own} {forbidden} goto refuse"],
            ),
        ]
        return "\n".join(lines)

    def admit(self, member: Member, gateway: str, former: Collection[Member]) -> str:
        """Make a pod a member in place of `former` ones."""
        address = member.address
        note = f'{address} comment "{member.owner}"'
        lines = [
            *(line for one in former for line in self._dismiss(one)),
            f"add element {self._in} {MEMBERS} {{ {note} : goto {member.outlook} }}",
            f"add element {self._in} {CHECKS} {{ {address} : goto {member.outlook}-check }}",
            f"add element {self._in} {HAIRPINS} {{ {address} . {address} : {gateway} }}",
        ]
        return "\n".join(lines)

    def dismiss(self, members: Iterable[Member]) -> str:
        return "\n".join(line for one in members for line in self._dismiss(one))

    def change(self, name: str, old: ports.ServiceTable, change: ports.ServiceChange, kept: Kept) -> str:
        """Make `old` what it is after the change. With a whole one `old` does not count: `kept` says what is
        there, and what is not needed of it goes.
        """
        if change.is_whole:
            left = {one for one in kept.chains if one.startswith((f"{name}-s", f"{name}-a"))}
            lines = self._emptied(name, kept)
            kept, old, touched = NOTHING_KEPT, {}, {}
        else:
            touched = {key: old[key] for key in (*change.gone, *change.put) if key in old}
            left = _affinity_chains(name, touched)
            lines = self._taken(name, touched)
        lines += self._put(name, change.put, kept)
        lines += self._addresses(name, old, change)
        return "\n".join([*lines, *self._swept(name, left, change.put)])

    def forget(self, kept: Kept) -> str:
        """Remove an outlook that has no members."""
        # What refers to another goes first.
        lines = [f"flush map {self._in} {one}" for one in sorted(kept.maps)]
        lines += [f"flush chain {self._in} {one}" for one in sorted(kept.chains)]
        lines += [f"delete chain {self._in} {one}" for one in sorted(kept.chains)]
        lines += [f"delete map {self._in} {one}" for one in sorted(kept.maps)]
        lines += [f"delete set {self._in} {one}" for one in sorted(kept.sets)]
        return "\n".join(lines)

    # ---- parts ------------------------------------------------------------------------------------

    def _chain(self, name: str, rules: Iterable[str], hook: str = "") -> list[str]:
        """A chain with these rules and no others."""
        definition = f" {{ {hook}; }}" if hook else ""
        return [
            f"add chain {self._in} {name}{definition}",
            f"flush chain {self._in} {name}",
            *(f"add rule {self._in} {name} {rule}" for rule in rules),
        ]

    def _elements(self, verb: str, of: str, elements: Collection[str]) -> list[str]:
        return [f"{verb} element {self._in} {of} {{ {', '.join(elements)} }}"] if elements else []

    def _dismiss(self, member: Member) -> Iterator[str]:
        address = member.address
        yield f"delete element {self._in} {MEMBERS} {{ {address} }}"
        yield f"delete element {self._in} {CHECKS} {{ {address} }}"
        yield f"delete element {self._in} {HAIRPINS} {{ {address} . {address} }}"

    def _emptied(self, name: str, kept: Kept) -> list[str]:
        """All maps of an outlook, and its addresses; what sets remember of clients stays. What chooses by
        chance is made anew: somebody may have taken away its rules, and libnftables (1.0.6) does not take one
        for a map that it knows from the kernel.
        """
        chains = sorted(one for one in kept.chains if one.startswith(f"{name}-n"))
        maps = sorted(one for one in kept.maps if one.startswith(f"{name}-e"))
        return [
            *(f"flush map {self._in} {one}" for one in sorted(kept.maps)),
            f"flush set {self._in} {name}-ips",
            *(f"flush chain {self._in} {one}" for one in chains),
            *(f"delete chain {self._in} {one}" for one in chains),
            *(f"delete map {self._in} {one}" for one in maps),
        ]

    def _taken(self, name: str, old: ports.ServiceTable) -> list[str]:
        """Take these out of the maps."""
        elements = _elements_of(name, old)
        lines = self._elements("delete", f"{name}-ports", [_key(key) for key in old if old[key].endpoints])
        for of in sorted(elements):
            lines += self._elements("delete", of, [key for key, _ in elements[of]])
        return lines

    def _put(self, name: str, new: ports.ServiceTable, kept: Kept) -> Iterator[str]:
        """Put these into the maps, with the chains that they lead to."""
        elements = _elements_of(name, new)
        for count in sorted({_count(backend) for backend in new.values()} - {0}):
            if f"{name}-e{count}" not in kept.maps:
                yield from self._choice(name, count)
        for key, backend in new.items():
            if backend.endpoints and backend.affinity_s:
                yield from self._affinity(name, key, backend)
        for of in sorted(elements):
            yield from self._elements("add", of, [f"{key} : {value}" for key, value in elements[of]])
        leads = [f"{_key(key)} : goto {_chain(name, key, one)}" for key, one in new.items() if one.endpoints]
        yield from self._elements("add", f"{name}-ports", leads)

    def _choice(self, name: str, count: int) -> list[str]:
        key = f"ip daddr . meta l4proto . th dport . numgen random mod {count}"
        return [
            f"add map {self._in} {name}-e{count} {{ typeof {key} : ip daddr . th dport; }}",
            *self._chain(f"{name}-n{count}", [f"dnat ip to {key} map @{name}-e{count}"]),
        ]

    def _affinity(self, name: str, key: ports.ServiceAddress, backend: ports.Backend) -> Iterator[str]:
        found = [(_memory(name, key, one, backend), one) for one in backend.endpoints]
        for memory, endpoint in found:
            yield (
                f"add set {self._in} {memory} {{ type ipv4_addr; flags dynamic, timeout; "
                f"timeout {backend.affinity_s}s; size {_CLIENTS}; }}"
            )
            target = f"{endpoint.address}:{endpoint.port}"
            rule = f"update @{memory} {{ ip saddr }} meta l4proto {key.protocol} dnat ip to {target}"
            yield from self._chain(memory, [rule])
        known = [f"ip saddr @{memory} goto {memory}" for memory, _ in found]
        choices = ", ".join(f"{number} : goto {memory}" for number, (memory, _) in enumerate(found))
        rules = [*known, f"numgen random mod {len(found)} vmap {{ {choices} }}"]
        yield from self._chain(_chain(name, key, backend), rules)

    def _addresses(self, name: str, old: ports.ServiceTable, change: ports.ServiceChange) -> list[str]:
        """Whose unanswered connections are refused."""
        before = {key.address for key in old}
        after = {key.address for key in old if key not in change.gone} | {key.address for key in change.put}
        of = f"{name}-ips"
        return [
            *self._elements("delete", of, sorted(before - after)),
            *self._elements("add", of, sorted(after - before)),
        ]

    def _swept(self, name: str, left: Collection[str], new: ports.ServiceTable) -> list[str]:
        """Remove those of these chains for affinity, and of their sets, that no Service needs now."""
        needed = _affinity_chains(name, new)
        gone = sorted(one for one in left if one not in needed)
        memories = [one for one in gone if one.startswith(f"{name}-a")]
        return [
            # What refers to another goes first.
            *(f"flush chain {self._in} {one}" for one in gone),
            *(f"delete chain {self._in} {one}" for one in gone),
            *(f"delete set {self._in} {one}" for one in memories),
        ]


def kept_with(name: str, table: ports.ServiceTable, before: Kept = NOTHING_KEPT) -> Kept:
    """What the kernel has once an outlook holds this table. Maps and chains of the choice by chance stay;
    of a whole table they are new, and nothing is there `before`.
    """
    counts = {_count(backend) for backend in table.values()} - {0}
    affinity = _affinity_chains(name, table)
    choices = {one for one in before.chains if one.startswith(f"{name}-n")}
    maps = {one for one in before.maps if one.startswith(f"{name}-e")}
    return Kept(
        chains=frozenset({name, f"{name}-check"} | choices | {f"{name}-n{one}" for one in counts} | affinity),
        maps=frozenset({f"{name}-ports"} | maps | {f"{name}-e{one}" for one in counts}),
        sets=frozenset({f"{name}-ips"} | {one for one in affinity if one.startswith(f"{name}-a")}),
    )


def rule_counts(outlooks: Mapping[str, Kept]) -> dict[str, int]:
    """How many rules there are in the chains that every Service's way leads through."""
    found = {chain: len(texts) for chain, (_, texts) in _BASE.items()}
    for name, kept in outlooks.items():
        found |= {name: 1, f"{name}-check": 2}
        found |= {one: 1 for one in kept.chains if one.startswith(f"{name}-n")}
    return found


def outlooks_of(listed: Iterable[Mapping[str, Any]]) -> dict[str, Kept]:
    """By outlook, what a table holds, out of libnftables-json(5)."""
    names: defaultdict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for one in listed:
        for kind in ("chain", "map", "set"):
            found = _OUTLOOK.match(one[kind]["name"]) if kind in one else None
            if found is not None:
                names[found[0]][kind].add(one[kind]["name"])
    return {
        name: Kept(frozenset(found["chain"]), frozenset(found["map"]), frozenset(found["set"]))
        for name, found in names.items()
    }


def members_of(listed: Iterable[Mapping[str, Any]]) -> list[Member]:
    """Out of the listing of the map `members`; what is not of our making is passed over."""
    found = []
    for one in listed:
        for element, verdict in one.get("map", {}).get("elem", ()):
            told = element.get("elem", {}) if isinstance(element, dict) else {}
            if "comment" in told and "goto" in verdict:
                found.append(Member(told["comment"], told["val"], verdict["goto"]["target"]))
    return found


def _elements_of(name: str, table: ports.ServiceTable) -> Mapping[str, list[tuple[str, str]]]:
    """What the maps from which endpoints are chosen hold of these: by map, keys and values."""
    elements: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, backend in table.items():
        count = _count(backend)
        for number, endpoint in enumerate(backend.endpoints if count else ()):
            value = f"{endpoint.address} . {endpoint.port}"
            elements[f"{name}-e{count}"].append((f"{_key(key)} . {number}", value))
    return elements


def _affinity_chains(name: str, table: ports.ServiceTable) -> set[str]:
    found = set()
    for key, backend in table.items():
        if backend.endpoints and backend.affinity_s:
            found.add(_chain(name, key, backend))
            found |= {_memory(name, key, one, backend) for one in backend.endpoints}
    return found


def _count(backend: ports.Backend) -> int:
    """Among how many endpoints it is chosen by chance alone."""
    return 0 if backend.affinity_s else len(backend.endpoints)


def _chain(name: str, key: ports.ServiceAddress, backend: ports.Backend) -> str:
    """Where the choice is made."""
    count = _count(backend)
    return f"{name}-n{count}" if count else f"{name}-s{_hash(_key(key))}"


def _memory(name: str, key: ports.ServiceAddress, endpoint: ports.Endpoint, backend: ports.Backend) -> str:
    """The set of an endpoint's clients, and the chain that leads to it; with another timeout another."""
    told = f"{_key(key)} {endpoint.address} {endpoint.port} {backend.affinity_s}"
    return f"{name}-a{_hash(told)}"


def _key(key: ports.ServiceAddress) -> str:
    return f"{key.address} . {key.protocol} . {key.port}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]
