"""What the e2e tests drive: a whole stack in a network namespace of its own, used through kubectl and kci."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import Any

# Runs until it is told to end, and then ends at once.
IDLE = "trap 'exit 0' TERM; sleep 600 & wait"
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent


def find_kubectl() -> str:
    """kubectl of the project's environment, else the machine's."""
    own = BIN / "kubectl"
    return str(own) if own.exists() else shutil.which("kubectl") or "kubectl"


@dataclasses.dataclass(frozen=True)
class Line:
    """A running stack. Commands run where a user of that stack would: in its network namespace."""

    netns: str
    state_dir: pathlib.Path

    @property
    def kubeconfig(self) -> pathlib.Path:
        return pathlib.Path(self.kci("kubeconfig").strip())

    def kci(self, *arguments: str, check: bool = True, timeout_s: float = 240) -> str:
        """Run the user's command; its standard output."""
        command, *rest = arguments
        done = subprocess.run(
            [str(BIN / "kci"), command, "--state-dir", str(self.state_dir), *rest],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"kci {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.netns}", *argv]

    def kubectl_argv(self, *arguments: str) -> list[str]:
        return self.inside(find_kubectl(), "--kubeconfig", str(self.kubeconfig), *arguments)

    def run_kubectl(
        self, *arguments: str, stdin: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.kubectl_argv(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        done = self.run_kubectl(*arguments, stdin=stdin, timeout_s=timeout_s)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        )

    def wait_ready(self, *what: str, timeout_s: int = 60) -> None:
        self.kubectl(
            "wait", "--for=condition=Ready", f"--timeout={timeout_s}s", *what, timeout_s=timeout_s + 30
        )

    def http(self, url: str) -> str:
        """An HTTP GET from the machine's side of the namespace."""
        code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"
        return subprocess.run(
            self.inside(sys.executable, "-c", code, url),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout


def new_line() -> Line:
    """A stack that nobody else has; it is not started."""
    name = f"kci-e2e-{uuid.uuid4().hex[:6]}"
    return Line(netns=name, state_dir=pathlib.Path(tempfile.gettempdir()) / name)


def eventually(look: Callable[[], Any], *, timeout_s: float = 30, what: str = "") -> Any:
    """Look until something true comes back; the last answer or error is in the failure."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen: Any = None
        try:
            seen = look()
        except AssertionError as error:
            seen, trouble = None, error
        else:
            trouble = None
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}; last seen: {seen!r} {trouble or ''}")
        time.sleep(0.1)  # between two looks at an outside program's state


def pod(name: str, command: str = "", **spec: Any) -> dict[str, Any]:
    """A busybox pod that tolerates the virtual node's taint and lands on it."""
    container: dict[str, Any] = {"name": "main", "image": "busybox:latest", "imagePullPolicy": "IfNotPresent"}
    if command:
        container["command"] = ["/bin/sh", "-c", command]
    container.update(spec.pop("container", {}))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, **spec.pop("metadata", {})},
        "spec": {
            "containers": [container],
            "nodeSelector": {"type": "virtual-kubelet"},
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
            "terminationGracePeriodSeconds": 5,
            **spec,
        },
    }
