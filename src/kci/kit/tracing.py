"""Traces of a program, sent to a collector: the one door to OpenTelemetry.

Off unless a collector is named by OpenTelemetry's own variables; where it is off, the library is not even
loaded. What the variables say is the library's to follow: which traces are kept (OTEL_TRACES_SAMPLER), the
program's name (OTEL_SERVICE_NAME), what else to say of it (OTEL_RESOURCE_ATTRIBUTES), how to send
(OTEL_EXPORTER_OTLP_*). A collector that is away costs the program nothing but the spans.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from kci.kit import observing

if TYPE_CHECKING:
    from opentelemetry import trace

log = structlog.get_logger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OVER_HTTP = "http/protobuf"
# For the spans that are left at the end; who waits for a program's stop does not wait for a collector.
FLUSH_S = 2.0


def of(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that are OpenTelemetry's, to hand them on to a program."""
    return {name: value for name, value in variables.items() if name.startswith("OTEL_")}


def is_wanted(variables: Mapping[str, str]) -> bool:
    """Whether the environment names a collector, and nothing in it says no."""
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if variables.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return any(variables.get(name, "").strip() for name in ENDPOINTS)


@contextlib.asynccontextmanager
async def opened(program: str, version: str, variables: Mapping[str, str]) -> AsyncIterator[observing.Tracer]:
    """The program's tracer inside the block; what was not sent by its end is sent then, for a moment.

    `variables` decide whether there is one; the library reads the rest from the environment itself. What it
    cannot use is a warning: to be traced is no condition of work.
    """
    if not is_wanted(variables):
        yield observing.NO_TRACER
        return
    protocol = next((variables[name] for name in _PROTOCOLS if variables.get(name)), _OVER_HTTP)
    if protocol != _OVER_HTTP:
        log.warning("traces are sent over another protocol than asked", asked=protocol, used=_OVER_HTTP)
    try:
        provider = _open(program, version, variables)
    except Exception as error:  # noqa: BLE001  (whatever the library finds wrong with its variables)
        log.warning("traces are not sent", error=repr(error))
        yield observing.NO_TRACER
        return
    log.info("traces are sent")
    try:
        yield _Tracer(provider.get_tracer("kci", version))
    finally:
        await _shut(provider)


def _open(program: str, version: str, variables: Mapping[str, str]) -> Any:
    # Here, so that who is not traced does not load them: they take longer than the rest of a start.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

    named = "service.name=" in variables.get("OTEL_RESOURCE_ATTRIBUTES", "").replace(" ", "")
    own = {} if named or variables.get("OTEL_SERVICE_NAME") else {"service.name": program}
    provider = TracerProvider(
        resource=Resource.create({**own, "service.version": version}), shutdown_on_exit=False
    )

    class Exporter(OTLPSpanExporter):
        """Says once that the collector does not take them, and once that it does again."""

        is_refused = False

        def export(self, spans: Any) -> SpanExportResult:
            result = super().export(spans)
            is_refused = result is not SpanExportResult.SUCCESS
            if is_refused and not self.is_refused:
                log.warning("the collector takes no traces, what is sent is lost")
            elif self.is_refused and not is_refused:
                log.info("the collector takes traces again")
            self.is_refused = is_refused
            return result

    # It tells of each try, and not as our programs do.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    provider.add_span_processor(BatchSpanProcessor(Exporter()))
    return provider


async def _shut(provider: Any) -> None:
    """In a thread that a program's end does not wait for: a collector may take its time."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):
            # The loop may be gone by now.
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=shut, name="traces", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            _ = await done.wait()


class _Tracer:
    """observing.Tracer"""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(
        self,
        name: str,
        *,
        parent: str = "",
        kind: observing.Kind = observing.Kind.INTERNAL,
        attributes: observing.Attributes = observing.NONE,
        since_s: float = 0.0,
    ) -> observing.Span:
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation import tracecontext

        # What is no traceparent begins a trace of its own.
        context = tracecontext.TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
        return self.span(name, context, kind, attributes, since_s)

    def span(
        self,
        name: str,
        context: Any,
        kind: observing.Kind,
        attributes: observing.Attributes,
        since_s: float,
    ) -> observing.Span:
        from opentelemetry import trace

        begun = self._tracer.start_span(
            name,
            context=context,
            kind=trace.SpanKind[kind.name],
            attributes=dict(attributes),
            start_time=int(since_s * 1e9) if since_s else None,
            record_exception=False,
        )
        return _Span(self, begun)


class _Span:
    """observing.Span"""

    def __init__(self, tracer: _Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._has_ended = False

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child(
        self,
        name: str,
        *,
        kind: observing.Kind = observing.Kind.INTERNAL,
        attributes: observing.Attributes = observing.NONE,
        since_s: float = 0.0,
    ) -> observing.Span:
        from opentelemetry import context, trace

        under = trace.set_span_in_context(self._span, context.Context())
        return self._tracer.span(name, under, kind, attributes, since_s)

    def end(self, code: str = observing.OK) -> None:
        from opentelemetry import trace

        if self._has_ended:
            return
        self._has_ended = True
        if code != observing.OK:
            # The kind alone: a message could hold what nobody should see.
            self._span.set_attribute("error.type", code)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()
