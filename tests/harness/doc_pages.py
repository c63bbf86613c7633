"""Runs the blocks of a page (doc_blocks.py) as its reader would: in one bash, in the page's order."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import doc_blocks

from kci.kit import environment as kit_environment

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
CURL = shutil.which("curl")
KUBECTL = BIN / "kubectl" if (BIN / "kubectl").exists() else shutil.which("kubectl")
# What a page's reader types is meant for their own machine and the default state folder.
_SHIM = """\
#!/usr/bin/env bash
inside=(); [ -e /run/netns/{netns} ] && inside=(nsenter --net=/run/netns/{netns})
state=(--state-dir {state_dir}) netns={netns} bin={bin} kubectl={kubectl} curl={curl}
"""
_SHIMS = {
    "kubectl": 'exec "${inside[@]}" "$kubectl" "$@"\n',
    "curl": 'exec "${inside[@]}" "$curl" "$@"\n',
    "python": 'exec "${inside[@]}" "$bin/python" "$@"\n',
    "kci": """\
case "${1:-}" in
    up) exec "$bin/kci" "$@" "${state[@]}" --netns "$netns" ;;
    plan | "" | -*) exec "$bin/kci" "$@" ;;
esac
words=()
for word in "$@"; do
    # Options end where a command to be run begins.
    [ "$word" = -- ] && words+=("${state[@]}") && state=()
    words+=("$word")
done
# Each goes into the stack's network namespace by itself.
exec "$bin/kci" "${words[@]}" "${state[@]}"
""",
}
# One block, from its first command to its last; a page that needs more says `repeat`.
BLOCK_S = 180
_BESIDE_S = 60


def pages() -> list[pathlib.Path]:
    """All pages with blocks that must be run or say why not, from the repository's folder."""
    found = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    return [path.relative_to(REPOSITORY) for path in found]


def run_by(test_file: str) -> list[str]:
    """The pages that name this test file as theirs."""
    here = pathlib.Path(test_file).resolve().relative_to(REPOSITORY).as_posix()
    return [
        path.as_posix()
        for path in pages()
        if doc_blocks.run_by((REPOSITORY / path).read_text()).partition("::")[0] == here
    ]


def lay_out(folder: pathlib.Path, *, netns: str, state_dir: pathlib.Path) -> None:
    """Make the folder look like the repository to a page's reader, but its commands reach the stack of
    this network namespace and state folder, whether it runs already or is started by the page.
    """
    for path in REPOSITORY.iterdir():
        if path.name == "deploy":
            # Pages edit manifests.
            shutil.copytree(path, folder / path.name)
        elif path.name not in {".venv", ".git", "dist"}:
            (folder / path.name).symlink_to(path)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs.parent / "installed").symlink_to(REPOSITORY / ".venv" / "installed")
    for path in BIN.iterdir():
        if path.name not in _SHIMS:
            (programs / path.name).symlink_to(path)
    for name, text in _SHIMS.items():
        shim = programs / name
        head = _SHIM.format(bin=BIN, netns=netns, state_dir=state_dir, kubectl=KUBECTL, curl=CURL)
        shim.write_text(head + text)
        shim.chmod(0o755)


def environment(folder: pathlib.Path, **more: str) -> dict[str, str]:
    """The variables of who has that folder's programs before the machine's."""
    own = kit_environment.read()
    return {**own, **more, "PATH": f"{folder}/.venv/bin:{own.get('PATH', '')}"}


def run(
    page: str,
    folder: pathlib.Path,
    *,
    environment: Mapping[str, str],
    inside: Callable[..., Sequence[str]] = lambda *argv: argv,
    values: Mapping[str, str] | None = None,
    repository: pathlib.Path = REPOSITORY,
) -> None:
    """Run a page's blocks in this folder. `inside` says how a command is run where the page's reader is, such
    as in a network namespace; `values` are put in place of words that the page leaves to its reader.
    AssertionError names page, line, commands and what they printed.
    """
    with reading(
        page, folder, environment=environment, inside=inside, values=values, repository=repository
    ) as found:
        found.to_end()


@contextlib.contextmanager
def reading(
    page: str,
    folder: pathlib.Path,
    *,
    environment: Mapping[str, str],
    inside: Callable[..., Sequence[str]] = lambda *argv: argv,
    values: Mapping[str, str] | None = None,
    repository: pathlib.Path = REPOSITORY,
) -> Iterator[Reading]:
    """The same, for who looks at something between two of its sections."""
    source = (repository / page).read_text()
    blocks = list(doc_blocks.to_run(doc_blocks.extract(page, source)))
    assert blocks, f"{page} has nothing to run"
    with _Reader.at(folder, inside("bash", "--noprofile", "--norc"), environment) as reader:
        yield Reading(page, source, blocks, lambda block: reader.do(block, values or {}))


class Reading:
    """How far a page has been run. A block that failed is not run again."""

    def __init__(
        self,
        page: str,
        source: str,
        blocks: Sequence[doc_blocks.Block],
        do: Callable[[doc_blocks.Block], None],
    ) -> None:
        self._page = page
        self._source = source
        self._left = collections.deque(blocks)
        self._do = do

    def until(self, heading: str) -> None:
        """All that stands before this heading and was not run yet."""
        line = doc_blocks.line_of(self._page, self._source, heading)
        while self._left and self._left[0].line < line:
            self._do(self._left.popleft())

    def to_end(self) -> None:
        while self._left:
            self._do(self._left.popleft())


class _Reader:
    """A bash that is given one block after another. Each block's commands and output are files beside it, so
    that nothing needs quoting; on standard output it says only how a block ended.
    """

    def __init__(self, folder: pathlib.Path, bash: subprocess.Popen[str]) -> None:
        self._folder = folder
        self._bash = bash
        self._blocks = folder / ".blocks"
        self._blocks.mkdir(exist_ok=True)
        self._ended: list[str] = []
        self._say("set -eo pipefail")

    @classmethod
    @contextlib.contextmanager
    def at(
        cls, folder: pathlib.Path, argv: Sequence[str], environment: Mapping[str, str]
    ) -> Iterator[_Reader]:
        bash = subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        try:
            yield cls(folder, bash)
        finally:
            # With all that runs beside it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(bash.pid, signal.SIGKILL)
            with contextlib.suppress(BrokenPipeError):
                bash.communicate()

    def do(self, block: doc_blocks.Block, values: Mapping[str, str]) -> None:
        if block.kind is doc_blocks.Kind.FILE:
            path = self._folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(block.text, values))
            return
        self._file(block, ".sh").write_text(_filled(block.commands, values))
        expected = _filled(block.expected, values) if block.expected is not None else None
        if block.beside:
            self._start_beside(block, expected)
        elif block.repeat_s:
            self._repeat(block, expected)
        else:
            self._once(block, expected)

    def _once(self, block: doc_blocks.Block, expected: str | None) -> None:
        if block.fails:
            code = self._in_subshell(block)
            assert code not in {"", "0"}, self._told(block, "succeeded, and the page says that it fails")
        else:
            self._say(f". {self._name(block)}.sh >{self._name(block)}.out 2>&1 </dev/null\necho 0")
            assert self._hear(block) == "0", self._told(block, "failed")
        problem = self._print_problem(block, expected)
        assert not problem, self._told(block, problem)

    def _repeat(self, block: doc_blocks.Block, expected: str | None) -> None:
        end = time.monotonic() + block.repeat_s
        while True:
            code = self._in_subshell(block)
            succeeded = (code == "0") is not block.fails
            problem = self._print_problem(block, expected) if succeeded else f"ended with {code}"
            if not problem:
                return
            assert time.monotonic() < end, self._told(block, f"{problem} for {block.repeat_s} s")
            time.sleep(0.2)  # between two looks at a state outside

    def _start_beside(self, block: doc_blocks.Block, expected: str | None) -> None:
        self._say(f"(. {self._name(block)}.sh) >{self._name(block)}.out 2>&1 </dev/null &\necho 0")
        self._hear(block)
        end = time.monotonic() + _BESIDE_S
        while problem := self._print_problem(block, expected):
            assert time.monotonic() < end, self._told(block, problem)
            time.sleep(0.1)  # between two looks at what it wrote

    def _in_subshell(self, block: doc_blocks.Block) -> str:
        """Its exit code; what it sets is lost."""
        name = self._name(block)
        subshell = f"(set -eo pipefail; . {name}.sh) >{name}.out 2>&1 </dev/null"
        self._say(f"set +e\n{subshell}\ncode=$?\nset -e\necho $code")
        return self._hear(block)

    def _say(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{text}\n")
        self._bash.stdin.flush()

    def _hear(self, block: doc_blocks.Block) -> str:
        """The next word of bash, or nothing if it ended."""
        assert self._bash.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            assert selector.select(BLOCK_S), self._told(block, f"did not end within {BLOCK_S} s")
        return self._bash.stdout.readline().strip()

    def _print_problem(self, block: doc_blocks.Block, expected: str | None) -> str:
        if expected is None or doc_blocks.matches(expected, self._printed(block)):
            return ""
        return f"printed something else than the page says:\n{expected}"

    def _printed(self, block: doc_blocks.Block) -> str:
        file = self._file(block, ".out")
        return file.read_text(errors="replace") if file.exists() else ""

    def _told(self, block: doc_blocks.Block, what: str) -> str:
        commands = self._file(block, ".sh").read_text()
        return f"{block}: these commands {what}\n{commands}\nprinted:\n{self._printed(block)}"

    def _name(self, block: doc_blocks.Block) -> str:
        return f"{self._blocks}/{block.line}"

    def _file(self, block: doc_blocks.Block, ending: str) -> pathlib.Path:
        return self._blocks / f"{block.line}{ending}"


def _filled(text: str, values: Mapping[str, str]) -> str:
    for word, value in values.items():
        text = text.replace(word, value)
    return text
