"""The leak meter: what a line holds of the machine, taken before and after, to be compared.

Things that are made for a pod must all be gone with it. What a program holds for itself (memory, descriptors,
threads, tasks) breathes, so it has room, once for the whole life of a line and not anew for each test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kci.stack import layout, processes

OURS = ("kci-service", "kcilet", "virtual-kubelet")
# Above the baseline, for one program.
ROOM = {"descriptors": 24, "threads": 16, "tasks": 24, "rss_mib": 96}
SETTLE_S = 45.0
LOOK_INTERVAL_S = 0.25
TASKS_TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """`things` are sets that must come back, `amounts` are numbers by program that have room."""

    things: Mapping[str, frozenset[str]]
    amounts: Mapping[str, Mapping[str, int]]


def compare(before: Reading, after: Reading) -> list[str]:
    """What is left that was not there, in words."""
    found = []
    for what, seen in after.things.items():
        left = seen - before.things.get(what, frozenset())
        if left:
            found.append(f"{what}: {', '.join(sorted(left)[:5])}{' …' if len(left) > 5 else ''}")
    for program, amounts in after.amounts.items():
        known = before.amounts.get(program)
        if known is None:
            continue
        for what, amount in amounts.items():
            if what in known and amount > known[what] + ROOM[what]:
                found.append(f"{what} of {program}: {amount}, and {known[what]} before (room {ROOM[what]})")
    return found


class Meter:
    """Of one running stack."""

    def __init__(self, state_dir: pathlib.Path, inside: Callable[..., list[str]]) -> None:
        # `inside` makes a command line run in the stack's network namespace.
        self._where = layout.Layout(state_dir)
        self._inside = inside
        self._baseline: Reading | None = None

    def begin(self) -> None:
        """Take the baseline: call it before a test. Things count from now on, since a module's tests may
        share a pod; amounts from the first test on, since they may creep.
        """
        reading = self.read()
        amounts = self._baseline.amounts if self._baseline is not None else reading.amounts
        self._baseline = dataclasses.replace(reading, amounts=amounts)

    def wait_back(self) -> list[str]:
        """Wait until everything has come back; empty, or what did not. Then that is the new baseline."""
        assert self._baseline is not None
        deadline = time.monotonic() + SETTLE_S
        while left := compare(self._baseline, reading := self.read()):
            if time.monotonic() > deadline:
                self._baseline = reading
                return left
            time.sleep(LOOK_INTERVAL_S)
        return []

    def read(self) -> Reading:
        pids = self._pids()
        mounts = list(self._mounts(pids))
        return Reading(
            things={
                "zombies": _zombies(set(pids.values())),
                **{
                    kind: frozenset(mount for one, mount in mounts if one == kind)
                    for kind in ("mounts", "network namespaces")
                },
                "links": self._links(),
                "routes": self._inside_lines("ip", "-4", "route", "show", "table", "all"),
                "tables": self._inside_lines("nft", "list", "tables"),
                "rules of pods": self._elements(),
                "cgroups": self._cgroups(),
                "shims": frozenset(
                    str(one.pid) for one in processes.find_shims(self._where.containerd_socket)
                ),
                "folders of pods": self._folders(),
                **self._rows(),
            },
            amounts={name: self._amounts(name, pids[name]) for name in OURS if name in pids},
        )

    def _pids(self) -> dict[str, int]:
        """Of the parts that run now."""
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            parts = json.loads(self._where.state.read_bytes())["parts"]
            return {part["name"]: part["process"]["pid"] for part in parts if part.get("process")}
        return {}

    def _mounts(self, pids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Below the state folder, as the parts see it: they have a mount namespace of their own."""
        for mount in _mount_points(pids):
            if mount.startswith(str(self._where.root)):
                yield "network namespaces" if "/netns/" in mount else "mounts", mount

    def _links(self) -> frozenset[str]:
        done = subprocess.run(
            self._inside("ip", "-j", "link"), capture_output=True, text=True, timeout=20, check=False
        )
        return frozenset(link["ifname"] for link in json.loads(done.stdout or "[]"))

    def _inside_lines(self, *argv: str) -> frozenset[str]:
        done = subprocess.run(self._inside(*argv), capture_output=True, text=True, timeout=20, check=False)
        return frozenset(line.strip() for line in done.stdout.splitlines())

    def _elements(self) -> frozenset[str]:
        """The pods' links that the kcilet's firewall names."""
        argv = self._inside("nft", "list", "set", "inet", f"{self._where.bridge}-guard", "pods")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        return frozenset(re.findall(r'"(kv[0-9a-f]+)"', done.stdout))

    def _cgroups(self) -> frozenset[str]:
        root = pathlib.Path("/sys/fs/cgroup")
        parents = [*root.glob(self._where.cgroup_parent), *root.glob(f"*/{self._where.cgroup_parent}")]
        # os.walk passes over a folder that goes away while it is looked at.
        return frozenset(
            folder for parent in parents for folder, _, _ in os.walk(parent) if folder != str(parent)
        )

    def _folders(self) -> frozenset[str]:
        folders = (self._where.kcilet / "pods", self._where.kcilet / "logs" / "pods")
        return frozenset(str(path) for folder in folders if folder.exists() for path in folder.iterdir())

    def _rows(self) -> dict[str, frozenset[str]]:
        """Addresses in use, and groups that are not deleted; deleted ones are kept for a day on purpose."""
        if not self._where.service_database.exists():
            return {}
        connection = sqlite3.connect(f"file:{self._where.service_database}?mode=ro", uri=True, timeout=10)
        with contextlib.closing(connection):
            addresses = connection.execute(
                "select address from addresses where group_id is not null"
            ).fetchall()
            groups = connection.execute("select group_id from groups where lifecycle != 'deleted'").fetchall()
        return {
            "addresses": frozenset(str(row[0]) for row in addresses),
            "rows of groups": frozenset(str(row[0]) for row in groups),
        }

    def _amounts(self, name: str, pid: int) -> dict[str, int]:
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            descriptors = len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            return {}
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if "VmRSS" not in fields:
            # It was killed, and its parent, which a test has paused, has not looked yet.
            return {}
        return {
            "descriptors": descriptors,
            "threads": int(fields["Threads"]),
            "rss_mib": int(fields["VmRSS"].split()[0]) // 1024,
            **(self._tasks(name, pid) if _catches(fields, signal.SIGUSR1) else {}),
        }

    def _tasks(self, name: str, pid: int) -> dict[str, int]:
        """A program tells them in its log on SIGUSR1 (kit/tasks.py)."""
        log = self._where.log(name)
        offset = log.stat().st_size
        process = processes.observe(pid)
        if process is None or not processes.send(process, signal.SIGUSR1):
            return {}
        deadline = time.monotonic() + TASKS_TIMEOUT_S
        while time.monotonic() < deadline:
            with log.open("rb") as file:
                file.seek(offset)
                for line in file.read().splitlines():
                    told = _json(line)
                    if told.get("event") == "tasks":
                        return {"tasks": int(told["count"])}
            time.sleep(0.02)
        return {}


def _catches(status: Mapping[str, str], which: signal.Signals) -> bool:
    """A program that has just been started does not yet, and would be ended by it."""
    return bool(int(status["SigCgt"], 16) >> (which - 1) & 1)


def _mount_points(pids: Mapping[str, int]) -> list[str]:
    for name in ("containerd", "kcilet"):
        with contextlib.suppress(OSError, KeyError):
            lines = pathlib.Path(f"/proc/{pids[name]}/mountinfo").read_text().splitlines()
            return [line.split(" ")[4] for line in lines]
    return []


def _zombies(parents: set[int]) -> frozenset[str]:
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, tail = path.read_text().rpartition(")")
            state, parent = tail.split()[:2]
            if state == "Z" and int(parent) in parents:
                found.add(f"{head}) of {parent}")
    return frozenset(found)


def _json(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
