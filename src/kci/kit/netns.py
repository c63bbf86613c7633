"""Sockets of other network namespaces: a socket stays in the namespace that it was made in, and is used from
anywhere.

Only a thread that enters a namespace can make one there. This is a thread of its own, that does nothing else:
no thread that does ever has to find its way back.
"""

from __future__ import annotations

import ctypes
import os
import queue
import socket
import threading
from typing import TypeAlias

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_Made: TypeAlias = "queue.SimpleQueue[socket.socket | OSError]"


class Namespace:
    """An open namespace; it is closed when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        """OSError if there is none."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class SocketMaker:
    """Its thread begins with the first socket and ends with the program."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Namespace, socket.AddressFamily, _Made]] = queue.SimpleQueue()
        self._begin = threading.Lock()
        self._thread: threading.Thread | None = None

    def make(self, namespace: Namespace, family: socket.AddressFamily) -> socket.socket:
        """A TCP socket that does not block; OSError if it cannot be made. Any thread may ask. It takes some
        thirty microseconds, so it is waited for.
        """
        with self._begin:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="netns", daemon=True)
                self._thread.start()
        made: _Made = queue.SimpleQueue()
        self._asked.put((namespace, family, made))
        found = made.get()
        if isinstance(found, OSError):
            raise found
        return found

    def _work(self) -> None:
        home = Namespace("/proc/thread-self/ns/net")
        while True:
            namespace, family, made = self._asked.get()
            try:
                made.put(_make(namespace.descriptor, family))
            except OSError as error:
                made.put(error)
            # Nothing of it is held until the next one is asked for.
            del namespace, made
            _ = _libc.setns(home.descriptor, _CLONE_NEWNET)


def _make(namespace: int, family: socket.AddressFamily) -> socket.socket:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
