"""Firewalls on the machine that are not ours: which keep pods' traffic from passing, and what opens it.

A packet must be let through by every base chain of a hook, so the kcilet's `accept` undoes nobody else's
drop. They are looked at and told of, once at the start, and never changed: whose they are is not ours to say.
Reads the network namespace that the thread is in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from kci.kit import nft
from kci.stack import typed

# What the names of pods' links begin with (kcilet/drivers/network/cni.py), for nft and for iptables.
PODS, PODS_OF_IPTABLES = "kv*", "kv+"
HOW_TO = "docs/how-to/beside-other-firewalls.md"
FIREWALLD, DOCKER_USER = "firewalld", "DOCKER-USER"
LEGACY_TABLES = pathlib.Path("/proc/thread-self/net/ip_tables_names")
# Tables of kcilets, of this stack or another (kcilet/drivers/network): each looks at its own pods only.
_OURS = re.compile(r"kci-[0-9a-f]{6}-(guard|services)")
_FAMILIES = frozenset({"ip", "inet"})
_HOOKS = frozenset({"forward", "input"})
_MATTERS = frozenset({"match", "xt"})
_ENDS = frozenset({"drop", "reject"})


@dataclasses.dataclass(frozen=True)
class Chain:
    """A base chain at which pods' traffic comes by, with its rules as libnftables-json(5) has them."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: Sequence[Any] = ()
    # The table has the chain in which Docker leaves room for the user's rules; these are its.
    has_docker_user: bool = False
    docker_user: Sequence[Any] = ()


def find_warnings(bridge: str, place: typed.Place) -> tuple[str, ...]:
    """In words, what on this machine may drop pods' traffic, and what can be done. Blocking."""
    try:
        kernel = nft.Nft()
    except nft.NftError:
        # Nothing runs without it, and the parts that need it say so.
        return ()
    try:
        chains, firewalld = _read(kernel)
    except nft.NftError as error:
        return (f"cannot tell whether another firewall drops pods' traffic: {error}",)
    finally:
        kernel.close()
    try:
        legacy = LEGACY_TABLES.read_text().split()
    except FileNotFoundError:
        legacy = []
    return tuple(plan_warnings(chains, firewalld=firewalld, legacy_tables=legacy, bridge=bridge, place=place))


def plan_warnings(
    chains: Iterable[Chain],
    *,
    firewalld: Sequence[Any],
    legacy_tables: Sequence[str],
    bridge: str,
    place: typed.Place,
) -> list[str]:
    """`firewalld` is what is in firewalld's table. Pure."""
    found = [
        f"the chain {chain.name} of the table {chain.family} {chain.table} drops what it does not know, "
        f"and so pods' traffic; {_remedy(chain, place)} ({HOW_TO})"
        for chain in chains
        if _closes(chain) and not _is_open(chain)
    ]
    if firewalld and not any(_names_pods(one, "iifname") for one in firewalld):
        found.append(
            "firewalld rejects pods' traffic unless their links are in a zone that accepts it: "
            f"`firewall-cmd --permanent --zone=trusted --add-interface={PODS_OF_IPTABLES}`, the same with "
            f"{bridge}, and `firewall-cmd --reload` ({HOW_TO})"
        )
    if "filter" in legacy_tables:
        legacy = ("iptables-legacy -S FORWARD", "iptables-legacy -S INPUT")
        found.append(
            "there are rules of iptables-legacy, and whether they drop pods' traffic cannot be told: "
            f"see {' and '.join(f'`{place.inside(one)}`' for one in legacy)} ({HOW_TO})"
        )
    return found


def _remedy(chain: Chain, place: typed.Place) -> str:
    sides = ("i", "o") if chain.hook == "forward" else ("i",)
    if chain.family == "ip" and chain.name in {"FORWARD", "INPUT"}:
        into = DOCKER_USER if chain.has_docker_user and chain.hook == "forward" else chain.name
        rules = [f"iptables -I {into} -{side} {PODS_OF_IPTABLES} -j ACCEPT" for side in sides]
    else:
        rule = f"nft insert rule {chain.family} {chain.table} {chain.name}"
        rules = [f'{rule} {side}ifname "{PODS}" accept' for side in sides]
    texts = [f"`{place.inside(one)}`" for one in rules]
    return f"{' and '.join(texts)} {'lets' if len(texts) == 1 else 'let'} it pass"


def _closes(chain: Chain) -> bool:
    """Whether what no rule knows is dropped, by the policy or by a last rule that is for all."""
    if chain.policy == "drop":
        return True
    words = {word for part in (chain.rules[-1] if chain.rules else ()) for word in part}
    return bool(words & _ENDS) and not words & _MATTERS


def _is_open(chain: Chain) -> bool:
    """Whether somebody has let pods' links through already."""
    rules = [*chain.rules, *chain.docker_user]
    sides = ("iifname", "oifname") if chain.hook == "forward" else ("iifname",)
    return all(any(_names_pods(one, side) and {"accept": None} in one for one in rules) for side in sides)


def _names_pods(rule: Any, side: str) -> bool:
    text = json.dumps(rule)
    return f'"{PODS}"' in text and f'"{side}"' in text


def _read(kernel: nft.Nft) -> tuple[list[Chain], list[Any]]:
    """The base chains that matter, without firewalld's, and the rules of firewalld's table."""
    listed = [one["chain"] for one in kernel.read("list chains") if "chain" in one]
    chains = [
        one
        for one in listed
        if one["family"] in _FAMILIES
        and one.get("hook") in _HOOKS
        and one.get("type") == "filter"
        and not _OURS.fullmatch(one["table"])
    ]
    firewalld = []
    for family in sorted({one["family"] for one in chains if one["table"] == FIREWALLD}):
        # Its table has a rule in any case; without one it would be no firewall.
        firewalld += _rules(kernel, f"table {family} {FIREWALLD}")
    users = {(one["family"], one["table"]) for one in listed if one["name"] == DOCKER_USER}
    return [_to_chain(kernel, one, users) for one in chains if one["table"] != FIREWALLD], firewalld


def _to_chain(kernel: nft.Nft, found: Any, users: set[tuple[str, str]]) -> Chain:
    at = f"chain {found['family']} {found['table']}"
    has_docker_user = (found["family"], found["table"]) in users
    return Chain(
        found["family"],
        found["table"],
        found["name"],
        found["hook"],
        found.get("policy", "accept"),
        _rules(kernel, f"{at} {found['name']}"),
        has_docker_user,
        _rules(kernel, f"{at} {DOCKER_USER}") if has_docker_user else (),
    )


def _rules(kernel: nft.Nft, what: str) -> list[Any]:
    # It may be gone by now, or bear a name that nft itself cannot read: then its policy must do.
    with contextlib.suppress(nft.NftError):
        return [one["rule"]["expr"] for one in kernel.read(f"list {what}", terse=True) if "rule" in one]
    return []
