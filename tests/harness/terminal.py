"""A command at a terminal of its own, as a person sees it: what it shows, what is typed, how big it is."""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from typing import Self

KILLED_AFTER_S = 10.0


class Terminal:
    """Runs `argv` with a new terminal as its controlling one, so that signals of keys and sizes reach it."""

    def __init__(self, argv: Sequence[str], *, rows: int, columns: int) -> None:
        self._ours, theirs = os.openpty()
        self.resize(rows=rows, columns=columns)
        self.shown = ""
        try:
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *argv], stdin=theirs, stdout=theirs, stderr=theirs
            )
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(KILLED_AFTER_S)
        os.close(self._ours)

    def resize(self, *, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str, *, timeout_s: float = 30) -> re.Match[str]:
        """Until what was shown since the last such wait matches; that is not looked at again."""
        end_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            while not (match := re.search(pattern, self.shown)):
                left_s = end_s - time.monotonic()
                assert left_s > 0, f"not within {timeout_s} s: {pattern!r}; shown: {self.shown!r}"
                if selector.select(left_s):
                    self.shown += self._read(pattern)
        self.shown = self.shown[match.end() :]
        return match

    def ask(self, command: str, pattern: str, *, timeout_s: float = 30) -> None:
        """Type the command again and again until its answer matches."""
        end_s = time.monotonic() + timeout_s
        while True:
            self.type(f"{command}\n")
            try:
                self.wait_for(pattern, timeout_s=1)
            except AssertionError:
                if time.monotonic() > end_s:
                    raise
            else:
                return

    def exit_code(self, timeout_s: float = 30) -> int:
        return self._process.wait(timeout_s)

    def _read(self, pattern: str) -> str:
        try:
            return os.read(self._ours, 65536).decode(errors="replace")
        except OSError:
            # The other end is closed: the command has ended.
            raise AssertionError(f"ended before {pattern!r} was shown; shown: {self.shown!r}") from None
