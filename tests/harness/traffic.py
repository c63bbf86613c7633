"""Load for fault runs: pods that come and go, and processors that are busy."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Self

import line as lines

LABEL = "churn"


class Churn:
    """Creates pods and deletes them again, at random moments, until it is left; then all must be gone."""

    def __init__(self, line: lines.Line, chance: random.Random, *, pause_s: float = 1.0) -> None:
        self._line = line
        self._chance = chance
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn")
        self.created: list[str] = []
        # What kubectl said when it was refused: an API server that is away is no failure of ours.
        self.refused: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        self._kubectl("delete", "pods", "-l", f"app={LABEL}", "--wait=false")

    def wait_gone(self, *, timeout_s: float = 90) -> None:
        lines.eventually(
            lambda: not self._line.pods(f"app={LABEL}"), timeout_s=timeout_s, what="the deleted pods are gone"
        )
        uids = {instance.uid for instance in self._line.instances()}
        kept = {pod["metadata"]["uid"] for pod in self._line.pods().values()}
        assert uids <= kept, f"instances without a pod: {uids - kept}"

    def _run(self) -> None:
        live: list[str] = []
        while not self._stop.wait(self._chance.uniform(0, 2 * self._pause_s)):
            if len(live) > 3 or (live and self._chance.random() < 0.4):
                name = live.pop(self._chance.randrange(len(live)))
                grace = self._chance.choice(["--grace-period=2", "--grace-period=5"])
                self._kubectl("delete", "pod", name, grace, "--wait=false")
                continue
            name = f"churn-{len(self.created)}"
            self.created.append(name)
            body = lines.pod(name, lines.IDLE, metadata={"labels": {"app": LABEL}})
            body["metadata"]["name"] = name
            try:
                self._line.apply(body)
                live.append(name)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                self.refused.append(str(error))

    def _kubectl(self, *arguments: str) -> None:
        done = self._line.run_kubectl(*arguments)
        if done.returncode != 0 and "NotFound" not in done.stderr:
            self.refused.append(done.stderr)


@contextlib.contextmanager
def busy_processors() -> Iterator[None]:
    """One process for each, that never rests."""
    # Beside programs that take turns with it, not instead of them: other tests may run, too.
    spin = ["nice", "-n", "5", sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait(timeout=20)


def standing(name: str, replicas: int) -> list[dict[str, object]]:
    """A Deployment that should notice nothing, and its Service."""
    # Longer than any fault run.
    template = lines.pod(name, lines.IDLE.replace("sleep 600", "sleep 86400"))
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": template["spec"]},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
        },
    ]
