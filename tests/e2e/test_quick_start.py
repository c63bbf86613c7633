"""The quick start and the README, block by block: from a machine without a stack to one without a stack."""

import doc_pages
import leftovers
import pytest
from line import new_line

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("page", doc_pages.run_by(__file__))
def test_a_newcomer_who_types_the_page_has_pods_and_in_the_end_nothing(page, tmp_path):
    stack = new_line()
    before = leftovers.machine(stack.state_dir)
    doc_pages.lay_out(tmp_path, netns=stack.netns, state_dir=stack.state_dir)
    try:
        doc_pages.run(page, tmp_path, environment=doc_pages.environment(tmp_path))
        assert not stack.state_dir.exists()
    finally:
        stack.kci("down", "--purge", check=False)
    assert leftovers.processes(str(stack.state_dir), stack.netns) == frozenset()
    assert {what: seen - before[what] for what, seen in leftovers.machine(stack.state_dir).items()} == {
        what: frozenset() for what in before
    }
