"""The files of one attempt's log: the one that is written, and what rotation has put aside uncompressed.

`0.log` is written; `0.log.<moment>` came before it (drivers/logs/rotation.py). All are opened without
following a link and must be regular (CVE-2026-53489). Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import stat
import threading

from kci.kcilet import ports

_ASIDE = re.compile(r"\d{8}-\d{6}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_ATTEMPTS = 5


class OpenFiles:
    """Log files that are open, oldest first. Threads read them while the event loop may close them at any
    time, even before they are open: closed stays closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptors: list[int] = []
        self._is_closed = False

    def open(self, path: pathlib.Path) -> None:
        """The log and what came before it. FileNotFoundError if there is none."""
        for _ in range(_OPEN_ATTEMPTS):
            names = list_files(path)
            with contextlib.ExitStack() as stack:
                opened: list[int] = []
                stack.callback(_close, opened)
                # Gone: rotated in between, or not there at all.
                with contextlib.suppress(FileNotFoundError):
                    opened.extend(_open(path.with_name(name)) for name in names)
                    # The last name may have come to stand for another file while the others were opened.
                    if list_files(path) == names:
                        self._take(opened)
                        return
        raise FileNotFoundError(f"cannot find the log {path}")

    def has_next(self, index: int, path: pathlib.Path) -> bool:
        """Whether a file came after this one."""
        with self._lock:
            if self._is_closed:
                return False
            own = _identity(self._descriptors[index])
        try:
            found = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) != own

    def advance(self, index: int, path: pathlib.Path) -> bool:
        """Keep of all files only the one that came after this one; whether there is one."""
        with contextlib.closing(OpenFiles()) as others:
            try:
                others.open(path)
            except FileNotFoundError:
                return False
            with self._lock:
                if self._is_closed:
                    return False
                own = _identity(self._descriptors[index])
                found = [_identity(one) for one in others._descriptors]
                # One that is compressed by now is not among them: then all of them came after it.
                position = found.index(own) + 1 if own in found else 0
                if position == len(found):
                    return False
                _close(self._descriptors)
                self._descriptors = [others._descriptors.pop(position)]
                return True

    def sizes(self) -> list[int]:
        with self._lock:
            return [os.fstat(one).st_size for one in self._descriptors]

    def read(self, index: int, size: int, position: int) -> bytes:
        """Nothing at the end of the file, and nothing once this is closed."""
        with self._lock:
            return b"" if self._is_closed else os.pread(self._descriptors[index], size, position)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            _close(self._descriptors)
            self._descriptors.clear()

    def _take(self, descriptors: list[int]) -> None:
        with self._lock:
            if not self._is_closed:
                self._descriptors = list(descriptors)
                descriptors.clear()


def list_files(path: pathlib.Path) -> list[str]:
    """The names of a log's uncompressed files, oldest first, the written one last."""
    prefix = f"{path.name}."
    with contextlib.suppress(FileNotFoundError):
        names = {entry.name for entry in path.parent.iterdir()}
        aside = [
            name
            for name in names
            if name.startswith(prefix) and _ASIDE.fullmatch(name[len(prefix) :]) and f"{name}.gz" not in names
        ]
        return [*sorted(aside), path.name]
    return [path.name]


def _open(path: pathlib.Path) -> int:
    folder = os.open(path.parent, _FOLDER)
    try:
        file = os.open(path.name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ports.NotFoundError(f"cannot read the log {path}: it is no regular file")
    return file


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _close(descriptors: list[int]) -> None:
    for one in descriptors:
        os.close(one)
