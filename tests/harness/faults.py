"""`make faults`: every test that proves a requirement, at length; the seeded bugs; docs/reliability.md.

    python tests/harness/faults.py faults|release [PYTEST ARGUMENTS]

Several sessions of pytest run beside each other (SESSIONS), for tests of a line mostly wait. What failed is
run once more by itself, from the same seed, if it is little: the page names what passed only then, and what
failed twice has failed.
With arguments for pytest (to try something out) the page is not written. A run that was interrupted (^C) ends
what it started and still writes the page, which says what was not run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import bugs
import requirements

from kci.kit import environment

# pytest's own exit code.
FAILED, INTERRUPTED = 1, 2
# More failures than this are no chance, and have the machine to themselves for too long.
MOST_AGAIN = 6
# Shown at the end of the run: what to look at when it takes too long.
SLOWEST, SLOW_S = 30, 5.0
PAGE = bugs.REPOSITORY / "docs" / "reliability.md"
COMMAND = {requirements.Scale.FAULTS: "make faults", requirements.Scale.RELEASE: "make faults-release"}
HEAD = """\
# Reliability

What the line promises when things break, and how the last run of `{command}` showed it.
This page is made by that run; do not edit it, but `tests/harness/faults.py`.

Each requirement is proven by the tests that carry its marker (`pytest --requirement R17` runs those of one).
On a real line a checker asserts the invariants over the history of every test.
A leak meter compares what the line holds of the machine before and after.
Canaries in every secret input are looked for in everything that is written or shown.
Pieces and use: [CONTRIBUTING](../CONTRIBUTING.md#the-harness).
"""
LIMITS = """\
## What such a machine cannot prove

- How the real KCI service behaves; its side is our own service, and doubles that lag, lie and fail.
- Loss of power: programs are killed, and the store is seen to write through, but no disk was cut off.
- AppArmor and SELinux profiles, which the kernel does not load here.
- cgroup v2, where the machine has v1, and the other way round.
- Project quotas: limits on disk use are checked by looking.
- Runtimes in virtual machines.
- Ten minutes without an API server: half a minute with 30 pods, in full with `make faults-release`.
- More than two cores, and days of load: soaks last minutes here, an hour with `make faults-release`.
- The full figures of `make faults-release`: no run of them has been taken down yet.
- Delay and loss in the kernel's network: they are made by a proxy between programs.
- R15 among several machines: the line has one, so a pod, a call or the runtime hangs, but no agent of three.
- R30 beside a real kubelet: what it tells of each exit was read in its source, and stands in the test.
- R46 with a second worker: the service is one process; signatures are known again after its restart.
"""


def main(arguments: Sequence[str]) -> int:
    scale, *more = arguments
    seed = int(environment.read().get("KCI_SEED") or secrets.randbits(32))
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kci-faults-") as name:
        run = _Run(scale, seed, pathlib.Path(name))
        code, told = run.only(more) if more else run.all()
        if told is None:
            return code or 1
        rows, failed, repeated = told.rows, told.failed, list[str]()
        if code == FAILED and 0 < len(failed) <= MOST_AGAIN:
            print(f"once more, by themselves: {' '.join(failed)}", file=sys.stderr)
            code, again = run.only(failed)
            if again:
                failed, repeated = after_second_try(rows, failed, again)
    try:
        verdicts = bugs.main() if code != INTERRUPTED else []
    except KeyboardInterrupt:
        code, verdicts = INTERRUPTED, []
    took_min = (time.monotonic() - began_s) / 60
    if not more:
        text = page(
            requirements.Scale(scale), seed, rows, verdicts, took_min, failed=failed, repeated=repeated
        )
        PAGE.write_text(text, encoding="utf-8")
    untested = sorted(requirements.TITLES.keys() - {row.requirement for row in rows}) if not more else []
    for name in untested:
        print(f"{name} {requirements.TITLES[name]}: no test")
    caught = len(verdicts) == len(bugs.BUGS) and all(verdict.is_caught for verdict in verdicts)
    return 0 if code == 0 and caught and not untested else code or 1


@dataclasses.dataclass(frozen=True)
class Told:
    """What a session told of itself; `passed` are the tests of requirements that it ran to a good end."""

    rows: list[requirements.Row]
    failed: list[str]
    passed: frozenset[str]


def _read(report: pathlib.Path) -> Told | None:
    if not report.exists():
        return None
    told = json.loads(report.read_text(encoding="utf-8"))
    rows = [requirements.Row(**row) for row in told["rows"]]
    return Told(rows, told["failed"], frozenset(told["passed"]))


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
    return Told(list(rows.values()), one.failed + other.failed, one.passed | other.passed)


def after_second_try(
    rows: Sequence[requirements.Row], failed: Sequence[str], again: Told
) -> tuple[list[str], list[str]]:
    """What has failed twice, and what passed on the second try; the rows are told, too."""
    repeated = [test for test in failed if test in again.passed]
    for row in rows:
        row.repeated = [test for test in row.failed if test in repeated]
        row.failed = [test for test in row.failed if test not in repeated]
    return [test for test in failed if test not in repeated], repeated


@dataclasses.dataclass(frozen=True)
class Session:
    """The tests of these folders and files; of none: all that no other session runs."""

    name: str
    tests: tuple[str, ...] = ()
    niceness: int = 0


SESSIONS = (
    Session("line"),
    Session(
        "soak",
        (
            "tests/faults/test_soak.py",
            "tests/faults/test_kcilet_runtime.py",
            "tests/faults/test_service_crashes.py",
        ),
    ),
    # They need neither a line nor the machine.
    Session("alone", ("tests/contract", "tests/unit"), niceness=19),
)


class _Run:
    """Sessions of pytest of one scale and seed. They answer with a code of pytest's and what was told."""

    def __init__(self, scale: str, seed: int, folder: pathlib.Path) -> None:
        self._folder = folder
        self._environment = {**environment.read(), "KCI_SCALE": scale, "KCI_SEED": str(seed)}

    def only(self, more: Sequence[str]) -> tuple[int, Told | None]:
        """One session, with these arguments."""
        report = self._folder / "only.json"
        report.unlink(missing_ok=True)
        return _wait([self._start(report, more)]), _read(report)

    def all(self) -> tuple[int, Told | None]:
        """All sessions beside each other. What the first says is shown at once, of the others at the end."""
        reports = [self._folder / f"{session.name}.json" for session in SESSIONS]
        with contextlib.ExitStack() as stack:
            outputs = [None, *(stack.enter_context(self._open(one)) for one in SESSIONS[1:])]
            code = _wait(
                [
                    self._start(report, _to_arguments(session), output=output, niceness=session.niceness)
                    for session, report, output in zip(SESSIONS, reports, outputs, strict=True)
                ]
            )
            for output in filter(None, outputs):
                _ = output.seek(0)
                shutil.copyfileobj(output, sys.stdout)
        told = [one for one in map(_read, reports) if one is not None]
        return code, functools.reduce(joined, told) if len(told) == len(SESSIONS) else None

    def _open(self, session: Session) -> TextIO:
        return (self._folder / f"{session.name}.log").open("w+", encoding="utf-8")

    def _start(
        self, report: pathlib.Path, more: Sequence[str], *, output: TextIO | None = None, niceness: int = 0
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                "nice", "-n", str(niceness), sys.executable, "-m", "pytest",
                "--requirement", "all", "--requirements-report", str(report),
                f"--durations={SLOWEST}", f"--durations-min={SLOW_S:g}", *more,
            ],
            cwd=bugs.REPOSITORY,
            env=self._environment,
            stdout=output,
            stderr=output,
            # The terminal's interrupt comes to us alone: pytest gets it once, or would not end its fixtures.
            start_new_session=True,
        )  # fmt: skip


def _to_arguments(session: Session) -> Sequence[str]:
    """pytest's."""
    return session.tests or [f"--ignore={path}" for other in SESSIONS for path in other.tests]


def _wait(sessions: Sequence[subprocess.Popen[bytes]]) -> int:
    """The worst of pytest's exit codes. An interrupt is handed on; a second one ends them at once."""
    ask_to_end = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return max(session.wait() for session in sessions)
    except KeyboardInterrupt:
        print("interrupted: what runs now is ended, and the table written", file=sys.stderr)
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


def page(
    scale: requirements.Scale,
    seed: int,
    rows: Sequence[requirements.Row],
    verdicts: Sequence[bugs.Verdict],
    took_min: float,
    *,
    failed: Sequence[str] = (),
    repeated: Sequence[str] = (),
) -> str:
    """The whole page. Bugs without a verdict were not tried."""
    known = {row.requirement: row for row in rows}
    judged = {verdict.bug.name: verdict for verdict in verdicts}
    shown = [known.get(name) or requirements.Row(name) for name in sorted(requirements.TITLES)]
    parts = [
        HEAD.format(command=COMMAND[scale]),
        "## Requirements\n",
        f"Scale `{scale}`, seed `{seed}`, {took_min:.0f} minutes on {_machine()}.",
        f"`KCI_SEED={seed} {COMMAND[scale]}` replays it.\n",
        *_table(
            ("requirement", "must hold", "runs", "seeds", "result"),
            [
                (row.requirement, requirements.TITLES[row.requirement], row.runs, row.seed or "-", row.result)
                for row in shown
            ],
        ),
        *_what_is_wrong(shown, failed, repeated),
        "\n## Seeded bugs\n",
        "Each is put back into a copy of the source, and the tests of its requirements must fail on it.\n",
        *_table(
            ("bug", "what is put back", "requirements", "result", "caught by"),
            [
                (bug.name, bug.what, ", ".join(bug.requirements), *_outcome(judged.get(bug.name)))
                for bug in bugs.BUGS
            ],
        ),
        f"\n{LIMITS}",
    ]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"


def _what_is_wrong(
    rows: Sequence[requirements.Row], failed: Sequence[str], repeated: Sequence[str]
) -> Iterator[str]:
    """Nothing, of a whole run in which all passed."""
    not_run = sum(row.not_run for row in rows)
    if not_run:
        yield "\n**The run was cut short.** What was not run proves nothing, nor do bugs that were not tried."
    if failed:
        yield "\n## Failed\n"
        yield from (f"- `{test}`" for test in failed)
    if repeated:
        yield "\n## Passed on the second try\n"
        yield "These failed beside all others, and passed by themselves from the same seed.\n"
        yield from (f"- `{test}`" for test in repeated)


def _outcome(verdict: bugs.Verdict | None) -> tuple[str, str]:
    """The result, and by which test, without its parameters."""
    if verdict is None:
        return "NOT RUN", "-"
    if not verdict.is_caught:
        return "NOT CAUGHT", "-"
    return "caught", f"`{verdict.by.partition('[')[0].rpartition('::')[2]}`"


def _machine() -> str:
    kernel, python = platform.release().partition("-")[0], platform.python_version()
    return f"{os.cpu_count()} cores, Linux {kernel}, Python {python}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
