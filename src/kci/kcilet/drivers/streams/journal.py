"""Which commands run, noted for the run that comes after one that was killed: nobody else would end them.

A file for each command, of lines of JSON: first which processes its container had before, then, once it is
found, the command's own. The last whole line counts. Nothing is synced: a reboot ends every command. A disk
that is full keeps nobody from running one; it is then not noted.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import pathlib
import uuid
from collections.abc import Iterable

import msgspec
import structlog

log = structlog.get_logger(__name__)

# A process's number, and when it was started, in the kernel's ticks since the boot.
Identity = tuple[int, int]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line."""

    container_id: str
    before: tuple[Identity, ...]
    found: Identity | None = None


class Note:
    """One command's file."""

    def __init__(self, path: pathlib.Path, entry: Entry) -> None:
        self.entry = entry
        self._path = path

    def begin(self) -> None:
        self._write(os.O_CREAT)

    def add(self, found: Identity) -> None:
        """It may have ended meanwhile: a note that was removed does not come back."""
        self.entry = msgspec.structs.replace(self.entry, found=found)
        self._write()

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self, flags: int = 0) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
            try:
                _ = os.write(descriptor, msgspec.json.encode(self.entry) + b"\n")
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            log.debug("command ended before it was noted", file=str(self._path))
        except OSError as error:
            log.warning("command not noted", file=str(self._path), error=str(error))


class Journal:
    """The notes in a folder; each run of the program has names of its own. All of it blocks a little."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._run = uuid.uuid4().hex
        self._numbers = itertools.count()

    def note(self, container_id: str, before: Iterable[Identity]) -> Note:
        """Of a command that is about to be started."""
        entry = Entry(container_id=container_id, before=tuple(before))
        note = Note(self._folder / f"{self._run}-{next(self._numbers)}", entry)
        note.begin()
        return note

    def left(self) -> dict[str, list[Note]]:
        """What earlier runs have noted, by container. A note without a whole line is of nothing that was
        started; it is removed.
        """
        found = collections.defaultdict(list)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in sorted(self._folder.iterdir()):
                whole, _, _ = path.read_bytes().rpartition(b"\n")
                try:
                    entry = msgspec.json.decode(whole.rpartition(b"\n")[2], type=Entry)
                except msgspec.DecodeError:
                    path.unlink()
                else:
                    found[entry.container_id].append(Note(path, entry))
        except OSError as error:
            log.warning("cannot read which commands were left", folder=str(self._folder), error=str(error))
        return dict(found)
