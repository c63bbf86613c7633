"""Which copy of the node this program is: the same after a restart, another than any that runs beside it.

Given by setting (a pod's name), or kept in a file, or else the host's name, which is the pod's in a cluster.
Whoever finds the file locked is a second copy and gets a name of its own, so that it does not take the first
one for a former life of itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import secrets
import socket
from collections.abc import Iterator

from kci.kit import errors


@contextlib.contextmanager
def claimed(given: str, file: pathlib.Path | None) -> Iterator[str]:
    """The identity, ours alone inside the block if there is a file; UserError if that cannot be used."""
    if given or file is None:
        yield given or socket.gethostname()
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.UserError(f"cannot keep this copy's identity in {file}: {error.strerror}") from error
    try:
        yield _read_or_make(descriptor)
    finally:
        os.close(descriptor)


def _read_or_make(descriptor: int) -> str:
    fresh = f"{socket.gethostname()}_{secrets.token_hex(8)}"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return fresh
    kept = os.pread(descriptor, 1024, 0).decode("ascii", "replace")
    # A line that was not written whole names nobody.
    if kept.endswith("\n") and kept.strip():
        return kept.strip()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{fresh}\n".encode(), 0)
    return fresh
