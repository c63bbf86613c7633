"""Rules of the code that no other tool checks; `make check` runs this.

- Pure packages have no `async`: nothing can change under a decision.
- Each package's docstring has its four lines: purpose, May import, May touch, Must not.
- Each store write and each effect on the outside has a crash point beside it (scripts/crash_points.py).
- Each call that waits on the outside has a limit in time (scripts/deadlines.py).
- Tests patch next to nothing: a patch says that the design lacks a door (style: under 5 per 100 tests).
- No file in version control names a package registry's host, or a path of the machine it was written on.
"""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import crash_points
import deadlines

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "kci"
PURE = ("contract", "link", "kcilet/plan", "provider/plan", "service/domain")
# Generated code, and alembic's folder.
WITHOUT_FOUR_LINES = (
    "kcilet/drivers/runtime/api",
    "service/store/migrations",
    "service/store/migrations/versions",
)
ASYNC = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
PATCH = re.compile(r"\bmock\.patch|\bmonkeypatch\.setattr|\bmocker\.patch")
TEST = re.compile(r"^\s*(async )?def test_", re.MULTILINE)
PATCHES_PER_100_TESTS = 5
# Registry clients' own words for "take packages from there".
HOSTS = re.compile(r"--(extra-)?index-url|--find-links|registry=http|GOPROXY=http|/root/\.|/home/[a-z]+/")
NO_HOSTS_IN = ("*.lock", "*.in", "*.toml", "*.sh", "Makefile", "scripts/*", ".ci/*", "*.py", "*.md", "*.mod")


def main() -> int:
    problems = [
        *asynchronous(),
        *docstrings(),
        *crash_points.problems(),
        *deadlines.problems(REPOSITORY),
        *patches(),
        *hosts(),
    ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def asynchronous() -> Iterator[str]:
    for package in PURE:
        for path in sorted((PACKAGE / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ASYNC):
                    yield f"{_name(path)}:{node.lineno}: {package} decides, so it may not be async"


def docstrings() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent == PACKAGE or path.parent.relative_to(PACKAGE).as_posix() in WITHOUT_FOUR_LINES:
            continue
        if not (path.parent / "__init__.py").exists():
            yield f"{_name(path.parent)}: a package needs an __init__.py"
        elif path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
            missing = [f"'{line}'" for line in ("May import:", "May touch:", "Must not:") if line not in text]
            if missing:
                yield f"{_name(path)}: the package's docstring lacks {', '.join(missing)}"


def patches() -> Iterator[str]:
    texts = [path.read_text() for path in (REPOSITORY / "tests").rglob("*.py")]
    count = sum(len(PATCH.findall(text)) for text in texts)
    tests = sum(len(TEST.findall(text)) for text in texts)
    if count * 100 > tests * PATCHES_PER_100_TESTS:
        yield f"tests/: {count} patches in {tests} tests; pass a fake in instead"


def hosts() -> Iterator[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *NO_HOSTS_IN],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in listed:
        path = REPOSITORY / name
        if path == pathlib.Path(__file__).resolve() or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if HOSTS.search(line):
                yield f"{name}:{number}: names a registry or a path of one machine: {line.strip()[:80]}"


def _name(path: pathlib.Path) -> str:
    return str(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    sys.exit(main())
