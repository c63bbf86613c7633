"""Bugs that virtual nodes and signed services have had, each to be put back into a copy of ours.

The harness is worth what it catches: `python tests/harness/bugs.py` puts each bug back and runs the tests
that prove its requirements; one that is not caught is an error, and so is one whose place in the source is
not found any more (tests/unit/harness/test_bugs.py sees to that with `make test`).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from kci.kit import environment

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT_S = 600
AT_ONCE = 2
# pytest's own exit code: tests ran, and some failed.
SOME_FAILED = 1


@dataclasses.dataclass(frozen=True)
class Edit:
    """In this file below src/kci, this text, which stands there once, is that text."""

    file: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True)
class Bug:
    name: str
    what: str
    # A test of one of these must fail, and it is in one of these files and folders.
    requirements: tuple[str, ...]
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
    bug: Bug
    is_caught: bool
    # The failed tests, or why none was.
    by: str
    took_s: float


RELIABILITY = "tests/unit/vnode/test_vnode_reliability.py"
BUGS = (
    Bug(
        "B1",
        "a read before a create that failed is taken as absent",
        ("R02", "R09"),
        (RELIABILITY,),
        (
            Edit(
                "vnode/pods.py",
                """        case knowledge.Belief.UNKNOWN:
            return _look(known, now_s)
        case knowledge.Belief.ABSENT:
            return _start(""",
                """        case knowledge.Belief.UNKNOWN | knowledge.Belief.ABSENT:
            return _start(""",
            ),
        ),
    ),
    Bug(
        "B2",
        "a deletion that is only inferred (a tombstone) is dropped, and nobody compares later",
        ("R18",),
        (RELIABILITY,),
        (
            Edit(
                "vnode/pod_controller.py",
                "            if change.final_state_unknown:\n                self._look.set()\n",
                "            if change.final_state_unknown:\n                return\n",
            ),
            Edit(
                "vnode/pod_controller.py",
                "        if not suspects:\n",
                "        if suspects or not suspects:\n",
            ),
        ),
    ),
    Bug(
        "B3",
        "forgotten after 20 tries",
        ("R12",),
        (RELIABILITY,),
        (
            Edit(
                "vnode/pod_controller.py",
                "        self._queue.add(pod.uid)\n        if history.failures >= FAILURES_TO_SHOW:\n",
                "        history.retry_at_s = math.inf if history.failures >= 20 else history.retry_at_s\n"
                "        self._queue.add(pod.uid)\n        if history.failures >= FAILURES_TO_SHOW:\n",
            ),
        ),
    ),
    Bug(
        "B4",
        "a listing that failed is taken as an empty one",
        ("R06",),
        (RELIABILITY,),
        (
            Edit(
                "vnode/pod_controller.py",
                '                log.warning("cannot list instances"',
                "                self._take_in(provider.Listing(began_s=self._now_s(), instances=()))\n"
                '                log.warning("cannot list instances"',
            ),
        ),
    ),
    Bug(
        "B5",
        "keyed by namespace and name instead of the UID",
        ("R19",),
        (RELIABILITY,),
        (
            Edit(
                "kube/models.py",
                "        return PodUid(self.metadata.uid)\n",
                '        return PodUid(f"{self.metadata.namespace}/{self.metadata.name}")\n',
            ),
        ),
    ),
    Bug(
        "B6",
        "a pod that does not run yet is removed from the API without its instance",
        ("R20",),
        (RELIABILITY,),
        (
            Edit(
                "vnode/pods.py",
                "        return _end(known, now_s) or _let_go(pod)\n",
                '        if pod.status.phase != "Running":\n            return RemoveObject()\n'
                "        return _end(known, now_s) or _let_go(pod)\n",
            ),
        ),
    ),
    Bug(
        "B7",
        "after 410 the watch is begun again from the same stale version",
        ("R17",),
        ("tests/unit/kube",),
        (
            Edit(
                "kube/reflector.py",
                "                self._must_list = True\n                await self._pause(error)\n",
                "                await self._pause(error)\n",
            ),
        ),
    ),
    Bug(
        "B8",
        "exec by GET needs the right to get, not to create",
        ("R50",),
        ("tests/unit/vnode/test_vnode_server.py", "tests/unit/vnode/test_vnode_matrix.py"),
        (
            Edit(
                "vnode/auth.py",
                '    verb = "create" if first in STREAM_PATHS else ',
                "    verb = ",
            ),
        ),
    ),
    Bug(
        "B9",
        "no Authorization header, and the credential in the query is believed",
        ("R44",),
        ("tests/unit/contract", "tests/unit/service"),
        (
            Edit(
                "contract/signing.py",
                "    if not same or secret_key is None:\n",
                "    if (not same and not claim.in_query) or secret_key is None:\n",
            ),
        ),
    ),
    Bug(
        "B11",
        "a plus sign and a space have the same signature",
        ("R44",),
        ("tests/unit/contract",),
        (
            Edit(
                "contract/signing.py",
                'urllib.parse.quote(name, safe="-_.~"), urllib.parse.quote(value, ',
                'urllib.parse.quote(name, safe="-_.~"), urllib.parse.quote(value.replace("+", " "), ',
            ),
        ),
    ),
    Bug(
        "B14",
        "the heartbeat waits for its turn behind the work",
        ("R23",),
        ("tests/unit/vnode/test_vnode_leadership.py",),
        (
            Edit(
                "vnode/lease.py",
                "        self._hurry = asyncio.Event()\n",
                "        self._hurry = asyncio.Event()\n        self._turn = asyncio.Lock()\n",
            ),
            Edit(
                "vnode/lease.py",
                "                async with asyncio.timeout(CALL_TIMEOUT_S):\n"
                "                    pause_s = await self._step()\n",
                "                async with self._turn, asyncio.timeout(CALL_TIMEOUT_S):\n"
                "                    pause_s = await self._step()\n",
            ),
            Edit(
                "vnode/lease.py",
                "                await tasks.first_of(work(), ",
                "                async with self._turn:\n                    await tasks.first_of(work(), ",
            ),
        ),
    ),
    Bug(
        "B15",
        "a status is published before the containers that run were looked at",
        ("R22",),
        ("tests/unit/kcilet",),
        (
            Edit(
                "kcilet/workers/worker.py",
                "        self._view()\n        is_due =",
                "        self._view()\n        _ = self._show(steps.Stage.RUNNING, self._world())\n"
                "        is_due =",
            ),
        ),
    ),
    Bug(
        "B16",
        "commits are acknowledged before they are on the disk",
        ("R03",),
        ("tests/unit/service/test_store.py",),
        (
            Edit(
                "service/store/database.py",
                '"PRAGMA synchronous=FULL"',
                '"PRAGMA synchronous=OFF"',
            ),
        ),
    ),
    Bug(
        "B17",
        "temporary keys are read once and never again, though the cluster has newer ones",
        ("R58",),
        ("tests/unit/provider/test_provider_credentials.py", "tests/integration/test_service_credentials.py"),
        (
            Edit(
                "provider/credentials.py",
                "        if self._version and not reflector.is_later(version, than=self._version):\n",
                "        if self._version:\n",
            ),
        ),
    ),
    Bug(
        "B18",
        "a command goes on for good whose client said that it leaves and then broke its line",
        ("R27",),
        ("tests/unit/kcilet_drivers/test_left_commands.py",),
        (
            Edit(
                "kcilet/drivers/streams/sessions.py",
                "within_s=_APPEARS_S + _GIVE_UP_S",
                "within_s=0.0",
            ),
        ),
    ),
    Bug(
        "B19",
        "a packet is taken to be from whom it says",
        ("R54",),
        ("tests/integration/test_pod_firewall.py",),
        (
            Edit(
                "kcilet/drivers/network/rules.py",
                """                "iifname . ether saddr . ip saddr != @pods drop",
""",
                "",
            ),
        ),
    ),
    Bug(
        "B20",
        "of two rows of equal priority the one that allows counts",
        ("R54",),
        ("tests/unit/kcilet/test_firewall.py",),
        (
            Edit(
                "kcilet/plan/firewall.py",
                "row.priority, row.is_allowed)",
                "row.priority, not row.is_allowed)",
            ),
        ),
    ),
)


def missing_places(bug: Bug, source: pathlib.Path = REPOSITORY / "src" / "kci") -> list[str]:
    """The edits whose text does not stand exactly once where it should."""
    texts = {edit.file: (source / edit.file).read_text(encoding="utf-8") for edit in bug.edits}
    return [
        f"{bug.name}: {edit.file} holds {texts[edit.file].count(edit.old)} times: {edit.old.strip()[:80]}"
        for edit in bug.edits
        if texts[edit.file].count(edit.old) != 1
    ]


def put_back(bug: Bug, source: pathlib.Path) -> None:
    """Into this copy of src/kci."""
    for edit in bug.edits:
        path = source / edit.file
        path.write_text(path.read_text(encoding="utf-8").replace(edit.old, edit.new), encoding="utf-8")


def try_out(bug: Bug) -> Verdict:
    """Whether the tests that must catch the bug do."""
    began_s = time.monotonic()
    missing = missing_places(bug)
    if missing:
        return Verdict(bug, is_caught=False, by="; ".join(missing), took_s=0.0)
    with tempfile.TemporaryDirectory(prefix="kci-bug-") as folder:
        copy = pathlib.Path(folder) / "src"
        shutil.copytree(REPOSITORY / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        put_back(bug, copy / "kci")
        report = pathlib.Path(folder) / "report.json"
        code, output = _run_tests(bug, copy, report)
        failed = _failed(report)
    caught = code == SOME_FAILED and bool(failed)
    by = ", ".join(failed) if caught else f"exit code {code}: {output}"
    return Verdict(bug, is_caught=caught, by=by, took_s=time.monotonic() - began_s)


def _run_tests(bug: Bug, source: pathlib.Path, report: pathlib.Path) -> tuple[int, str]:
    """They are run until the first failure."""
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    try:
        done = subprocess.run(
            [
                *argv,
                "--requirements-report", str(report),
                "--requirement", ",".join(bug.requirements),
                *bug.tests,
            ],
            cwd=REPOSITORY,
            # Before the installed one; a copy of bytecode must not stand in for the edited source.
            env={**environment.read(), "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"no end within {TIMEOUT_S} s"
    return done.returncode, done.stdout[-300:]


def _failed(report: pathlib.Path) -> list[str]:
    if not report.exists():
        return []
    tests = json.loads(report.read_text(encoding="utf-8"))["failed"]
    return [re.sub(r"^tests/(unit/)?", "", test) for test in tests]


def main(names: Sequence[str] = ()) -> list[Verdict]:
    chosen = [bug for bug in BUGS if not names or bug.name in names]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = list(pool.map(try_out, chosen))
    for verdict in verdicts:
        word = "caught" if verdict.is_caught else "NOT CAUGHT"
        print(
            f"{verdict.bug.name:<4} {word:<10} {verdict.took_s:5.1f} s  {verdict.bug.what}\n     {verdict.by}"
        )
    return verdicts


if __name__ == "__main__":
    sys.exit(0 if all(verdict.is_caught for verdict in main(sys.argv[1:])) else 1)
