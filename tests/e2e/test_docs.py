"""The pages that name this file: each block is run as it stands, on the stack that all tests share."""

import doc_pages
import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("page", doc_pages.run_by(__file__))
def test_what_a_page_says_can_be_typed(line, page, tmp_path):
    doc_pages.lay_out(tmp_path, netns=line.netns, state_dir=line.state_dir)
    own = doc_pages.environment(tmp_path, KUBECONFIG=str(line.kubeconfig))
    doc_pages.run(page, tmp_path, environment=own)
