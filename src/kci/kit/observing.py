"""How a part tells what it does to whoever measures or traces it, without knowing who that is.

What is measured calls plain callables. What is traced opens a span where a trace begins, with the tracer that
main.py gave it; everything below opens its steps under the span that is current, if there is one, and needs
no tracer. Without a trace all of it does nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeAlias

OK = "OK"


class OnCall(Protocol):
    """Takes a call that was made: which, how it ended (OK, or the error's kind), and how long it took."""

    def __call__(self, call: str, code: str, took_s: float) -> None: ...


class OnCount(Protocol):
    """Takes one more of something, by its labels' values."""

    def __call__(self, *labels: str) -> None: ...


class OnTime(Protocol):
    """Takes how long something took, by its labels' values."""

    def __call__(self, took_s: float, *labels: str) -> None: ...


def no_call(call: str, code: str, took_s: float) -> None:
    """Nobody measures."""


def no_count(*labels: str) -> None:
    """Nobody measures."""


def no_time(took_s: float, *labels: str) -> None:
    """Nobody measures."""


def kind_of(error: BaseException) -> str:
    """There are few kinds of errors, so that a label may have them all."""
    return type(error).__name__.removesuffix("Error")


@contextlib.contextmanager
def told(on_call: OnCall, call: str, *, code_of: Callable[[BaseException], str] = kind_of) -> Iterator[None]:
    """Around a call. Its errors pass."""
    began_s, code = time.perf_counter(), OK
    try:
        yield
    except BaseException as error:
        code = code_of(error)
        raise
    finally:
        on_call(call, code, time.perf_counter() - began_s)


# ---- traces -------------------------------------------------------------------------------------

# Of OpenTelemetry's conventions. Never a secret, and no text that could hold one.
Attributes: TypeAlias = Mapping[str, str | int]
NONE: Attributes = {}


class Kind(enum.Enum):
    """Which side of a call between programs a span is."""

    INTERNAL = enum.auto()
    SERVER = enum.auto()
    CLIENT = enum.auto()


class Span(Protocol):
    """Something that takes time, begun. `end` once; a later one does nothing."""

    @property
    def traceparent(self) -> str:
        """What makes another program's span a child of this one (W3C Trace Context); empty for no trace."""
        ...

    def child(
        self, name: str, /, *, kind: Kind = Kind.INTERNAL, attributes: Attributes = NONE, since_s: float = 0.0
    ) -> Span:
        """`since_s` is when it began (Unix seconds), if that is not now."""
        ...

    def end(self, code: str = OK) -> None:
        """`code` is OK, or the kind of the error that it ended with."""
        ...


class Tracer(Protocol):
    """Begins traces, and goes on with those of others: `parent` is their traceparent."""

    def begin(
        self,
        name: str,
        /,
        *,
        parent: str = "",
        kind: Kind = Kind.INTERNAL,
        attributes: Attributes = NONE,
        since_s: float = 0.0,
    ) -> Span: ...


class _Untraced:
    """Nobody traces here. What another program traces is carried on to the next one."""

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def begin(self, _name: str, *, parent: str = "", **_: object) -> Span:
        return _Untraced(parent) if _TRACEPARENT.fullmatch(parent) else NO_SPAN

    def child(self, _name: str, **_: object) -> Span:
        return self

    def end(self, code: str = OK) -> None:
        pass


_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
NO_TRACER: Tracer = _Untraced()
NO_SPAN: Span = _Untraced()
# A task inherits it, as structlog's bound values are.
_current: contextvars.ContextVar[Span] = contextvars.ContextVar("span", default=NO_SPAN)


def current() -> Span:
    return _current.get()


@contextlib.contextmanager
def within(span: Span) -> Iterator[None]:
    """Have steps inside the block be the span's. It goes on afterwards."""
    if span is NO_SPAN:
        yield
        return
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def spanned(span: Span, *, code_of: Callable[[BaseException], str] = kind_of) -> Iterator[None]:
    """`within` a span that ends with the block. Errors pass."""
    if span is NO_SPAN:
        yield
        return
    code = OK
    try:
        with within(span):
            yield
    except BaseException as error:
        code = code_of(error)
        raise
    finally:
        span.end(code)


def step(
    name: str, *, kind: Kind = Kind.INTERNAL, attributes: Attributes = NONE
) -> contextlib.AbstractContextManager[None]:
    """Around a part of what the current span is about; nothing where nothing is traced."""
    span = _current.get()
    if span is NO_SPAN:
        return contextlib.nullcontext()
    return spanned(span.child(name, kind=kind, attributes=attributes))
