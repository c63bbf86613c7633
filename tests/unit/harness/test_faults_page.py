import bugs
import faults
import requirements
import sessions


def test_the_page_shows_every_requirement_and_every_bug_and_what_was_not_run():
    rows = [
        requirements.Row("R02", tests=2, runs=510, seed="7"),
        requirements.Row("R06", tests=3, runs=3, failed=["tests/x.py::y"]),
        requirements.Row("R23", skipped=["tests/x.py::z"]),
    ]
    caught, missed = (
        bugs.Verdict(bug, is_caught=bug.name == "B1", by="unit/x.py::test_one[a]", took_s=1.0)
        for bug in bugs.BUGS[:2]
    )
    text = faults.page(requirements.Scale.FAULTS, 7, rows, [caught, missed], 12.3)
    assert "| R02 | the answer of a create is lost: no second create | 510 | 7 | passed |" in text
    assert "| 3 | - | FAILED (1 of 3) |" in text
    assert "| 0 | - | skipped |" in text
    assert text.count("| no test |") == len(requirements.TITLES) - 3
    assert "| caught | `test_one` |" in text
    assert "| NOT CAUGHT | - |" in text
    assert "KCI_SEED=7 make faults" in text
    assert "cannot prove" in text
    assert "cut short" not in text


def test_the_page_of_a_run_that_was_cut_short_says_what_was_not_run():
    rows = [
        requirements.Row("R02", planned=2, tests=2, runs=510),
        requirements.Row("R06", planned=3, tests=1, runs=1, failed=["tests/x.py::y"]),
        requirements.Row("R15", planned=4, tests=1, runs=1, skipped=["tests/x.py::a"]),
        requirements.Row("R23", planned=1),
    ]
    text = faults.page(requirements.Scale.FAULTS, 7, rows, [], 1.0, failed=["tests/x.py::y"])
    assert "| 510 | - | passed |" in text
    assert "| FAILED (1 of 1), 2 of 3 not run |" in text
    assert "| NOT RUN, 2 of 4 not run, 1 skipped |" in text
    assert "| NOT RUN, 1 of 1 not run |" in text
    assert text.count("| NOT RUN | - |") == len(bugs.BUGS)
    assert "- `tests/x.py::y`" in text
    assert "cut short" in text


def test_what_passes_on_the_second_try_is_named_and_what_fails_twice_has_failed():
    rows = [
        requirements.Row("R02", tests=2, failed=["x.py::a", "x.py::b"]),
        requirements.Row("R06", tests=3, failed=["x.py::a"]),
    ]
    again = sessions.Told(rows=[], failed=["x.py::b"], passed=frozenset({"x.py::a"}))
    failed, repeated = faults.after_second_try(rows, ["x.py::a", "x.py::b"], again)
    assert (failed, repeated) == (["x.py::b"], ["x.py::a"])
    text = faults.page(requirements.Scale.FAULTS, 7, rows, [], 1.0, failed=failed, repeated=repeated)
    assert "FAILED (1 of 2), 1 of 2 on the second try" in text
    assert "passed, 1 of 3 on the second try" in text
    assert text.index("- `x.py::b`") < text.index("Passed on the second try") < text.index("- `x.py::a`")


def test_what_the_second_session_did_not_reach_has_failed():
    rows = [requirements.Row("R02", tests=1, failed=["x.py::a"])]
    again = sessions.Told(rows=[], failed=[], passed=frozenset())
    assert faults.after_second_try(rows, ["x.py::a"], again) == (["x.py::a"], [])
