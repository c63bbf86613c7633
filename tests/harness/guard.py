"""Watches a running line for its tests: history and its checker, leak meter, canaries.

`around` stands around each test on the line; `at_end` looks once more at everything that was ever written.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol

import canaries
import checker
import history
import leaks
import pytest

# What `kci up` is given: something to watch by, and the most that a log can tell.
UP = ("--audit", "--log-level", "debug")
WARM_UP = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "warm-up"},
    "spec": {
        "containers": [{"name": "main", "image": "busybox:latest", "imagePullPolicy": "IfNotPresent"}],
        "nodeSelector": {"type": "virtual-kubelet"},
        "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
        "restartPolicy": "Never",
    },
}


class Line(Protocol):
    """What the guard needs of line.Line."""

    @property
    def state_dir(self) -> pathlib.Path: ...
    def inside(self, *argv: str) -> list[str]: ...
    def get(self, *arguments: str) -> Any: ...
    def apply(self, *objects: dict[str, Any]) -> None: ...
    def kubectl(self, *arguments: str) -> str: ...


class Guard:
    """Of one line, from when it is up."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.history = history.Recorder(line.state_dir)
        self.canaries = canaries.Canaries()
        self.meter = leaks.Meter(line.state_dir, line.inside)
        self._told: set[str] = set()

    def start(self) -> None:
        self.history.start()
        self.canaries.know_line(self._line.state_dir)
        # The first pod opens what stays open: connections, threads, caches.
        self._line.apply(WARM_UP)
        self._line.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/warm-up")
        self._line.kubectl("delete", "pod", "warm-up")

    def stop(self) -> None:
        self.history.stop()

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """A test: afterwards nothing of it is left on the machine, and no invariant was broken."""
        self.meter.begin()
        yield
        left = self.meter.wait_back()
        broken = [problem for problem in self.check() if problem not in self._told]
        # Told once: the history is one, and the next test has no part in it.
        self._told.update(broken)
        _fail_if({"left behind": left, "broken": broken})

    def check(self) -> list[str]:
        """The invariants over everything up to now."""
        return checker.check(self.history.read())

    def at_end(self) -> None:
        """No secret in anything that was written or is shown."""
        _fail_if({"secrets": self.find_secrets()})

    def find_secrets(self) -> list[str]:
        statuses = [pod["status"] for pod in self._line.get("pods", "-A")["items"]]
        shown = {
            "events": json.dumps(self._line.get("events", "-A")),
            "statuses of pods": json.dumps(statuses),
            "the node": json.dumps(self._line.get("nodes")),
        }
        return canaries.search_line(self.canaries, self._line.state_dir, shown=shown)


def _fail_if(problems: dict[str, list[str]]) -> None:
    lines = [f"{what}: {problem}" for what, several in problems.items() for problem in several]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
