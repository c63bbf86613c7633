"""docs/guide-coverage.md is what the tests say."""

import guide_coverage
import guide_rows

FILE = """
import pytest
pytestmark = [pytest.mark.e2e, pytest.mark.guide("flag --nodename")]

@pytest.mark.guide("limit hostPath", "limit privileged")
def test_one(): ...

class TestMany:
    @pytest.mark.parametrize("a", [pytest.param(1, marks=pytest.mark.guide("limit hostPID"))])
    async def test_two(self, a): ...

@pytest.mark.guide("limit nonsense")
def test_three(): ...
"""


def test_markers_of_files_functions_methods_and_parameters_are_found(tmp_path):
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_x.py").write_text(FILE)
    shown = guide_coverage.collect(folder)
    assert shown == {
        "flag --nodename": ["tests/test_x.py"],
        "limit hostPath": ["tests/test_x.py::test_one"],
        "limit privileged": ["tests/test_x.py::test_one"],
        "limit hostPID": ["tests/test_x.py::TestMany::test_two"],
        "limit nonsense": ["tests/test_x.py::test_three"],
    }
    (problem,) = guide_coverage.unknown_rows(shown)
    assert "test_three" in problem
    page = guide_coverage.render(shown)
    assert "| `limit hostPath` | refused | [test_one](../tests/test_x.py) |  |" in page
    assert "| `limit hostIPC` | ours: refused |  | **open** |" in page
    for row in (row for rows in guide_rows.TABLES.values() for row in rows if row.later):
        assert f"| `{row.id}` | {row.text} |  | {row.later} |" in page
