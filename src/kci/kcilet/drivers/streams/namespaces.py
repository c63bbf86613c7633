"""The network namespaces of sandboxes, found by a process of theirs."""

from __future__ import annotations

from kci.kcilet import ports
from kci.kcilet.drivers.streams import sessions
from kci.kit import netns


class Namespaces:
    """Remembers by which process a sandbox's namespace is found. Blocking."""

    def __init__(self) -> None:
        self._pids: dict[ports.SandboxId, int] = {}

    def open(self, sandbox_id: ports.SandboxId) -> netns.Namespace:
        """NotFoundError if the sandbox has no process."""
        pid = self._pids.pop(sandbox_id, None)
        if pid is None or not sessions.is_in(pid, sandbox_id):
            self._forget_ended()
            pid = sessions.first_process(sandbox_id)
        namespace = None if pid is None else _open(pid)
        # Looked at afterwards: had the process ended before, its number and so the namespace could be that of
        # any other process of the machine.
        if pid is not None and namespace is not None and sessions.is_in(pid, sandbox_id):
            self._pids[sandbox_id] = pid
            return namespace
        raise ports.NotFoundError(f"cannot find the network of sandbox {sandbox_id}: it has no process")

    def _forget_ended(self) -> None:
        """At each look for another: else every sandbox that there ever was stays known."""
        for sandbox_id, pid in list(self._pids.items()):
            if not sessions.is_in(pid, sandbox_id):
                self._pids.pop(sandbox_id, None)


def _open(pid: int) -> netns.Namespace | None:
    try:
        return netns.Namespace(f"/proc/{pid}/ns/net")
    except OSError:
        return None
