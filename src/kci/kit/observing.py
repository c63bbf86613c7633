"""How a part tells what it does to whoever measures it, without knowing who that is: plain callables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

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
