"""Metrics of a program and the page that shows them: the one door to prometheus_client.

A program makes one registry in its main.py and hands the instruments on as plain callables (observing.py):
nothing that is measured knows this module, and there is no global. They count whether they are served or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import prometheus_client
import structlog

from kci.kit import observing, tasks

log = structlog.get_logger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A call to a runtime or an API: from a millisecond to the longest deadline that is usual.
CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# A start: to minutes of an image's pull.
START_BUCKETS_S = (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300)


@dataclasses.dataclass(frozen=True)
class Family:
    """A metric as the documentation shows it."""

    name: str
    kind: str
    about: str
    labels: tuple[str, ...] = ()


class Registry:
    """The metrics of one program, named `kci_<program>_…`, beside those of its process."""

    def __init__(self, program: str) -> None:
        self.families: list[Family] = []
        self._prefix = f"kci_{program}_"
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        # Of the library, for good: else each counter has a second one that says when it was made.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        _ = prometheus_client.ProcessCollector(registry=self._registry)

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> observing.OnCount:
        whole = self._note(f"{name}_total", "counter", about, labels)
        made = prometheus_client.Counter(whole, about, labels, registry=self._registry)

        def count(*values: str) -> None:
            (made.labels(*values) if values else made).inc()

        return count

    def histogram(
        self, name: str, about: str, labels: Sequence[str] = (), *, buckets_s: Sequence[float]
    ) -> observing.OnTime:
        whole = self._note(name, "histogram", about, labels)
        made = prometheus_client.Histogram(whole, about, labels, buckets=buckets_s, registry=self._registry)

        def observe(took_s: float, *values: str) -> None:
            (made.labels(*values) if values else made).observe(took_s)

        return observe

    def calls(self, name: str, about: str, call: str) -> observing.OnCall:
        """How many, how long, and how they ended: a histogram with the labels `call` names and `code`."""
        observe = self.histogram(name, about, (call, "code"), buckets_s=CALL_BUCKETS_S)

        def tell(call: str, code: str, took_s: float) -> None:
            observe(took_s, call, code)

        return tell

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Read whenever somebody looks, in another thread."""
        whole = self._note(name, "gauge", about, ())
        prometheus_client.Gauge(whole, about, registry=self._registry).set_function(read)

    def text(self) -> str:
        return prometheus_client.generate_latest(self._registry).decode()

    @contextlib.asynccontextmanager
    async def served(self, address: str) -> AsyncIterator[int]:
        """Answer `GET /metrics` at [host]:port inside the block, from a thread; the block is given the port.
        Nothing for an empty address. An address that cannot be had is a warning: to be measured is no
        condition of work.
        """
        if not address:
            yield 0
            return
        host, _, port = address.rpartition(":")
        try:
            server = _Server(host.strip("[]"), int(port), self.text)
        except OSError as error:
            log.warning("metrics are not served", address=address, error=str(error))
            yield 0
            return
        thread = threading.Thread(target=server.serve, name="metrics", daemon=True)
        thread.start()
        log.info("metrics are served", address=address)
        try:
            yield int(server.server_address[1])
        finally:
            await tasks.in_thread(server.end, thread)

    def _note(self, name: str, kind: str, about: str, labels: Sequence[str]) -> str:
        whole = self._prefix + name
        self.families.append(Family(whole, kind, about, tuple(labels)))
        return whole


class _Server(socketserver.ThreadingTCPServer):
    """Answers in threads of its own: a program that is busy is what one wants to see the metrics of."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, read: Callable[[], str]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.read = read
        self._has_ended = False
        super().__init__((host, port), _Handler)

    def serve(self) -> None:
        """Until `end`. The library's own loop looks twice a second whether it should end."""
        while not self._has_ended:
            self.handle_request()

    def end(self, thread: threading.Thread) -> None:
        self._has_ended = True
        # Wakes the loop, which then cannot accept any more.
        self.socket.shutdown(socket.SHUT_RDWR)
        thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's trouble."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    # Of a client that says nothing, or takes nothing.
    timeout = 5.0

    def do_GET(self) -> None:
        is_here = self.path.partition("?")[0] == "/metrics"
        body = (self.server.read() if is_here else "metrics are at /metrics\n").encode()
        self.send_response(200 if is_here else 404)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  (the library's name)
        """Scrapes are no news."""


def check_address(text: str) -> str:
    """What is wrong with an address to serve at; empty if nothing is. An empty one serves nothing."""
    _, colon, port = text.rpartition(":")
    if not text or (colon and port.isdecimal() and 0 < int(port) < 65536):
        return ""
    return f"is {text!r}: write [host]:port, such as :10255"
