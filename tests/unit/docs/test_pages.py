"""Each block of each page is run by a test that the page names, or says in its source why it is not."""

import json

import doc_blocks
import doc_pages
import pytest
import yaml
from doc_blocks import Kind

PAGES = [path.as_posix() for path in doc_pages.pages()]


def blocks(page, *kinds):
    found = doc_blocks.extract(page, (doc_pages.REPOSITORY / page).read_text())
    return [block for block in found if not kinds or block.kind in kinds]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_becomes_of_it(page):
    unsaid = [
        f"{block}: a block of {block.language or 'no language'} is neither run nor says why not "
        "(tests/harness/doc_blocks.py)"
        for block in blocks(page, Kind.UNSAID)
    ]
    assert unsaid == []


@pytest.mark.parametrize("page", PAGES)
def test_what_is_run_is_run_by_a_test_that_is_there(page):
    test = doc_blocks.run_by((doc_pages.REPOSITORY / page).read_text()).partition("::")[0]
    if not blocks(page, Kind.COMMANDS, Kind.FILE):
        assert not test, f"{page} names {test}, and has nothing to run"
        return
    assert test, f"{page} has commands, and does not say by which test they are run"
    text = (doc_pages.REPOSITORY / test).read_text()
    assert "doc_pages.run_by(__file__)" in text or page in text, f"{test} does not run {page}"


@pytest.mark.parametrize("page", PAGES)
def test_yaml_and_json_on_a_page_can_be_read(page):
    for block in blocks(page):
        if block.language == "yaml":
            assert list(yaml.safe_load_all(block.text)), str(block)
        elif block.language == "json":
            assert json.loads(block.text), str(block)


def test_there_are_pages_that_are_run():
    assert len([page for page in PAGES if blocks(page, Kind.COMMANDS)]) > 3
