"""A tracer that keeps its spans: an observing.Tracer."""

import dataclasses

from kci.kit import observing


@dataclasses.dataclass(eq=False)
class Span:
    tracer: "Tracer"
    name: str
    # Of another program, or the span above.
    parent: str
    number: int
    kind: observing.Kind
    attributes: dict[str, object]
    # None while it goes on.
    code: str | None = None

    @property
    def traceparent(self):
        return f"00-{'a' * 32}-{self.number:016x}-01"

    def child(self, name, *, kind=observing.Kind.INTERNAL, attributes=observing.NONE, since_s=0.0):
        return self.tracer.begin(name, parent=self.traceparent, kind=kind, attributes=attributes)

    def end(self, code=observing.OK):
        if self.code is None:
            self.code = code


class Tracer:
    def __init__(self):
        self.spans = []

    def begin(self, name, *, parent="", kind=observing.Kind.INTERNAL, attributes=observing.NONE, since_s=0.0):
        span = Span(self, name, parent, len(self.spans) + 1, kind, dict(attributes))
        self.spans.append(span)
        return span

    def named(self, name):
        return [one for one in self.spans if one.name == name]

    def parent_of(self, span):
        """The name of the span above; what another program sent as it is."""
        above = [one.name for one in self.spans if one.traceparent == span.parent]
        return above[0] if above else span.parent
