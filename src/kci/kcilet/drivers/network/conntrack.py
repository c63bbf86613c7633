"""Flows of UDP and SCTP to Services, forgotten with the endpoint that they went to.

A flow without a connection goes on to the endpoint that it began with for as long as its client sends, so
those to endpoints that are gone have to be forgotten: then the next packet is a new choice. TCP ends by
itself. Only flows of our members to our service addresses are ever touched.
Which of them: kube-proxy's pkg/proxy/conntrack/cleanup.go (1.36); it leaves those of a Service without any
endpoint, we do not.

There may be very many, so a thread of their own does it, and no change of rules waits for it: changes that
come meanwhile are one more sweep, which goes by what holds then. After a restart the first whole table has
all addresses swept, so nothing is lost with the program.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable, Iterable, Mapping

import structlog

from kci.kcilet import ports
from kci.kcilet.drivers.network import tracked
from kci.kit import backoff as backoffs

log = structlog.get_logger(__name__)
BACKOFF = backoffs.Backoff(initial_s=0.5, cap_s=30.0)
# A sweep of a full table takes less.
_END_S = 10.0
_NUMBERS = {"udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}


def stale(change: ports.ServiceChange, old: ports.ServiceTable) -> frozenset[ports.ServiceAddress]:
    """Of which addresses flows may have to be forgotten. Pure."""
    put = {key for key in change.put if key.protocol in _NUMBERS}
    if not change.is_whole:
        put = {key for key in put if _lost(old.get(key), change.put[key])}
    gone = old.keys() - change.put.keys() if change.is_whole else change.gone
    return frozenset(put | {key for key in gone if key.protocol in _NUMBERS})


def _lost(before: ports.Backend | None, now: ports.Backend) -> bool:
    """Whether flows may lead where they must not; a new address may have some from before it was known."""
    return before is None or not set(_leads(before)) <= set(_leads(now))


def _leads(backend: ports.Backend) -> tuple[ports.Endpoint, ...]:
    return backend.endpoints if backend.serving is None else (*backend.endpoints, *backend.serving)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What holds of an outlook."""

    table: ports.ServiceTable
    # The members' addresses.
    sources: frozenset[str]


def to_forget(
    flows: Iterable[tracked.Flow],
    suspects: Mapping[str, Iterable[ports.ServiceAddress]],
    seen: Mapping[str, Seen],
) -> list[tracked.Flow]:
    """Those of members to suspects of their outlook that lead elsewhere than it says. Pure."""
    outlooks = {
        socket.inet_aton(source): name for name in suspects if name in seen for source in seen[name].sources
    }
    allowed = {
        (name, _to_target(key)): _to_answers(seen[name].table.get(key, ports.Backend()))
        for name in suspects
        if name in seen
        for key in suspects[name]
    }
    found = []
    for flow in flows:
        leads = allowed.get((outlooks.get(flow.source, ""), flow.target))
        if leads is not None and flow.answers not in leads:
            found.append(flow)
    return found


def _to_target(key: ports.ServiceAddress) -> bytes:
    return tracked.packed_target(key.address, _NUMBERS[key.protocol], key.port)


def _to_answers(now: ports.Backend) -> frozenset[bytes]:
    return frozenset(tracked.packed(one.address, one.port) for one in _leads(now))


class Clearing:
    """`note` in any thread; the socket is in the network namespace of the thread that noted first."""

    def __init__(self, open_table: Callable[[], tracked.Table] = tracked.Table) -> None:
        self._open_table = open_table
        self._changed = threading.Condition()
        self._suspects: dict[str, frozenset[ports.ServiceAddress]] = {}
        # Of the outlooks with suspects, waiting or in the sweep that goes on.
        self._seen: dict[str, Seen] = {}
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def note(self, outlook: str, suspects: frozenset[ports.ServiceAddress], seen: Seen) -> None:
        """Rules have changed: this holds now, and these may have flows that lead elsewhere. Waits for
        nothing.
        """
        with self._changed:
            if suspects and seen.sources:
                self._suspects[outlook] = self._suspects.get(outlook, frozenset()) | suspects
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="conntrack", daemon=True)
                    self._thread.start()
            elif outlook not in self._seen:
                return
            self._seen[outlook] = seen
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether all that was noted has been done by then."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._seen, timeout_s)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_END_S)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                if failures:
                    _ = self._changed.wait_for(lambda: self._is_closed, BACKOFF.delay_s(failures))
                _ = self._changed.wait_for(lambda: self._is_closed or self._suspects)
                if self._is_closed:
                    return
                taken, self._suspects = self._suspects, {}
            try:
                self._sweep(taken)
            except Exception as error:
                failures += 1
                log.warning(
                    "flows to gone endpoints not forgotten, trying again",
                    next_try_s=round(BACKOFF.delay_s(failures), 2),
                    error=str(error),
                    exc_info=not isinstance(error, OSError),
                )
            else:
                failures = 0
            self._done(taken if failures else {})

    def _sweep(self, suspects: Mapping[str, frozenset[ports.ServiceAddress]]) -> None:
        targets = frozenset(_to_target(key) for keys in suspects.values() for key in keys)
        with self._open_table() as table:
            flows = table.to_targets(targets)
            # A flow may have begun after a later change.
            with self._changed:
                seen = dict(self._seen)
            table.delete([flow.handle for flow in to_forget(flows, suspects, seen)])

    def _done(self, failed: Mapping[str, frozenset[ports.ServiceAddress]]) -> None:
        with self._changed:
            for name, keys in failed.items():
                self._suspects[name] = self._suspects.get(name, frozenset()) | keys
            self._seen = {name: seen for name, seen in self._seen.items() if name in self._suspects}
            self._changed.notify_all()
