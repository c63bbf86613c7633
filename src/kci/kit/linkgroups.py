"""Groups of network links, by which a program knows its own among others': the kernel keeps a number with
each link, from the moment that it is made, and both netlink and nftables can ask for it.
"""

from __future__ import annotations

import zlib


def number_of(name: str) -> int:
    """The number of the group with this name: the same in every program, and never 0, which links have that
    nobody gave a group.
    """
    return zlib.crc32(name.encode()) & 0x7FFFFFFF or 1
