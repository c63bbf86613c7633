"""A whole stack in a network namespace of its own: what the e2e tests use through kubectl and kci, and what
the fault runs kill, pause and look into.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import grpc

from kci.kcilet.drivers.runtime.api import api_pb2, api_pb2_grpc
from kci.kit import environment as kit_environment
from kci.stack import cgroups, layout, processes, record

T = TypeVar("T")
# Runs until it is told to end; then it ends at once, with the code that says so.
IDLE = "trap 'exit 143' TERM; sleep 600 & wait"
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

    def kci(
        self,
        *arguments: str,
        check: bool = True,
        timeout_s: float = 240,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run the user's command, with these variables besides our own; its standard output."""
        command, *rest = arguments
        done = subprocess.run(
            [str(BIN / "kci"), command, "--state-dir", str(self.state_dir), *rest],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**kit_environment.read(), **(environment or {})},
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

    # ---- for fault runs ----

    @property
    def where(self) -> layout.Layout:
        return layout.Layout(self.state_dir)

    def process(self, part: str) -> record.ProcessId:
        """The process that runs a part now; AssertionError while there is none."""
        state = record.read_state(self.where)
        process = state.part(part).process if state else None
        assert process is not None, f"{part} does not run"
        assert processes.is_alive(process), f"{part} does not run"
        return process

    def kill(self, part: str) -> record.ProcessId:
        """End a part as a crash would. The supervisor starts it again."""
        process = self.process(part)
        processes.send(process, signal.SIGKILL)
        return process

    def wait_back(self, part: str, killed: record.ProcessId, *, timeout_s: float = 60) -> record.ProcessId:
        """Another process of that part, ready."""

        def back() -> record.ProcessId | None:
            process = self.process(part)
            state = record.read_state(self.where)
            assert state is not None
            ready = state.part(part).state is record.PartState.RUNNING
            return process if ready and process != killed else None

        return eventually(back, timeout_s=timeout_s, what=f"{part} is back")

    @contextlib.contextmanager
    def paused(self, process: record.ProcessId) -> Iterator[None]:
        """Hung: it lives, its sockets are open, and it does nothing."""
        processes.send(process, signal.SIGSTOP)
        try:
            yield
        finally:
            processes.send(process, signal.SIGCONT)

    @contextlib.contextmanager
    def by_hand(self, part: str) -> Iterator[ByHand]:
        """Have a part started and ended by the test: the supervisor, which would wait longer after each end,
        sleeps meanwhile. Afterwards it finds the part ended, and starts it again.
        """
        with self.all_by_hand(part) as programs:
            yield programs[part]

    @contextlib.contextmanager
    def all_by_hand(self, *parts: str) -> Iterator[dict[str, ByHand]]:
        """The same with several."""
        state = record.read_state(self.where)
        assert state is not None
        assert state.supervisor is not None
        firsts = {part: self.process(part) for part in parts}
        programs = {
            part: ByHand.like(self, first, self.where.log(part), mounts_of=state.supervisor)
            for part, first in firsts.items()
        }
        with self.paused(state.supervisor):
            for part, first in firsts.items():
                processes.send(first, signal.SIGKILL)
                eventually(lambda first=first: not processes.is_alive(first), what=f"{part} has ended")
            try:
                for program in programs.values():
                    program.start()
                yield programs
            finally:
                for program in programs.values():
                    program.kill()
        for part, first in firsts.items():
            self.wait_back(part, first)

    def pods(self, selector: str = "", *, namespace: str = "default") -> dict[str, dict[str, Any]]:
        """By name."""
        items = self.get("pods", "-n", namespace, *(("-l", selector) if selector else ()))["items"]
        return {item["metadata"]["name"]: item for item in items}

    def wait_pods_ready(self, selector: str, count: int, *, timeout_s: float = 60) -> dict[str, Any]:
        def ready() -> dict[str, Any] | None:
            found = self.pods(selector)
            return found if len(found) == count and all(map(is_ready, found.values())) else None

        return eventually(ready, timeout_s=timeout_s, what=f"{count} pods of {selector} are ready")

    def instances(self) -> list[Instance]:
        """All that containerd holds for pods; AssertionError while it does not answer."""
        try:
            return self._instances()
        except grpc.RpcError as error:
            raise AssertionError(f"cannot ask containerd: {error}") from error

    def _instances(self) -> list[Instance]:
        with grpc.insecure_channel(f"unix://{self.where.containerd_socket}") as channel:
            runtime: Any = api_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]
            sandboxes = runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest(), timeout=20).items
            found = []
            for sandbox in sandboxes:
                status = runtime.PodSandboxStatus(
                    api_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox.id, verbose=True), timeout=20
                )
                filtered = api_pb2.ContainerFilter(pod_sandbox_id=sandbox.id)
                listed = runtime.ListContainers(
                    api_pb2.ListContainersRequest(filter=filtered), timeout=20
                ).containers
                pids = {}
                for container in listed:
                    if container.state == api_pb2.CONTAINER_RUNNING:
                        answer = runtime.ContainerStatus(
                            api_pb2.ContainerStatusRequest(container_id=container.id, verbose=True),
                            timeout=20,
                        )
                        pids[container.id] = int(json.loads(answer.info["info"])["pid"])
                found.append(
                    Instance(
                        uid=sandbox.metadata.uid,
                        pod=sandbox.metadata.name,
                        sandbox_id=sandbox.id,
                        is_live=sandbox.state == api_pb2.SANDBOX_READY,
                        address=status.status.network.ip,
                        sandbox_pid=int(json.loads(status.info["info"]).get("pid") or 0),
                        container_pids=pids,
                    )
                )
        return found

    def live_instances(self) -> dict[str, Instance]:
        """By pod's UID; AssertionError if a UID has two."""
        live = [instance for instance in self.instances() if instance.is_live]
        by_uid = {instance.uid: instance for instance in live}
        assert len(by_uid) == len(live), f"more than one instance for a UID: {live}"
        return by_uid

    def shim_of(self, instance: Instance) -> record.ProcessId:
        parent = int(
            pathlib.Path(f"/proc/{instance.sandbox_pid}/stat").read_text().rpartition(")")[2].split()[1]
        )
        process = processes.observe(parent)
        assert process in processes.find_shims(self.where.containerd_socket), f"{parent} is no shim"
        assert process is not None
        return process

    def kill_everything(self) -> None:
        """As a power cut would: all processes of the stack at once, shims and containers too."""
        state = record.read_state(self.where)
        assert state is not None
        victims = [state.supervisor, *(part.process for part in state.parts)]
        # First of all who would start the others again.
        for process in victims:
            if process is not None:
                processes.send(process, signal.SIGKILL)
        for shim in processes.find_shims(self.where.containerd_socket):
            processes.send(shim, signal.SIGKILL)
        eventually(self._end_containers, what="no process of a container is left")

    def _end_containers(self) -> bool:
        members = cgroups.list_members(self.where.cgroup_parent)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not members


@dataclasses.dataclass
class ByHand:
    """A program of the stack that the test starts and ends, where and as the stack would."""

    argv: list[str]
    environment: dict[str, str]
    log_file: pathlib.Path
    running: subprocess.Popen[bytes] | None = None

    @classmethod
    def like(
        cls,
        line: Line,
        process: record.ProcessId,
        log_file: pathlib.Path,
        *,
        mounts_of: record.ProcessId,
    ) -> ByHand:
        """With a running process' arguments and variables."""
        argv = pathlib.Path(f"/proc/{process.pid}/cmdline").read_text().rstrip("\0").split("\0")
        variables = pathlib.Path(f"/proc/{process.pid}/environ").read_text().rstrip("\0").split("\0")
        mounts = f"--mount=/proc/{mounts_of.pid}/ns/mnt"
        return cls(
            ["nsenter", mounts, *line.inside()[1:], *argv],
            dict(variable.split("=", 1) for variable in variables if variable),
            log_file,
        )

    @property
    def process(self) -> record.ProcessId:
        assert self.running is not None
        process = processes.observe(self.running.pid)
        assert process is not None, f"{self.argv[-1]} has ended"
        return process

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.running = subprocess.Popen(
                self.argv, env=self.environment, cwd="/", stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """As a crash would."""
        if self.running is not None:
            self.running.kill()
            self.running.wait(timeout=20)
            self.running = None


@dataclasses.dataclass(frozen=True)
class Instance:
    """What runs for one pod, by the runtime's account."""

    uid: str
    pod: str
    sandbox_id: str
    is_live: bool
    address: str
    sandbox_pid: int
    # Of running containers, by their ids.
    container_pids: Mapping[str, int]


class Watch:
    """Everything that the API server tells of a kind of objects, from `start` to `stop`. A watch that breaks
    is begun anew with a list, so that only what came and went in between is missed.
    """

    def __init__(self, line: Line, path: str) -> None:
        self._line = line
        self._path = path
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path}")
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        version = self._list()
        self._process = self._follow(version)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(60)

    def objects(self) -> dict[str, list[dict[str, Any]]]:
        """The states of each object that was there, by UID, in their order."""
        found: dict[str, list[dict[str, Any]]] = {}
        for event in list(self.events):
            found.setdefault(event["object"]["metadata"]["uid"], []).append(event["object"])
        return found

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._process or self._follow(self._list()) as process:
                    self._process = process
                    if self._stop.is_set():
                        process.terminate()
                    assert process.stdout is not None
                    # An ERROR says that the version is too old: a list comes next.
                    events = map(json.loads, process.stdout)
                    self.events.extend(event for event in events if event["type"] != "ERROR")
            except (AssertionError, subprocess.TimeoutExpired, json.JSONDecodeError):
                # The API server is away: asked again soon.
                self._stop.wait(0.5)
            self._process = None

    def _list(self) -> str:
        listed = json.loads(self._line.kubectl("get", "--raw", self._path))
        self.events += [{"type": "LISTED", "object": item} for item in listed["items"]]
        return str(listed["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> subprocess.Popen[str]:
        joint = "&" if "?" in self._path else "?"
        url = f"{self._path}{joint}watch=true&timeoutSeconds=3000&resourceVersion={version}"
        return subprocess.Popen(
            self._line.kubectl_argv("get", "--raw", url),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def listens(process: record.ProcessId, port: int) -> bool:
    """Whether somebody takes connections at this TCP port of the process' network namespace."""
    rows = [
        text.split() for text in pathlib.Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
    ]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def is_ready(pod: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", ())
    )


def restarts(pod: Mapping[str, Any]) -> int:
    return sum(one["restartCount"] for one in pod.get("status", {}).get("containerStatuses", ()))


def new_line() -> Line:
    """A stack that nobody else has; it is not started."""
    name = f"kci-e2e-{uuid.uuid4().hex[:6]}"
    return Line(netns=name, state_dir=pathlib.Path(tempfile.gettempdir()) / name)


def eventually(
    look: Callable[[], T | None],
    *,
    timeout_s: float = 30,
    what: str = "",
    hold: Callable[[], bool] = lambda: False,
    hold_s: float = 0.0,
) -> T:
    """Look until something true comes back; the last answer or error is in the failure. While `hold` says so
    the time does not begin, for `hold_s` at the most.
    """
    began_s = since_s = time.monotonic()
    while True:
        seen: T | None = None
        trouble = ""
        try:
            seen = look()
        except AssertionError as error:
            trouble = str(error)
        if seen:
            return seen
        now_s = time.monotonic()
        if now_s < began_s + hold_s and hold():
            since_s = now_s
        if now_s > since_s + timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}; last seen: {seen!r} {trouble}")
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
