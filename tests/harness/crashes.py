"""Ends programs of a line at exact steps, and waits until the line has converged again.

A program of ours is armed by a file of its part's name in the folder that `kci up` was given as
`KCI_CRASH_POINTS`; its supervisor starts it again, and then it is not armed.
"""

from __future__ import annotations

import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterable

import crash_points
import line as lines

from kci.kit import crashpoints, environment
from kci.stack import processes, record

PROGRAMS = ("virtual-kubelet", "kci-service", "kcilet")
# Converged: from when the program is back (R01).
CONVERGE_S = 30.0
# A part that crashed often is started again later and later (stack/runner.py).
BACK_S = 60.0


class Crashes:
    """Of one line that was brought up by `up`."""

    def __init__(self, line: lines.Line, folder: pathlib.Path) -> None:
        self._line = line
        self._folder = folder

    def up(self, *options: str) -> None:
        """`kci up` with the folder of the parts' files in its environment."""
        argv = [str(lines.BIN / "kci"), "up", "--detach", "--state-dir", str(self._line.state_dir)]
        done = subprocess.run(
            [*argv, "--netns", self._line.netns, *options],
            env={**environment.read(), crashpoints.ENVIRONMENT: str(self._folder)},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"kci up:\n{done.stdout}\n{done.stderr}"

    def arm(self, point: crash_points.Point, hit: int = 1) -> None:
        """Have the program end there."""
        self._file(point.program).write_text(f"{point.name} {hit}\n")
        processes.send(self._line.process(point.program), signal.SIGUSR2)

    def has_fired(self, point: crash_points.Point) -> bool:
        return not self._file(point.program).exists()

    def disarm(self, program: str) -> None:
        """Of what was never reached."""
        self._file(program).unlink(missing_ok=True)
        processes.send(self._line.process(program), signal.SIGUSR2)

    def wait_running(self, program: str) -> float:
        """Until it is up; since when it is, by the monotonic clock."""
        lines.eventually(lambda: self._line.process(program), timeout_s=BACK_S, what=f"{program} is back")
        return time.monotonic()

    def converge(self, look: Callable[[], object], what: str) -> None:
        """Until `look` sees it, within the time that R01 gives. It counts from when all our programs run: how
        long the supervisor waits before it starts one again is its own affair (BACK_S at the most).
        """
        lines.eventually(look, timeout_s=CONVERGE_S, what=what, hold=self._is_one_away, hold_s=BACK_S)

    def _is_one_away(self) -> bool:
        state = record.read_state(self._line.where)
        assert state is not None
        return any(state.part(part).state is not record.PartState.RUNNING for part in PROGRAMS)

    def _file(self, program: str) -> pathlib.Path:
        return self._folder / program


def in_turn(points: Iterable[crash_points.Point]) -> list[crash_points.Point]:
    """The programs mixed evenly, so that none crashes again before it ran for a while."""
    by_program: dict[str, list[crash_points.Point]] = {}
    for point in points:
        by_program.setdefault(point.program, []).append(point)
    placed = [
        ((number + 0.5) / len(several), point)
        for several in by_program.values()
        for number, point in enumerate(several)
    ]
    return [point for _, point in sorted(placed, key=lambda one: one[0])]
