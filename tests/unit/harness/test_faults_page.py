import bugs
import faults
import requirements


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
