"""Places at which a test may end this program as a crash would: without warning, at an exact step.

A point stands beside every write to a store and every call that changes something outside; its name is a
literal, one of a kind in the whole source (scripts/check_rules.py sees to both). Off, a point costs one
look at a variable. A test arms a program by a file of `name hit` lines, which is read at the start and at
SIGUSR2: at that hit the file is removed, so that the next start is not armed, and the program ends by
SIGKILL.
"""

from __future__ import annotations

import os
import pathlib
import signal

from kci.kit import errors

# What the programs read at their start: the path of the file, or of nothing yet: each start looks again.
ENVIRONMENT = "KCI_CRASH_POINTS"

_hits_left: dict[str, int] | None = None
_file = pathlib.Path()


def arm(file: str) -> None:
    """Take the hits of this file, now and again at each SIGUSR2; UserError if they cannot be read."""
    if not file:
        return
    path = pathlib.Path(file)
    _take(path)
    signal.signal(signal.SIGUSR2, lambda *_: _take(path))


def reached(name: str) -> None:
    """Here a crash is worth a test."""
    if _hits_left is None:
        return
    left = _hits_left.get(name, 0) - 1
    _hits_left[name] = left
    if left == 0:
        _file.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)


def _take(path: pathlib.Path) -> None:
    global _hits_left, _file  # noqa: PLW0603  (one switch for the process, as the signal is for it)
    _file, _hits_left = path, None
    if not path.is_file():
        return
    hits = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, hit = line.partition(" ")
        if not name or not hit.isdecimal() or int(hit) < 1:
            raise errors.UserError(f"cannot take the crash point {line!r} of {path}: write `name hit`")
        hits[name] = int(hit)
    _hits_left = hits
