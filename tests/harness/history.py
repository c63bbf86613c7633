"""What happened on a line: an append-only history out of three accounts that know nothing of each other.

- the API server's audit log (`kci up --audit`): each write to pods, nodes and Leases, with its answer
  (what else stands there is rights.py's);
- the service's store: every group that ever was, also the deleted ones;
- containerd's own events, which are told whatever our programs do or do not see.

The harness adds what it did itself (`note`), so that a checker can tell a fault from a failure.
checker.py asserts the invariants over it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

UID_LABEL = "io.kubernetes.pod.uid"
NAME_LABEL = "io.kubernetes.container.name"
KIND_LABEL = "io.cri-containerd.kind"
NAMESPACE = "k8s.io"
TOLD = frozenset({"pods", "nodes", "leases"})
READS = frozenset({"get", "list", "watch"})
STREAMS = frozenset({"exec", "attach", "portforward", "log"})


@dataclasses.dataclass(frozen=True)
class Write:
    """A write that the API server answered, as its audit log has it. Reads are not there, streams are."""

    at_s: float
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    code: int
    body: Mapping[str, Any]
    # The object as it is after the write; empty for errors and for what answers with a Status.
    answer: Mapping[str, Any]
    # The program that wrote, and the address that it called from.
    agent: str = ""
    source: str = ""

    @property
    def uid(self) -> str:
        return str(self.answer.get("metadata", {}).get("uid", ""))

    @property
    def version(self) -> int:
        return int(self.answer.get("metadata", {}).get("resourceVersion") or 0)

    @property
    def is_done(self) -> bool:
        return self.code < 300


@dataclasses.dataclass(frozen=True)
class Group:
    """A row of the service's store."""

    group_id: str
    pod_uid: str
    lifecycle: str
    created_at_s: float
    deleted_at_s: float | None
    cpu_milli: int = 0
    memory_mib: int = 0


@dataclasses.dataclass(frozen=True)
class Task:
    """A process of the runtime began or ended: a container's first one, or a sandbox' (`container` is "")."""

    at_s: float
    is_start: bool
    container_id: str
    pod_uid: str
    container: str = ""
    exit_code: int = 0


@dataclasses.dataclass(frozen=True)
class Note:
    """What the harness did: `kind` is one of killed, away, back, off (everything ended at once, without a
    word), gap, or a test's own.
    """

    at_s: float
    kind: str
    what: str = ""


@dataclasses.dataclass(frozen=True)
class History:
    """Everything up to now, each part in the order of time."""

    # The line's own: pods of another node in the same cluster are another store's.
    node: str = "virtual-kubelet"
    writes: Sequence[Write] = ()
    groups: Sequence[Group] = ()
    tasks: Sequence[Task] = ()
    notes: Sequence[Note] = ()

    def pods(self) -> dict[str, list[Write]]:
        """By UID, in the order of the API server's own versions."""
        found: dict[str, list[Write]] = {}
        for write in self.writes:
            if write.resource == "pods" and write.is_done and write.uid:
                found.setdefault(write.uid, []).append(write)
        return {uid: sorted(writes, key=lambda write: write.version) for uid, writes in found.items()}


class AuditLog:
    """Read on from where the last look ended; a line that is being written now is left for the next."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._writes: list[Write] = []

    def read(self) -> list[Write]:
        """All of it, in the order of time."""
        if not self._path.exists():
            return self._writes
        if self._path.stat().st_size < self._read_bytes:
            # The API server began a new file (AUDIT_FILE_MIB); tests do not write that much.
            self._read_bytes = 0
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        events = (json.loads(line) for line in whole.splitlines())
        self._writes += [_to_write(event) for event in events if _is_told(event)]
        self._writes.sort(key=lambda one: one.at_s)
        return self._writes


def read_store(path: pathlib.Path) -> list[Group]:
    """Read beside the service that writes it."""
    if not path.exists():
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        rows = connection.execute(
            "select group_id, pod_uid, lifecycle, created_at_ms, deleted_at_ms, cpu_milli, memory_mib"
            " from groups order by number"
        ).fetchall()
    finally:
        connection.close()
    return [
        Group(group_id, uid, lifecycle, created / 1000, None if deleted is None else deleted / 1000, *size)
        for group_id, uid, lifecycle, created, deleted, *size in rows
    ]


class RuntimeEvents:
    """Follows containerd's events, also over its restarts; what was missed meanwhile is noted as a gap."""

    def __init__(self, socket: pathlib.Path) -> None:
        self.tasks: list[Task] = []
        self.notes: list[Note] = []
        self._ctr = (shutil.which("ctr") or "ctr", "--address", str(socket), "--namespace", NAMESPACE)
        self._known: dict[str, tuple[str, str]] = {}
        self._stopped = threading.Event()
        self._following: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="containerd events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._following:
            self._following.terminate()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            with subprocess.Popen(
                [*self._ctr, "events"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as self._following:
                assert self._following.stdout is not None
                for line in self._following.stdout:
                    self._take(line)
            self.notes.append(Note(time.time(), "gap", "containerd's events"))
            _ = self._stopped.wait(0.2)

    def _take(self, line: str) -> None:
        event = to_runtime_event(line)
        if event is None:
            return
        at_s, topic, body = event
        identity = body.get("container_id") or body.get("id", "")
        labels = body.get("labels") or {}
        if topic == "/containers/update" and UID_LABEL in labels:
            self._known[identity] = (labels[UID_LABEL], labels.get(NAME_LABEL, ""))
        elif topic == "/containers/create" and "pause" not in body.get("image", ""):
            self._known[identity] = self._ask(identity)
        # An exec's end is told on the same topic, under an id of its own.
        elif topic in {"/tasks/start", "/tasks/exit"} and body.get("id", identity) == identity:
            uid, name = self._known.get(identity) or self._ask(identity)
            self.tasks.append(
                Task(at_s, topic == "/tasks/start", identity, uid, name, int(body.get("exit_status", 0)))
            )

    def _ask(self, identity: str) -> tuple[str, str]:
        done = subprocess.run(
            [*self._ctr, "containers", "info", identity],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
        labels = json.loads(done.stdout).get("Labels", {}) if done.returncode == 0 else {}
        return labels.get(UID_LABEL, ""), labels.get(NAME_LABEL, "")


def to_runtime_event(line: str) -> tuple[float, str, dict[str, Any]] | None:
    """A line of `ctr events`: time, topic and content; None for other lines and namespaces."""
    words = line.split(" ", 6)
    if len(words) != 7 or words[4] != NAMESPACE:
        return None
    # Nanoseconds are more than datetime reads.
    at = datetime.datetime.fromisoformat(f"{words[0]}T{words[1][:15]}+00:00")
    return at.timestamp(), words[5], json.loads(words[6])


class Recorder:
    """The history of one line, from `start` on."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        self._audit = AuditLog(state_dir / "logs" / "audit.jsonl")
        self._store = state_dir / "service" / "kci.db"
        self._runtime = RuntimeEvents(state_dir / "containerd" / "containerd.sock")
        self._notes: list[Note] = []

    def start(self) -> None:
        self._runtime.start()

    def stop(self) -> None:
        self._runtime.stop()

    def note(self, kind: str, what: str = "") -> None:
        """Something that the harness does now."""
        self._notes.append(Note(time.time(), kind, what))

    def read(self) -> History:
        return History(
            writes=self._audit.read(),
            groups=read_store(self._store),
            tasks=sorted(self._runtime.tasks, key=lambda task: task.at_s),
            notes=sorted([*self._notes, *self._runtime.notes], key=lambda note: note.at_s),
        )


def spans(history: History, away: str = "away", back: str = "back") -> Iterator[tuple[str, float, float]]:
    """From when to when something was noted away: (what, from, to); to now if it never came back."""
    begun: dict[str, float] = {}
    for note in history.notes:
        if note.kind == away:
            begun.setdefault(note.what, note.at_s)
        elif note.kind == back and note.what in begun:
            yield note.what, begun.pop(note.what), note.at_s
    for what, at_s in begun.items():
        yield what, at_s, float("inf")


def _is_told(event: Mapping[str, Any]) -> bool:
    """The log has more than this history: what nodes read, and what they write of other kinds."""
    reference = event.get("objectRef") or {}
    if reference.get("resource") not in TOLD:
        return False
    return event["verb"] not in READS or reference.get("subresource", "") in STREAMS


def _to_write(event: Mapping[str, Any]) -> Write:
    reference = event["objectRef"]
    answer = event.get("responseObject") or {}
    return Write(
        at_s=datetime.datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
        verb=event["verb"],
        resource=reference.get("resource", ""),
        subresource=reference.get("subresource", ""),
        namespace=reference.get("namespace", ""),
        name=reference.get("name", ""),
        user=event.get("user", {}).get("username", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        body=event.get("requestObject") or {},
        answer={} if answer.get("kind") == "Status" else answer,
        agent=event.get("userAgent", ""),
        source=next(iter(event.get("sourceIPs", [])), ""),
    )
