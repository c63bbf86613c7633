import signal
import subprocess
import sys

import crash_points
import pytest

from kci.kit import crashpoints, errors

PROGRAM = """
import sys
from kci.kit import crashpoints
crashpoints.arm(sys.argv[1])
for turn in range(1, 4):
    crashpoints.reached("test.turn.before")
    print(turn, flush=True)
    crashpoints.reached("test.turn.after")
"""


def run(file):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, file], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_program_dies_at_the_hit_it_was_armed_for_and_is_not_armed_when_it_starts_again(tmp_path):
    file = tmp_path / "hits"
    file.write_text("test.turn.after 2\nother.never.reached 1\n")
    died = run(str(file))
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "1\n2\n")
    assert not file.exists()
    again = run(str(file))
    assert (again.returncode, again.stdout) == (0, "1\n2\n3\n")


def test_a_running_program_is_armed_by_a_signal(tmp_path):
    program = """
import asyncio, sys
from kci.kit import crashpoints, tasks
crashpoints.arm(sys.argv[1])
async def main(stop):
    print("up", flush=True)
    while not stop.is_set():
        await asyncio.sleep(0.01)
        crashpoints.reached("test.turn.before")
    return 0
sys.exit(tasks.run_program(main))
"""
    file = tmp_path / "hits"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "up\n"
        file.write_text("test.turn.before 3\n")
        running.send_signal(signal.SIGUSR2)
        assert running.wait(timeout=20) == -signal.SIGKILL
    assert not file.exists()


@pytest.mark.parametrize("text", ["test.turn.after", "test.turn.after zero", "test.turn.after 0", " 3"])
def test_hits_that_cannot_be_read_are_refused_in_words(tmp_path, text):
    file = tmp_path / "hits"
    file.write_text(text)
    with pytest.raises(errors.UserError, match="cannot take the crash point"):
        crashpoints.arm(str(file))


def test_without_a_file_nothing_is_armed(tmp_path):
    crashpoints.arm("")
    crashpoints.arm(str(tmp_path / "none"))
    crashpoints.reached("test.turn.before")


def test_effects_need_a_point_on_either_side_and_names_are_literal_and_unique(tmp_path):
    source = tmp_path / "vnode" / "pods.py"
    source.parent.mkdir()
    source.write_text(
        "from kci.kit import crashpoints\n"
        "async def bare(self):\n"
        "    await self._client.patch('x')\n"
        "async def right(self):\n"
        "    crashpoints.reached('vnode.pod.before')\n"
        "    await self._client.patch('x')\n"
        "    crashpoints.reached('vnode.pod.after')\n"
        "async def reads(self):\n"
        "    await self._client.get('x')\n"
        "def odd(name):\n"
        "    crashpoints.reached(name)\n"
        "    crashpoints.reached('vnode.pod.after')\n"
        "    crashpoints.reached('short')\n"
    )
    found = "\n".join(crash_points.problems(tmp_path))
    assert "no crash point before this effect in bare" in found
    assert "no crash point after this effect in bare" in found
    assert "in right" not in found
    assert "in reads" not in found
    assert "pods.py:11: the name of a crash point must be one literal string" in found
    assert found.count("vnode.pod.after is not the only one of its name") == 2
    assert "the crash point short is not named package.subject.step" in found
    assert [point.name for point in crash_points.list_points(tmp_path)].count("vnode.pod.before") == 1
