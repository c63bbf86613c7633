"""No test takes for ever: a pytest plugin. One that hangs fails, with what every thread was doing, and the
next one gets its turn; else it would take the whole of a long run with it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import pytest
import requirements


def limit_s() -> float:
    """For a test's setup, itself and its teardown, each; beyond what the slowest takes on a busy machine."""
    return requirements.scaled(quick=600, faults=1200, release=4 * 3600)


@contextlib.contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """Fails after that time, wherever the main thread is: in a loop, a lock or a wait for a process."""

    def end(_number: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__)
        # Not an Exception, so that nobody on the way takes it for a failure of its own work.
        pytest.fail(f"{what} took longer than {seconds:g} s (what every thread did is in stderr)")

    handler = signal.signal(signal.SIGALRM, end)
    outer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with limited(limit_s(), f"the setup of {item.nodeid}"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with limited(limit_s(), item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    with limited(limit_s(), f"the teardown of {item.nodeid}"):
        return (yield)
