import json
import signal
import subprocess
import sys
import time

import pytest
import requirements
import sessions

from kci.kit import environment

HARNESS = str(sessions.ROOT / "tests" / "harness")


def test_two_sessions_that_share_the_tests_are_told_as_one():
    line = sessions.Told(
        [
            requirements.Row("R02", planned=2, tests=2, runs=3, failed=["x.py::a"]),
            requirements.Row("R23", planned=1, skipped=["x.py::c"]),
        ],
        failed=["x.py::a"],
        passed=frozenset({"x.py::b"}),
    )
    beside = sessions.Told(
        [
            requirements.Row("R02", planned=3, tests=2, runs=500, seed="7"),
            requirements.Row("R42", planned=1, tests=1, runs=9),
        ],
        failed=[],
        passed=frozenset({"x.py::d"}),
    )
    told = sessions.joined(line, beside)
    assert (told.failed, told.passed) == (["x.py::a"], {"x.py::b", "x.py::d"})
    assert {(row.requirement, row.runs, row.seed, row.result) for row in told.rows} == {
        ("R02", 503, "7", "FAILED (1 of 4), 1 of 5 not run"),
        ("R23", 0, "", "skipped"),
        ("R42", 9, "", "passed"),
    }


ONE, OTHER = (
    """
import pytest

@pytest.mark.requirement("R01")
def test_one(): print("said by one")
""",
    """
import pytest

@pytest.mark.requirement("R01", "R02")
def test_other(): assert not "said by other"
""",
)


def test_sessions_run_beside_each_other_and_the_worst_of_them_counts(tmp_path, capfd):
    for name, text in (("test_one.py", ONE), ("test_other.py", OTHER)):
        (tmp_path / name).write_text(text)
    code, told = sessions.run(
        [sessions.Session(name, (str(tmp_path / f"test_{name}.py"),)) for name in ("one", "other")],
        ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-p", "requirements"],
        {**environment.read(), "PYTHONPATH": HARNESS},
        tmp_path,
    )
    assert code == sessions.FAILED
    assert [name.rpartition("::")[2] for name in told.failed] == ["test_other"]
    assert {row.requirement: row.result for row in told.rows} == {
        "R01": "FAILED (1 of 2)",
        "R02": "FAILED (1 of 1)",
    }
    shown = capfd.readouterr().out
    assert shown.index("1 passed") < shown.index("said by other") < shown.index("requirements, all sessions")


def test_a_session_that_a_signal_ends_has_failed(tmp_path):
    (tmp_path / "test_dies.py").write_text(
        "import os, signal\ndef test_dies(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    code, told = sessions.run(
        [sessions.Session("dies", (str(tmp_path / "test_dies.py"),))],
        ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-p", "requirements"],
        {**environment.read(), "PYTHONPATH": HARNESS},
        tmp_path,
    )
    assert code == signal.SIGKILL
    assert told.failed == []


def test_a_session_of_no_tests_runs_what_no_other_runs():
    whole, part = sessions.Session("whole"), sessions.Session("part", ("tests/unit", "tests/x.py"))
    assert sessions.to_arguments(part, [whole, part]) == ("tests/unit", "tests/x.py")
    assert sessions.to_arguments(whole, [whole, part]) == ["--ignore=tests/unit", "--ignore=tests/x.py"]


SESSION = """
import time, pytest

@pytest.mark.requirement("R01")
def test_passes(): pass

@pytest.mark.requirement("R02")
def test_fails(): assert False

@pytest.mark.requirement("R03")
def test_hangs():
    open("hangs", "w").close()
    time.sleep(60)

@pytest.mark.requirement("R01", "R04")
def test_comes_after(): pass
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_session_that_is_ended_has_told_what_it_ran_and_what_not(tmp_path, end):
    (tmp_path / "test_session.py").write_text(SESSION)
    report = tmp_path / "report.json"
    # Whoever runs the tests in the background may have had SIGINT ignored, and children inherit that.
    env = ["env", "--default-signal=INT"]
    argv = [*env, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    process = subprocess.Popen(
        [*argv, "-p", "requirements", "--requirements-report", str(report), str(tmp_path)],
        cwd=tmp_path,
        env={**environment.read(), "PYTHONPATH": HARNESS},
        stdout=subprocess.DEVNULL,
    )
    with process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "hangs").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(end)
    told = json.loads(report.read_text())
    assert [name.rpartition("::")[2] for name in told["passed"]] == ["test_passes"]
    rows = {row["requirement"]: requirements.Row(**row) for row in told["rows"]}
    assert {name: row.result for name, row in rows.items()} == {
        "R01": "NOT RUN, 1 of 2 not run",
        "R02": "FAILED (1 of 1)",
        "R03": "NOT RUN, 1 of 1 not run",
        "R04": "NOT RUN, 1 of 1 not run",
    }
