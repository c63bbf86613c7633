"""What becomes of a page's blocks, and that running them finds what a page says wrongly."""

import doc_blocks
import doc_pages
import line
import pytest
from doc_blocks import Kind

from kci.kit import environment
from kci.stack import processes


def only(source):
    (block,) = doc_blocks.extract("page.md", source)
    return block


@pytest.fixture
def run(tmp_path):
    """Run a page that is given as text; the folder in which it ran."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def go(source, **values):
        (tmp_path / "page.md").write_text(source)
        doc_pages.run("page.md", folder, environment=environment.read(), values=values, repository=tmp_path)
        return folder

    return go


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("```sh\ntrue\n```\n", Kind.COMMANDS),
        ("```console\n$ true\n```\n", Kind.COMMANDS),
        ('```yaml title="pod.yaml"\na: b\n```\n', Kind.FILE),
        ("```text\na -> b\n```\n", Kind.DRAWING),
        ("```yaml\na: b\n```\n", Kind.UNSAID),
        ("```\nwhat\n```\n", Kind.UNSAID),
        ("<!-- not run: it needs a cloud -->\n```sh\ntrue\n```\n", Kind.NOT_RUN),
    ],
)
def test_the_language_and_the_comment_before_say_what_a_block_is(source, kind):
    assert only(source).kind is kind


def test_a_block_knows_its_page_and_line_and_why_it_is_not_run():
    block = only("# Page\n\n<!-- not run: it needs\n a cloud -->\n```sh\ntrue\n```\n")
    assert (str(block), block.reason) == ("page.md:5", "it needs a cloud")


def test_blocks_in_lists_are_blocks():
    assert only("1. Do\n\n    ```sh\n    true\n    ```\n").commands == "true\n"


def test_the_lines_of_a_console_without_a_prompt_are_what_it_prints():
    block = only("```console\n$ echo a\na\n$ echo b\nb\n```\n")
    assert (block.commands, block.expected) == ("echo a\necho b\n", "a\nb")


def test_output_belongs_to_the_commands_before_it():
    commands, output = doc_blocks.extract("p", "```sh\nls\n```\n\n<!-- output -->\n```text\na\n```\n")
    assert (commands.expected, output.kind) == ("a\n", Kind.OUTPUT)


def test_a_comment_counts_for_the_block_directly_after_it_alone():
    first, second = doc_blocks.extract("p", "<!-- fails -->\n```sh\nfalse\n```\nText.\n```sh\ntrue\n```\n")
    assert (first.fails, second.fails) == (True, False)
    assert only("<!-- fails -->\nText between.\n\n```sh\ntrue\n```\n").fails is False


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("<!-- maybe -->\n```sh\ntrue\n```\n", "cannot make sense of <!-- maybe -->"),
        ("<!-- not run: -->\n```sh\ntrue\n```\n", "cannot make sense"),
        ("<!-- repeat: often -->\n```sh\ntrue\n```\n", "cannot make sense"),
        ("<!-- output -->\n```text\na\n```\n", "output of what"),
        ("<!-- beside -->\n```text\na\n```\n", "for commands"),
        ('```yaml title="../a.yaml"\na\n```\n', "outside of the folder"),
        ("Text.\n\n    indented\n", "page.md:3: an indented block"),
    ],
)
def test_what_a_page_cannot_say_of_a_block_is_named(source, says):
    with pytest.raises(doc_blocks.BlockError, match=says):
        doc_blocks.extract("page.md", source)


@pytest.mark.parametrize(
    ("expected", "seen", "is_so"),
    [
        ("a  b", "a b\n", True),
        ("a", "b", False),
        ("a", "a\nb", False),
        ("pod-… 1/1", "pod-x7 1/1 Running", False),
        ("pod-… 1/1 …", "pod-x7   1/1   Running", True),
        ("a\n…\nz", "a\nb\nc\nz\n", True),
        ("a\n…\nz", "a\nz\n", True),
        ("…\nz", "z (no)", False),
        ("a.c", "abc", False),
    ],
)
def test_what_is_printed_is_compared_by_lines_and_words(expected, seen, is_so):
    assert doc_blocks.matches(expected, seen) is is_so


def test_a_page_names_its_test():
    assert doc_blocks.run_by("# A\n<!-- run by: tests/e2e/test_docs.py -->\n") == "tests/e2e/test_docs.py"
    assert not doc_blocks.run_by("# A\n")


def test_a_page_is_run_in_its_order_by_one_bash(run):
    folder = run(
        "```sh\nexport A=one\ncd .\n```\n"
        '```json title="sub/file.json"\n{"a": "PLACE"}\n```\n'
        "```console\n$ echo $A\none\n```\n"
        '```sh\ncat sub/file.json\n```\n<!-- output -->\n```text\n{"a": "here"}\n```\n',
        PLACE="here",
    )
    assert (folder / "sub" / "file.json").exists()


def test_a_command_may_run_beside_the_others_and_ends_with_the_page(run):
    folder = run(
        "<!-- beside -->\n```sh\necho $BASHPID > pid; echo up; exec sleep 300\n```\n"
        "<!-- output -->\n```text\nup\n```\n"
        "<!-- repeat: 30 s -->\n```sh\ntest -s pid\n```\n<!-- fails -->\n```sh\nfalse\n```\n"
    )
    pid = int((folder / "pid").read_text())
    line.eventually(lambda: processes.observe(pid) is None, what="it has ended with the page")


def test_a_page_is_run_section_by_section_for_who_looks_in_between(tmp_path):
    (tmp_path / "page.md").write_text(
        "# Page\n\n## First\n\n```sh\nA=one\necho > first\n```\n\n## Then\n\n```sh\necho $A > then\n```\n"
    )
    with doc_pages.reading(
        "page.md", tmp_path, environment=environment.read(), repository=tmp_path
    ) as reading:
        reading.until("Then")
        assert (tmp_path / "first").exists()
        assert not (tmp_path / "then").exists()
        with pytest.raises(doc_blocks.BlockError, match="no heading 'Later'"):
            reading.until("Later")
        (tmp_path / "first").unlink()
        reading.to_end()
    assert (tmp_path / "then").read_text() == "one\n"
    assert not (tmp_path / "first").exists()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("```sh\nfalse\ntrue\n```\n", "page.md:1: these commands failed\nfalse"),
        ("```sh\nfalse | cat\n```\n", "failed"),
        ("```sh\nexit 0\n```\n```sh\ntrue\n```\n", "failed"),
        ("```console\n$ echo a\nb\n```\n", "printed something else"),
        ("<!-- fails -->\n```sh\ntrue\n```\n", "succeeded"),
        ("<!-- repeat: 0 s -->\n```sh\nfalse\n```\n", "failed"),
        ("<!-- repeat: 1 s -->\n```sh\nfalse\n```\n", "ended with 1 for 1 s"),
        ("```text\na\n```\n", "nothing to run"),
    ],
)
def test_a_page_that_is_wrong_is_told_with_its_line(run, source, says):
    with pytest.raises(AssertionError, match=says):
        run(source)
