"""The fenced blocks of a Markdown page: which are run, and as what. `doc_pages.py` runs them.

What becomes of a block follows from its language, and from comments on the lines directly before it:

    ```sh                       commands, run in the page's order by one bash with `set -e`
    ```console                  the same: lines that begin with `$ ` are run, the others are what they print
    ```yaml title="pod.yaml"    a file, written before what follows it is run; of any language
    ```text                     a drawing, or what a reader would see: nothing is done

    <!-- output -->             the block is what the commands before it print; `…` stands for any text, and
                                alone on a line for any lines; spaces count once
    <!-- repeat: 60 s -->       the commands are repeated until they succeed and print what is expected
    <!-- beside -->             the commands run on beside the others, and are ended with the page
    <!-- fails -->              the commands must fail
    <!-- not run: REASON -->    the block is not run, and why not

A page says who runs it, in a comment anywhere outside of its blocks: `<!-- run by: tests/e2e/test_x.py -->`.
Everything here is pure.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import re
from collections.abc import Iterator

import markdown_it

COMMANDS = frozenset({"sh", "bash", "console"})
DRAWING = "text"

_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
_RUN_BY = re.compile(r"<!--\s*run by:\s*(\S+)\s*-->")
_TITLE = re.compile(r'title="([^"]*)"')
_SECONDS = re.compile(r"(\d+)\s*s")
_PROMPT = "$ "


class BlockError(ValueError):
    """A page says of a block what cannot be done; the text names page, line and remedy."""


class Kind(enum.Enum):
    COMMANDS = "commands"
    FILE = "file"
    OUTPUT = "output"
    NOT_RUN = "not run"
    DRAWING = "drawing"
    # Neither run nor said why not: what the check of all pages looks for.
    UNSAID = "unsaid"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block. `line` is that of its opening fence, from 1."""

    page: str
    line: int
    language: str
    text: str
    kind: Kind
    # Of a file: relative to the folder in which the page is run.
    title: str = ""
    reason: str = ""
    # Of commands: what they print, or nothing if that is not said.
    expected: str | None = None
    repeat_s: int = 0
    beside: bool = False
    fails: bool = False

    @property
    def commands(self) -> str:
        """What bash is given."""
        if self.language != "console":
            return self.text
        taken = (line.removeprefix(_PROMPT) for line in self.text.splitlines() if line.startswith(_PROMPT))
        return "".join(f"{line}\n" for line in taken)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def extract(page: str, source: str) -> list[Block]:
    """All blocks of a page in its order; BlockError if it says of one what cannot be done."""
    blocks: list[Block] = []
    marks: list[str] = []
    for token in markdown_it.MarkdownIt().parse(source):
        if token.type == "html_block":
            marks = [] if _RUN_BY.search(token.content) else _COMMENT.findall(token.content)
        elif token.type == "fence":
            assert token.map is not None
            block = _block(page, token.map[0] + 1, token.info, token.content, marks)
            marks = []
            blocks.append(block)
            if block.kind is Kind.OUTPUT:
                _take_output(blocks)
        elif token.type == "code_block":
            assert token.map is not None
            raise BlockError(f"{page}:{token.map[0] + 1}: an indented block; fence it, and give its language")
        elif not token.type.endswith("_open"):
            marks = []
    return blocks


def line_of(page: str, source: str, heading: str) -> int:
    """Of a heading, from 1; BlockError if the page has none of that text."""
    tokens = markdown_it.MarkdownIt().parse(source)
    for token, text in itertools.pairwise(tokens):
        if token.type == "heading_open" and text.content == heading:
            assert token.map is not None
            return token.map[0] + 1
    raise BlockError(f"{page}: no heading {heading!r}, up to which its test runs it")


def run_by(source: str) -> str:
    """The test that a page names as its own, or nothing."""
    found = _RUN_BY.search(source)
    return found[1] if found else ""


def matches(expected: str, seen: str) -> bool:
    """Whether a command printed what its page says."""
    lines = [line for line in map(str.strip, expected.splitlines()) if line]
    pattern = "".join(r"(?:.*\n)*" if line == "…" else f"{_line_pattern(line)}\n" for line in lines)
    printed = "".join(f"{' '.join(line.split())}\n" for line in seen.splitlines() if line.strip())
    return re.fullmatch(pattern, printed) is not None


def _line_pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in " ".join(line.split()).split("…"))


def _block(page: str, line: int, info: str, text: str, marks: list[str]) -> Block:
    language = info.split(maxsplit=1)[0] if info.strip() else ""
    title = found[1] if (found := _TITLE.search(info)) else ""
    block = Block(
        page=page, line=line, language=language, text=text, kind=_kind(language, title), title=title
    )
    for mark in marks:
        block = _marked(block, mark)
    if block.kind is Kind.FILE and (title.startswith("/") or ".." in title.split("/")):
        raise BlockError(f"{block}: the file {title} lies outside of the folder in which the page is run")
    if (block.repeat_s or block.beside or block.fails) and block.kind is not Kind.COMMANDS:
        raise BlockError(f"{block}: repeat, beside and fails are for commands")
    if block.kind is Kind.COMMANDS and block.language == "console":
        printed = [one for one in text.splitlines() if not one.startswith(_PROMPT)]
        block = dataclasses.replace(block, expected="\n".join(printed) if printed else None)
    return block


def _kind(language: str, title: str) -> Kind:
    if title:
        return Kind.FILE
    if language in COMMANDS:
        return Kind.COMMANDS
    return Kind.DRAWING if language == DRAWING else Kind.UNSAID


def _marked(block: Block, mark: str) -> Block:
    word, _, rest = (part.strip() for part in mark.partition(":"))
    seconds = _SECONDS.fullmatch(rest)
    match word:
        case "not run" if rest:
            return dataclasses.replace(block, kind=Kind.NOT_RUN, reason=" ".join(rest.split()))
        case "repeat" if seconds:
            return dataclasses.replace(block, repeat_s=int(seconds[1]))
        case "output" if not rest:
            return dataclasses.replace(block, kind=Kind.OUTPUT)
        case "beside" if not rest:
            return dataclasses.replace(block, beside=True)
        case "fails" if not rest:
            return dataclasses.replace(block, fails=True)
        case _:
            raise BlockError(
                f"{block}: cannot make sense of <!-- {mark} -->; see tests/harness/doc_blocks.py"
            )


def _take_output(blocks: list[Block]) -> None:
    """Give the commands before the last block that block as what they print."""
    output = blocks[-1]
    if len(blocks) < 2 or blocks[-2].kind not in {Kind.COMMANDS, Kind.NOT_RUN}:
        raise BlockError(f"{output}: output of what? No commands come directly before it")
    if blocks[-2].kind is Kind.COMMANDS:
        blocks[-2] = dataclasses.replace(blocks[-2], expected=output.text)


def to_run(blocks: list[Block]) -> Iterator[Block]:
    """What a run of the page does, in order."""
    return (block for block in blocks if block.kind in {Kind.COMMANDS, Kind.FILE})
