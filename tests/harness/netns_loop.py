"""An event loop in a thread that lives in a network namespace: for clients and proxies of a stack in it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pathlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
STOP_TIMEOUT_S = 10.0


def enter(netns: str) -> None:
    """This thread alone moves; every socket that it makes from now on is in there."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(pathlib.Path("/run/netns", netns), os.O_RDONLY)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {netns}")
    finally:
        os.close(descriptor)


class NetnsLoop:
    """Used as `with NetnsLoop(netns) as loop: loop.call(coroutine)`."""

    def __init__(self, netns: str) -> None:
        self._netns = netns
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"loop in {netns}")
        self._entered: OSError | None = None
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._entered is not None:
            self._thread.join()
            raise self._entered
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_TIMEOUT_S)

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = 60) -> T:
        """Run it there and wait for what it returns or raises."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        self.loop.call_soon_threadsafe(call, *arguments)

    def _run(self) -> None:
        try:
            enter(self._netns)
            self.loop.call_soon(self._started.set)
            self.loop.run_forever()
        except OSError as error:
            self._entered = error
            self._started.set()
        finally:
            self.loop.close()
