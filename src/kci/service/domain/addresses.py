"""Choosing a group's address in its subnet.

The address that is kept for the group's name comes first (RetainIp). Then one that was never used, in order;
then the one that was released longest ago, so that a late packet or a stale endpoint seldom meets a new
owner; and only then one that is kept for another name. Network, broadcast and gateway are never given.
"""

from __future__ import annotations

import dataclasses
import ipaddress

from kci.contract import ids

Address = ipaddress.IPv4Address


@dataclasses.dataclass(frozen=True)
class Subnet:
    """Where groups get their addresses: all of the network, or from the first to the last."""

    subnet_id: ids.SubnetId
    network: ipaddress.IPv4Network
    gateway: Address
    first: Address | None = None
    last: Address | None = None


def choose_address(
    subnet: Subnet,
    *,
    highest_used: Address | None,
    longest_released: Address | None,
    kept_for_it: Address | None = None,
    kept_for_others: Address | None = None,
) -> Address | None:
    """The next address, None if all are taken. `highest_used` is the highest that was ever given; all others
    are free, and of this subnet: `longest_released` waits longest of those that are kept for nobody.
    """
    if kept_for_it is not None:
        return kept_for_it
    first, last = bounds(subnet)
    fresh = first if highest_used is None else max(first, int(highest_used) + 1)
    if fresh == int(subnet.gateway):
        fresh += 1
    if fresh <= last:
        return ipaddress.IPv4Address(fresh)
    return longest_released if longest_released is not None else kept_for_others


def mac_address(address: Address) -> str:
    """A locally administered MAC, unique in the subnet because it is made of the address."""
    return "0a:58:" + ":".join(f"{part:02x}" for part in address.packed)


def bounds(subnet: Subnet) -> tuple[int, int]:
    """First and last address for use, without the network's own and the broadcast address."""
    first, last = int(subnet.network.network_address) + 1, int(subnet.network.broadcast_address) - 1
    if subnet.first is not None:
        first = max(first, int(subnet.first))
    if subnet.last is not None:
        last = min(last, int(subnet.last))
    return first, last


def count_usable(subnet: Subnet) -> int:
    """How many groups there is room for."""
    first, last = bounds(subnet)
    return max(0, last - first + 1 - (first <= int(subnet.gateway) <= last))


def to_text(address: int) -> str:
    return str(ipaddress.IPv4Address(address))
