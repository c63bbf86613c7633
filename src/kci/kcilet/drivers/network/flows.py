"""Connections that the kernel tracks, forgotten with the pod whose address they had. Blocking; any thread.

An address is given to another pod some day. A flow that was let through to the former one would be let
through to the new one as well, by no rule of its own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from kci.kcilet.drivers.network import tracked

# Choosing has the kernel walk over its whole table three times for each.
_CHOSEN_ONE_BY_ONE = 16


def forget(addresses: Iterable[str]) -> None:
    """Have no flows with these addresses. OSError."""
    waiting = {socket.inet_aton(address) for address in addresses}
    with tracked.Table() as table:
        if len(waiting) > _CHOSEN_ONE_BY_ONE or not all(table.delete_with(one) for one in waiting):
            table.delete(table.with_addresses(waiting))
