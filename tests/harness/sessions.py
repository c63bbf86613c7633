"""Sessions of pytest beside each other, for tests of a line mostly wait; what they tell is put together.

The first session's words are shown at once, those of the others when all have ended; then the table of
requirements over all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

import requirements

# pytest's own exit codes.
FAILED, INTERRUPTED = 1, 2
ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Session:
    """The tests of these folders and files; of none: all that no session beside it runs."""

    name: str
    tests: tuple[str, ...] = ()
    niceness: int = 0


@dataclasses.dataclass(frozen=True)
class Told:
    """What a session told of itself; `passed` are the tests of requirements that it ran to a good end."""

    rows: list[requirements.Row]
    failed: list[str]
    passed: frozenset[str]


def run(
    sessions: Sequence[Session], options: Sequence[str], variables: Mapping[str, str], folder: pathlib.Path
) -> tuple[int, Told | None]:
    """The worst of pytest's exit codes, and what was told; None if a session did not get to tell anything.
    In `folder` they write; an earlier run's reports there are passed over. An interrupt is handed on.
    """
    reports = [folder / f"{session.name}.json" for session in sessions]
    for report in reports:
        report.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        outputs = [None, *(stack.enter_context(_open(folder, one)) for one in sessions[1:])]
        code = _wait(
            [
                _start([*to_arguments(session, sessions), *options], report, variables, output, session)
                for session, report, output in zip(sessions, reports, outputs, strict=True)
            ]
        )
        for output in filter(None, outputs):
            _ = output.seek(0)
            shutil.copyfileobj(output, sys.stdout)
    told = [one for one in map(_read, reports) if one is not None]
    if len(told) < len(sessions):
        return code, None
    whole = functools.reduce(joined, told)
    print("\nrequirements, all sessions:", requirements.table(whole.rows), sep="\n")
    return code, whole


def joined(one: Told, other: Told) -> Told:
    """What two sessions told that shared the tests of one run."""
    rows = {row.requirement: dataclasses.replace(row) for row in one.rows}
    for row in other.rows:
        known = rows.get(row.requirement, requirements.Row(row.requirement))
        rows[row.requirement] = requirements.Row(
            row.requirement,
            planned=known.planned + row.planned,
            tests=known.tests + row.tests,
            runs=known.runs + row.runs,
            seed=known.seed or row.seed,
            failed=known.failed + row.failed,
            skipped=known.skipped + row.skipped,
        )
    ordered = sorted(rows.values(), key=lambda row: row.requirement)
    return Told(ordered, one.failed + other.failed, one.passed | other.passed)


def _read(report: pathlib.Path) -> Told | None:
    if not report.exists():
        return None
    told = json.loads(report.read_text(encoding="utf-8"))
    rows = [requirements.Row(**row) for row in told["rows"]]
    return Told(rows, told["failed"], frozenset(told["passed"]))


def _open(folder: pathlib.Path, session: Session) -> TextIO:
    return (folder / f"{session.name}.log").open("w+", encoding="utf-8")


def _start(
    arguments: Sequence[str],
    report: pathlib.Path,
    variables: Mapping[str, str],
    output: TextIO | None,
    session: Session,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            "nice", "-n", str(session.niceness), sys.executable, "-m", "pytest",
            "--requirements-report", str(report), *arguments,
        ],
        cwd=ROOT,
        env=variables,
        stdout=output,
        stderr=output,
        # The terminal's interrupt comes to us alone: pytest gets it once, or would not end its fixtures.
        start_new_session=True,
    )  # fmt: skip


def to_arguments(session: Session, sessions: Sequence[Session]) -> Sequence[str]:
    """pytest's."""
    return session.tests or [f"--ignore={path}" for other in sessions for path in other.tests]


def _wait(sessions: Sequence[subprocess.Popen[bytes]]) -> int:
    """The worst of pytest's exit codes. A second interrupt ends them at once."""
    ask_to_end = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # A signal that ended one is a negative number.
        return max(abs(session.wait()) for session in sessions)
    except KeyboardInterrupt:
        print("interrupted: what runs now is ended, and what it told is shown", file=sys.stderr)
        for session in sessions:
            session.send_signal(signal.SIGINT)
        try:
            for session in sessions:
                _ = session.wait()
        except KeyboardInterrupt:
            for session in sessions:
                session.kill()
        return INTERRUPTED
    finally:
        _ = signal.signal(signal.SIGTERM, ask_to_end)
