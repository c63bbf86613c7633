"""The table of seeded bugs does not rot: each still has its place in the source, and its tests are there."""

import bugs
import pytest
import requirements


@pytest.mark.parametrize("bug", bugs.BUGS, ids=lambda bug: bug.name)
def test_each_bug_can_still_be_put_back(bug, tmp_path):
    assert bugs.missing_places(bug) == []
    for edit in bug.edits:
        path = tmp_path / edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((bugs.REPOSITORY / "src" / "kci" / edit.file).read_text())
    bugs.put_back(bug, tmp_path)
    for edit in bug.edits:
        text = (tmp_path / edit.file).read_text()
        assert edit.new in text
        compile(text, edit.file, "exec")


@pytest.mark.parametrize("bug", bugs.BUGS, ids=lambda bug: bug.name)
def test_each_bug_names_its_tests_and_requirements(bug):
    assert set(bug.requirements) <= requirements.TITLES.keys()
    assert all((bugs.REPOSITORY / test.partition("::")[0]).exists() for test in bug.tests)


def test_a_bug_that_has_no_place_any_more_is_not_caught():
    lost = bugs.Bug("B0", "nothing", ("R02",), (), (bugs.Edit("kit/files.py", "no such text", ""),))
    verdict = bugs.try_out(lost)
    assert not verdict.is_caught
    assert "kit/files.py holds 0 times" in verdict.by
