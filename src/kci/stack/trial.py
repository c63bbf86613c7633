"""Whether this machine's kernel and libnftables know what pods' network is made of.

Each feature is tried with the words that the kcilet uses (kcilet/drivers/network), in a network namespace
that is gone with the thread that made it: nothing is left of it, however it ends. So what is missing is one
sentence at the start, rather than pods that do not start.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import pyroute2
from pyroute2.netlink import exceptions

from kci.kit import nft
from kci.stack import errors

MACHINE = "docs/machine.md"
# The oldest that everything was tried with.
LIBNFTABLES = "1.0.6"
_CLONE_NEWNET = 0x40000000
_LOOPBACK = 1
_TABLE = "inet trial"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True)
class Feature:
    """`option` is what a kernel is built with to have it; `commands` are those of nft(8) that need it."""

    name: str
    option: str
    commands: tuple[str, ...]


def _filter(*rules: str, hook: str = "prerouting") -> tuple[str, ...]:
    chain = f"add chain {_TABLE} c {{ type filter hook {hook} priority filter; policy accept; }}"
    return (chain, *(f"add rule {_TABLE} c {rule}" for rule in rules))


_SERVICE = "ip daddr . meta l4proto . th dport"
_CHOICE = f"{_SERVICE} . numgen random mod 2"
FEATURES = (
    Feature("tables of the family inet", "CONFIG_NF_TABLES_INET", _filter("iifgroup 1 accept")),
    Feature(
        "sets of several fields, and maps to verdicts",
        "CONFIG_NF_TABLES",
        (
            f"add set {_TABLE} s {{ type ifname . ether_addr . ipv4_addr; }}",
            f"add map {_TABLE} m {{ type ifname : verdict; }}",
            *_filter("iifname . ether saddr . ip saddr != @s drop", "iifname vmap @m"),
        ),
    ),
    Feature("states of connections", "CONFIG_NFT_CT", _filter("ct state established,related accept")),
    Feature(
        "counts of connections (ct count)",
        "CONFIG_NFT_CONNLIMIT",
        (
            f"add set {_TABLE} s {{ type ipv4_addr; size 16; flags dynamic; }}",
            *_filter("ct state new add @s { ip saddr ct count over 9 } drop"),
        ),
    ),
    Feature(
        "choices by chance (numgen)",
        "CONFIG_NFT_NUMGEN",
        _filter("numgen random mod 2 vmap { 0 : accept, 1 : accept }"),
    ),
    Feature("kinds of addresses (fib)", "CONFIG_NFT_FIB_INET", _filter("fib daddr type != unicast accept")),
    Feature(
        "refusals (reject)",
        "CONFIG_NFT_REJECT_INET",
        _filter("meta l4proto tcp reject with tcp reset", "reject with icmp port-unreachable"),
    ),
    Feature(
        "exchanges of addresses (nat)",
        "CONFIG_NFT_NAT",
        (
            f"add map {_TABLE} m {{ typeof {_CHOICE} : ip daddr . th dport; }}",
            f"add set {_TABLE} s {{ type ipv4_addr; flags dynamic, timeout; timeout 9s; size 16; }}",
            f"add chain {_TABLE} c {{ type nat hook prerouting priority dstnat - 5; }}",
            f"add rule {_TABLE} c dnat ip to {_CHOICE} map @m",
            f"add rule {_TABLE} c update @s {{ ip saddr }} meta l4proto tcp dnat ip to 10.0.0.1:80",
            f"add map {_TABLE} h {{ type ipv4_addr . ipv4_addr : ipv4_addr; }}",
            f"add chain {_TABLE} p {{ type nat hook postrouting priority srcnat - 5; }}",
            f"add rule {_TABLE} p ct status dnat snat ip to ip saddr . ip daddr map @h",
        ),
    ),
)


def run(features: Sequence[Feature] = FEATURES) -> tuple[str, ...]:
    """StackError that names the first feature which is missing and without which no pod starts; in words what
    else there is not. Blocking.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="trial") as thread:
        return thread.submit(_run, features).result()


def _run(features: Sequence[Feature]) -> tuple[str, ...]:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise errors.StackError(f"cannot make a network namespace for a trial: {os.strerror(number)}")
    try:
        kernel = nft.Nft()
    except nft.NftError as error:
        raise errors.StackError(f"cannot start: {error}") from error
    try:
        for feature in features:
            _try(kernel, feature)
    finally:
        kernel.close()
    return tuple(_try_shaping())


def _try(kernel: nft.Nft, feature: Feature) -> None:
    # What the feature before has left goes in the same transaction.
    lines = (f"add table {_TABLE}", f"delete table {_TABLE}", f"add table {_TABLE}", *feature.commands)
    try:
        _ = kernel.run("\n".join(lines))
    except nft.NftError as error:
        told = str(error).splitlines()[0].removeprefix("Error: ")
        remedy = (
            f"use a kernel with {feature.option}, or install the package of its modules"
            # So the library begins what the kernel says; all else is its own.
            if "Could not process rule" in told
            else f"upgrade nftables to {LIBNFTABLES} or later"
        )
        raise errors.StackError(
            f"cannot start: nftables of this machine (libnftables {_version(kernel)}, Linux "
            f"{os.uname().release}) has no {feature.name}: {told}; {remedy} ({MACHINE})"
        ) from error


def _version(kernel: nft.Nft) -> str:
    try:
        found = kernel.read("list tables")
    except nft.NftError:
        return "?"
    return next((str(one["metainfo"]["version"]) for one in found if "metainfo" in one), "?")


def _try_shaping() -> Iterator[str]:
    """What limits a pod's traffic; without it other pods start."""
    try:
        with pyroute2.IPRoute() as netlink:
            netlink.tc("add", "tbf", _LOOPBACK, handle=0x10000, rate=125_000, burst=16_384, latency=25_000)
            netlink.tc("add", "ingress", _LOOPBACK)
            # With its first device the module would give the machine two more that stay.
            if not has_ifb_module(pathlib.Path("/lib/modules", os.uname().release)):
                netlink.link("add", kind="ifb", ifname="trial")
    except exceptions.NetlinkError as error:
        yield (
            "pods with the annotation kubernetes.io/ingress-bandwidth or egress-bandwidth cannot start: "
            f"this kernel has no queue tbf, queue ingress or device ifb: {os.strerror(error.code)}; use one "
            f"with CONFIG_NET_SCH_TBF, CONFIG_NET_SCH_INGRESS and CONFIG_IFB ({MACHINE})"
        )


def has_ifb_module(modules: pathlib.Path) -> bool:
    """Whether there is one that would be loaded."""
    try:
        return "/ifb.ko" in (modules / "modules.dep").read_text()
    except OSError:
        return False
