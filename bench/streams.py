"""Streams through the whole chain, as a user types them: exec, cp and port-forward with kubectl."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import line as lines

MIB = 1 << 20
SIZE_MIB = 100
POD = "bench-streams"
PORT = 8080


def measure(stack: lines.Line, *, execs: int, pod: Callable[..., dict[str, Any]]) -> dict[str, object]:
    """Milliseconds of each `kubectl exec true`, and MB/s of 100 MiB each way; all bytes are compared."""
    serve = f"mkdir -p /tmp/www && exec httpd -f -p {PORT} -h /tmp/www"
    stack.apply(pod(POD, container={"command": ["sh", "-c", serve]}))
    stack.wait_ready(f"pod/{POD}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            sent, back = pathlib.Path(folder) / "sent", pathlib.Path(folder) / "back"
            block = hashlib.sha512(b"bench").digest() * (MIB // 64)
            sent.write_bytes(block * SIZE_MIB)
            result = {
                "exec_ms": [_timed(stack, "exec", POD, "--", "true") * 1000 for _ in range(execs)],
                "cp_to_pod_mb_s": _rate(_timed(stack, "cp", str(sent), f"{POD}:/tmp/www/file")),
                "cp_from_pod_mb_s": _rate(_timed(stack, "cp", f"{POD}:/tmp/www/file", str(back))),
            }
            assert back.read_bytes() == sent.read_bytes(), "cp changed the bytes"
            return result | {"port_forward_mb_s": _rate(_forward(stack, sent.read_bytes()))}
    finally:
        stack.kubectl("delete", "pod", POD)


def _timed(stack: lines.Line, *arguments: str) -> float:
    began = time.monotonic()
    stack.kubectl(*arguments, timeout_s=300)
    return time.monotonic() - began


def _rate(seconds: float) -> float:
    return round(SIZE_MIB * MIB / 1e6 / seconds, 1)


def _forward(stack: lines.Line, expected: bytes) -> float:
    argv = stack.kubectl_argv("port-forward", f"pod/{POD}", f":{PORT}")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forwarding:
        try:
            assert forwarding.stdout is not None
            told = re.search(r"127\.0\.0\.1:(\d+)", forwarding.stdout.readline())
            assert told is not None, "port-forward told no port"
            # We run in the stack's network namespace, and so does kubectl.
            url = f"http://127.0.0.1:{told.group(1)}/file"
            began = time.monotonic()
            with contextlib.closing(urllib.request.urlopen(url, timeout=120)) as answer:
                assert answer.read() == expected, "port-forward changed the bytes"
            return time.monotonic() - began
        finally:
            forwarding.terminate()
