"""Flows of UDP and SCTP that the kernel remembers. Blocking, in the thread of the wiring.

A flow without a connection goes on to the endpoint that it began with for as long as its client sends, so
those to endpoints that are gone have to be forgotten: then the next packet is a new choice. TCP ends by
itself. Only flows of our members to our service addresses are ever touched.
Which of them: kube-proxy's pkg/proxy/conntrack/cleanup.go (1.36); it leaves those of a Service without any
endpoint, we do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyroute2
from pyroute2.netlink.nfnetlink import nfctsocket

from kci.kcilet import ports

_NUMBERS = {"udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}


@dataclasses.dataclass(frozen=True)
class Flow:
    source: ports.Endpoint
    target: ports.ServiceAddress
    # Who answers: the endpoint, or the service address itself if nothing was exchanged.
    answers: ports.Endpoint


def stale(change: ports.ServiceChange, old: ports.ServiceTable) -> dict[ports.ServiceAddress, ports.Backend]:
    """Of which addresses flows may have to be forgotten, and where those that stay may lead. Pure."""
    put = {key: backend for key, backend in change.put.items() if key.protocol in _NUMBERS}
    if not change.is_whole:
        put = {key: backend for key, backend in put.items() if _lost(old.get(key), backend)}
    gone = old.keys() - change.put.keys() if change.is_whole else change.gone
    return put | {key: ports.Backend() for key in gone if key.protocol in _NUMBERS}


def is_stale(flow: Flow, now: ports.Backend) -> bool:
    """Pure."""
    return flow.answers not in _targets(now)


def _lost(before: ports.Backend | None, now: ports.Backend) -> bool:
    """Whether flows may lead where they must not; a new address may have some from before it was known."""
    return before is None or not set(_targets(before)) <= set(_targets(now))


def _targets(backend: ports.Backend) -> tuple[ports.Endpoint, ...]:
    return backend.endpoints if backend.serving is None else (*backend.endpoints, *backend.serving)


class Flows:
    """On a netlink socket of its own. Methods raise pyroute2.NetlinkError or OSError."""

    def __init__(self) -> None:
        self._netlink = pyroute2.NFCTSocket()

    def close(self) -> None:
        self._netlink.close()

    def forget(self, suspects: Mapping[ports.ServiceAddress, ports.Backend], sources: Collection[str]) -> int:
        """Of these addresses the flows from these sources that lead elsewhere; how many it were."""
        found = [
            flow
            for protocol in sorted({key.protocol for key in suspects})
            for flow in self._list(protocol)
            if flow.target in suspects
            and flow.source.address in sources
            and is_stale(flow, suspects[flow.target])
        ]
        for flow in found:
            with _absent_is_fine():
                self._netlink.entry("del", tuple_orig=_tuple_of(flow))
        return len(found)

    def _list(self, protocol: str) -> Iterator[Flow]:
        number = _NUMBERS[protocol]
        # The kernel sends those of the protocol alone.
        for message in self._netlink.dump(tuple_orig=nfctsocket.NFCTAttrTuple(proto=number)):
            origin, answer = _ends(message, "CTA_TUPLE_ORIG"), _ends(message, "CTA_TUPLE_REPLY")
            if origin is None or answer is None or origin[0] != number:
                continue
            _, source, target = origin
            yield Flow(source, ports.ServiceAddress(target.address, protocol, target.port), answer[1])


def _ends(message: Any, name: str) -> tuple[int, ports.Endpoint, ports.Endpoint] | None:
    """Protocol, source and target of one direction; None for what has no IPv4 addresses and ports."""
    found = message.get_attr(name)
    addresses = found and found.get_attr("CTA_TUPLE_IP")
    protocol = found and found.get_attr("CTA_TUPLE_PROTO")
    if not addresses or not protocol or not addresses.get_attr("CTA_IP_V4_SRC"):
        return None
    source_port = protocol.get_attr("CTA_PROTO_SRC_PORT")
    target_port = protocol.get_attr("CTA_PROTO_DST_PORT")
    if source_port is None or target_port is None:
        return None
    return (
        int(protocol.get_attr("CTA_PROTO_NUM")),
        ports.Endpoint(addresses.get_attr("CTA_IP_V4_SRC"), source_port),
        ports.Endpoint(addresses.get_attr("CTA_IP_V4_DST"), target_port),
    )


def _tuple_of(flow: Flow) -> Any:
    return nfctsocket.NFCTAttrTuple(
        saddr=flow.source.address,
        sport=flow.source.port,
        daddr=flow.target.address,
        dport=flow.target.port,
        proto=_NUMBERS[flow.target.protocol],
    )


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except pyroute2.NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
