"""The pods' gateways as addresses of the machine's own, on the link that holds them. Blocking, in the thread
of the wiring.

The operator may have given that link addresses before us (a stack does: its first subnet's gateway). What we
add bears marks, so that after any restart we remove what is ours and nothing else: a label, which every
kernel keeps, and a protocol.
"""

from __future__ import annotations

import contextlib
import errno
import socket

import pyroute2

from kci.kit import crashpoints

# `ip -d address` shows it as proto; numbers from 4 on are free for programs (linux/if_addr.h). Kernels
# before 5.18 do not keep it.
_OURS = 0x4B
# Behind the holder's name, as aliases of interfaces are written.
_LABEL = ":kci"
# Of a label the kernel keeps as much as of an interface's name (IFNAMSIZ, with the zero).
_LABEL_BYTES = 15


class TakenError(Exception):
    """Another link of the machine has the address; the text says which."""


class Gateways:
    """On the machine's netlink socket, which belongs to the wiring. Raises pyroute2.NetlinkError, and OSError
    without the holder.
    """

    def __init__(self, machine: pyroute2.IPRoute, holder: str) -> None:
        self._machine = machine
        self._holder = holder
        self._label = holder[: _LABEL_BYTES - len(_LABEL)] + _LABEL
        # What was found or made, on the link with this number.
        self._known: set[str] = set()
        self._known_on = 0

    def ensure(self, gateway: str) -> None:
        """Have this address on the holder. TakenError if another link of the machine has it: were the holder
        given it as well, packets for the one could come to the other.
        """
        index = self._index()
        if index == self._known_on and gateway in self._known:
            return
        if gateway not in self._list(index):
            self._check_free(gateway)
            crashpoints.reached("kcilet.add_gateway.before")
            try:
                self._machine.addr(
                    "add", index=index, address=gateway, prefixlen=32, proto=_OURS, label=self._label
                )
            except pyroute2.NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
            crashpoints.reached("kcilet.add_gateway.after")
        if index != self._known_on:
            self._known, self._known_on = set(), index
        self._known.add(gateway)

    def keep(self, wanted: frozenset[str]) -> None:
        """Have these, and of those that we added no others."""
        index = self._index()
        for gateway in sorted(wanted):
            # Whoever needs it is told by `ensure`; the others are not kept from theirs.
            with contextlib.suppress(TakenError):
                self.ensure(gateway)
        for gateway, is_ours in self._list(index).items():
            if is_ours and gateway not in wanted:
                crashpoints.reached("kcilet.remove_gateway.before")
                self._machine.addr("del", index=index, address=gateway, prefixlen=32)
                crashpoints.reached("kcilet.remove_gateway.after")
                self._known.discard(gateway)

    def _check_free(self, gateway: str) -> None:
        for found in self._machine.get_addr(family=socket.AF_INET):
            if found.get_attr("IFA_LOCAL") == gateway:
                name = socket.if_indextoname(found["index"])
                raise TakenError(
                    f"the gateway address {gateway} is the machine's own on {name}: "
                    "choose another gateway or range for the subnet"
                )

    def _index(self) -> int:
        return socket.if_nametoindex(self._holder)

    def _list(self, index: int) -> dict[str, bool]:
        """The holder's addresses, and whether they are ours."""
        return {
            found.get_attr("IFA_LOCAL"): found.get_attr("IFA_PROTO") == _OURS
            or found.get_attr("IFA_LABEL") == self._label
            for found in self._machine.get_addr(family=socket.AF_INET, index=index)
        }
