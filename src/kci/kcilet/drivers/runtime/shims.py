"""The process between containerd and a pod's containers (containerd-shim-…): its end as a last resort.

A shim that hangs keeps its containers "running" for ever, whether they live or not. When it is killed,
containerd clears up after it, and shows the containers as ended.
"""

from __future__ import annotations

import os
import pathlib
import signal

import structlog

from kci.kcilet import ports

log = structlog.get_logger(__name__)
_PROC = pathlib.Path("/proc")


def kill(sandbox_id: ports.SandboxId) -> bool:
    """Whether a shim of this sandbox was found. Blocking."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and _is_shim_of(entry, sandbox_id):
            log.warning("ending a shim as a last resort", sandbox=sandbox_id, pid=int(entry.name))
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
    return False


def _is_shim_of(process: pathlib.Path, sandbox_id: str) -> bool:
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    program = arguments[0].rpartition(b"/")[2]
    return program.startswith(b"containerd-shim-") and sandbox_id.encode() in arguments
