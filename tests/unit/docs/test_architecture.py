"""The tables of the developers' pages are whole."""

import re

import doc_pages

DOCS = doc_pages.REPOSITORY / "docs"


def test_each_package_has_a_row_that_says_what_it_may():
    packages = {path.parent.name for path in (doc_pages.REPOSITORY / "src" / "kci").glob("*/__init__.py")}
    table = (DOCS / "architecture.md").read_text().partition("| package | may import")[2].partition("\n\n")[0]
    assert packages - set(re.findall(r"^\| ([a-z]+)", table, re.MULTILINE)) == set()


def test_decisions_are_listed_in_their_order():
    listed = re.findall(r"^\| \[(\d+)\]", (DOCS / "decisions" / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(path.name[:4] for path in (DOCS / "decisions").glob("0*.md"))
