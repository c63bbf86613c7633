"""Limits of a pod's traffic, by token buckets with a small burst. Blocking, in the thread of the wiring.

Both are on the machine's side, where the pod cannot reach them. What goes to the pod leaves the machine's
end of its veth pair, through a bucket there. What the pod sends comes in at that end, where the kernel holds
nothing back: it is sent through a device of its own (ifb) first, with a bucket as well.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import pyroute2
from pyroute2.netlink import rtnl

from kci.kcilet import ports

# Root and ingress, as tc(8) numbers them.
_BUCKET = 0x10000
_INGRESS = 0xFFFF0000
# A packet waits no longer for its turn: enough for TCP to fill the bucket, and not felt as a stall.
_QUEUED_S = 0.05
_LEAST_BURST_BYTES = 16 << 10
_BURST_S = 0.004
# What the kernel's 32 bits of bytes per second hold; links here are slower.
_MOST_BITS = 8 * ((1 << 32) - 1)
_ALL_PROTOCOLS = 0x0003
_MATCH_ALL = ["0x0/0x0+0"]


def device_name(link_name: str) -> str:
    """The device through which the traffic from the pod at this link is sent."""
    return f"ki{link_name[2:]}"


def bucket(bits: int) -> dict[str, int]:
    """The token bucket for so many bits per second, as the kernel wants it: bytes, ticks."""
    rate = bits // 8
    burst = max(_LEAST_BURST_BYTES, int(rate * _BURST_S))
    return {"rate": rate, "burst": burst, "limit": int(rate * _QUEUED_S) + burst}


class Shaper:
    """On the machine's netlink socket, which belongs to the wiring."""

    def __init__(self, machine: pyroute2.IPRoute) -> None:
        self._machine = machine

    def limit(self, name: str, limits: ports.TrafficLimits) -> None:
        """Have these limits and no others at a link; 0 is none. Raises pyroute2.NetlinkError."""
        index = self._index(name)
        if index is None:
            return
        self._set_bucket(index, limits.ingress_bits)
        if not _is_limit(limits.egress_bits):
            self.remove(name)
            with _absent_is_fine():
                self._machine.tc("del", "ingress", index)
            return
        device = self._ensure_device(device_name(name))
        self._set_bucket(device, limits.egress_bits)
        try:
            self._machine.tc("add", "ingress", index)
        except pyroute2.NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            # It is made and given its filter one after the other: perhaps only the first was done.
            self._machine.tc("del", "ingress", index)
            self._machine.tc("add", "ingress", index)
        self._machine.tc(
            "add-filter",
            "u32",
            index,
            parent=_INGRESS,
            protocol=_ALL_PROTOCOLS,
            keys=_MATCH_ALL,
            target=0,
            action={"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": device},
        )

    def remove(self, name: str) -> None:
        """Remove the device of a link; what hangs on the link goes with the link."""
        device = self._index(device_name(name))
        if device is not None:
            with _absent_is_fine():
                self._machine.link("del", index=device)

    def _index(self, name: str) -> int | None:
        found = self._machine.link_lookup(ifname=name)
        return int(found[0]) if found else None

    def _ensure_device(self, name: str) -> int:
        index = self._index(name)
        if index is None:
            self._machine.link("add", kind="ifb", ifname=name, state="up")
            index = self._index(name)
        assert index is not None
        self._machine.link("set", index=index, state="up")
        return index

    def _set_bucket(self, index: int, bits: int) -> None:
        if _is_limit(bits):
            self._machine.tc("replace", "tbf", index, handle=_BUCKET, parent=rtnl.TC_H_ROOT, **_as_tc(bits))
        else:
            with _absent_is_fine():
                self._machine.tc("del", index=index, handle=_BUCKET, parent=rtnl.TC_H_ROOT)


def _as_tc(bits: int) -> dict[str, Any]:
    return dict(bucket(bits))


def _is_limit(bits: int) -> bool:
    return 0 < bits <= _MOST_BITS


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except pyroute2.NetlinkError as error:
        if error.code not in {errno.ENOENT, errno.ENODEV, errno.EINVAL}:
            raise
