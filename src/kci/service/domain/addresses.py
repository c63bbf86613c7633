"""Choosing a group's address in its subnet.

An address that was never used comes first, in order; then the one that was released longest ago, so that
a late packet or a stale endpoint seldom meets a new owner. Network, broadcast and gateway are never given.
"""

from __future__ import annotations

import dataclasses
import ipaddress

from kci.contract import ids


@dataclasses.dataclass(frozen=True)
class Subnet:
    """Where groups get their addresses."""

    subnet_id: ids.SubnetId
    network: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Address


def choose_address(
    subnet: Subnet,
    *,
    highest_used: ipaddress.IPv4Address | None,
    longest_released: ipaddress.IPv4Address | None,
) -> ipaddress.IPv4Address | None:
    """The next address, None if all are taken. `highest_used` is the highest that was ever given,
    `longest_released` the free one that waits longest, both of this subnet.
    """
    first, last = bounds(subnet.network)
    fresh = first if highest_used is None else max(first, int(highest_used) + 1)
    if fresh == int(subnet.gateway):
        fresh += 1
    if fresh <= last:
        return ipaddress.IPv4Address(fresh)
    return longest_released


def mac_address(address: ipaddress.IPv4Address) -> str:
    """A locally administered MAC, unique in the subnet because it is made of the address."""
    return "0a:58:" + ":".join(f"{part:02x}" for part in address.packed)


def bounds(network: ipaddress.IPv4Network) -> tuple[int, int]:
    """First and last address for use, without the network's own and the broadcast address."""
    return int(network.network_address) + 1, int(network.broadcast_address) - 1
