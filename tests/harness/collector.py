"""A trace collector on loopback: takes OTLP over HTTP and keeps what came, decoded.

In a test's own process, or as a program in a stack's network namespace: `python collector.py PORT FILE` adds
each span to FILE as a line of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.server
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

TAKES_BYTES = 16 << 20
# Of one in a stack's network namespace.
PORT = 4318
FILE = "spans.jsonl"
VARIABLES = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{PORT}",
    # Sent soon, so that a test does not wait for it.
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}


@dataclasses.dataclass(frozen=True)
class Span:
    """Ids are hexadecimal; no parent is an empty one. Times are Unix nanoseconds."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    service: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]


def decode(body: bytes) -> list[Span]:
    request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            trace=one.trace_id.hex(),
            id=one.span_id.hex(),
            parent=one.parent_span_id.hex(),
            name=one.name,
            kind=one.kind,
            service=_plain(resource.resource.attributes).get("service.name", ""),
            began_ns=one.start_time_unix_nano,
            ended_ns=one.end_time_unix_nano,
            attributes=_plain(one.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for one in scope.spans
    ]


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class Collector:
    """Listens inside the block."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Span] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _handler(self.take))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, body: bytes) -> None:
        self.spans += decode(body)


def _handler(take: Any) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5.0

        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers["Content-Length"]), TAKES_BYTES))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            is_ours = self.path == "/v1/traces"
            if is_ours:
                take(body)
            self.send_response(200 if is_ours else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    return Handler


@contextlib.contextmanager
def beside(inside: Callable[..., list[str]], file: pathlib.Path) -> Iterator[None]:
    """A collector as a process, where `inside` puts a command; it has its spans in the file."""
    program = subprocess.Popen(inside(sys.executable, __file__, str(PORT), str(file)))
    try:
        yield
    finally:
        program.terminate()
        program.wait(timeout=10)


def read(file: pathlib.Path) -> list[Span]:
    return [Span(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def main(port: int, file: pathlib.Path) -> None:
    def take(body: bytes) -> None:
        with file.open("a") as out:
            for one in decode(body):
                out.write(json.dumps(dataclasses.asdict(one)) + "\n")

    http.server.ThreadingHTTPServer(("127.0.0.1", port), _handler(take)).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
