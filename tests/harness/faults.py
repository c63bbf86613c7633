"""`make faults`: every test that proves a requirement, at length; the seeded bugs; docs/reliability.md.

    python tests/harness/faults.py faults|release [PYTEST ARGUMENTS]

Several sessions of pytest run beside each other (SESSIONS). What failed is run once more by itself, from the
same seed, if it is little: the page names what passed only then, and what failed twice has failed.
With arguments for pytest (to try something out) the page is not written. A run that was interrupted (^C) ends
what it started and still writes the page, which says what was not run.
"""

from __future__ import annotations

import os
import pathlib
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import bugs
import requirements
import sessions

from kci.kit import environment

# More failures than this are no chance, and have the machine to themselves for too long.
MOST_AGAIN = 6
# Shown at the end of the run: what to look at when it takes too long.
SLOWEST, SLOW_S = 30, 5.0
OPTIONS = ("--requirement", "all", f"--durations={SLOWEST}", f"--durations-min={SLOW_S:g}")
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
    variables = {**environment.read(), "KCI_SCALE": scale, "KCI_SEED": str(seed)}
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kci-faults-") as name:
        folder = pathlib.Path(name)

        def run(chosen: Sequence[sessions.Session], *more: str) -> tuple[int, sessions.Told | None]:
            return sessions.run(chosen, [*OPTIONS, *more], variables, folder)

        code, told = run([ONE], *more) if more else run(SESSIONS)
        if told is None:
            return code or 1
        rows, failed, repeated = told.rows, told.failed, list[str]()
        if code == sessions.FAILED and 0 < len(failed) <= MOST_AGAIN:
            print(f"once more, by themselves: {' '.join(failed)}", file=sys.stderr)
            code, again = run([ONE], *failed)
            if again:
                failed, repeated = after_second_try(rows, failed, again)
    try:
        verdicts = bugs.main() if code != sessions.INTERRUPTED else []
    except KeyboardInterrupt:
        code, verdicts = sessions.INTERRUPTED, []
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


def after_second_try(
    rows: Sequence[requirements.Row], failed: Sequence[str], again: sessions.Told
) -> tuple[list[str], list[str]]:
    """What has failed twice, and what passed on the second try; the rows are told, too."""
    repeated = [test for test in failed if test in again.passed]
    for row in rows:
        row.repeated = [test for test in row.failed if test in repeated]
        row.failed = [test for test in row.failed if test not in repeated]
    return [test for test in failed if test not in repeated], repeated


# All tests of requirements, or those that are named.
ONE = sessions.Session("all")
SESSIONS = (
    sessions.Session("line"),
    sessions.Session(
        "soak",
        (
            "tests/faults/test_soak.py",
            "tests/faults/test_kcilet_runtime.py",
            "tests/faults/test_service_crashes.py",
        ),
    ),
    # They need neither a line nor the machine.
    sessions.Session("alone", ("tests/contract", "tests/unit"), niceness=19),
)


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
