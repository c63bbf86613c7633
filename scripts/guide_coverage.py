"""Make docs/guide-coverage.md: where each row of the vendor guide is shown, or that it is open.

The rows are those of guide_rows.py, and a test says with `@pytest.mark.guide("<row>", …)` which it shows, at
a function, a class or a whole file (`pytestmark`). With --check nothing is written: a test that names an
unknown row, and a page that is not what the tests say, are errors.
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator, Sequence

import guide_rows

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "guide-coverage.md"
MADE = "<!-- Made from the tests by `make docs`; edits are lost. -->"
_Shown = dict[str, list[str]]


def main() -> int:
    shown = collect(REPOSITORY / "tests")
    problems = unknown_rows(shown)
    page = render(shown)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        problems.append("docs/guide-coverage.md is not what the tests say: run `make docs`")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def collect(folder: pathlib.Path) -> _Shown:
    """The tests of each row that is named in this folder, as `<path>::<test>` from the folder's parent."""
    shown: _Shown = {}
    for path in sorted(folder.rglob("test_*.py")):
        name = path.relative_to(folder.parent).as_posix()
        for row, test in _marked(ast.parse(path.read_bytes())):
            tests = shown.setdefault(row, [])
            place = f"{name}::{test}" if test else name
            if place not in tests:
                tests.append(place)
    return shown


def unknown_rows(shown: _Shown) -> list[str]:
    known = {row.id for rows in guide_rows.TABLES.values() for row in rows}
    return [
        f"{test}: the guide has no row {row!r}: scripts/guide_rows.py lists them"
        for row in sorted(shown.keys() - known)
        for test in shown[row]
    ]


def render(shown: _Shown) -> str:
    rows = [row for rows in guide_rows.TABLES.values() for row in rows]
    whole = sum(row.id in shown and not row.later for row in rows)
    introduction = (
        f"{MADE}\n# Where the guide is shown\n\n"
        "Each row of the vendor guide's tables of flags, variables, annotations and limits, and the tests "
        "that show it.\nParts 2 and 3 are the next steps: the guide's network, its deployment.\n"
        f"{whole} of {len(rows)} rows are shown whole.\n"
    )
    parts = [introduction]
    for title, table in guide_rows.TABLES.items():
        lines = [("row", "promises", "shown by", "open"), ("---",) * 4]
        lines += [
            (f"`{row.id}`", row.text, _links(shown.get(row.id, ())), _open(row, shown)) for row in table
        ]
        body = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        parts.append(f"\n## {title}\n\n{body}")
    return "".join(parts)


def _links(tests: Sequence[str]) -> str:
    links = []
    for test in tests:
        path, _, function = test.partition("::")
        links.append(f"[{function or pathlib.PurePosixPath(path).name}](../{path})")
    return "<br>".join(links)


def _open(row: guide_rows.Row, shown: _Shown) -> str:
    if row.later:
        return row.later
    return "" if row.id in shown else "**open**"


def _marked(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Pairs of a row and the test that shows it; the test is empty for a whole file."""
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="pytestmark")]):
                yield from ((row, "") for row in _rows(statement.value))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _of_decorators(statement, statement.name)
            case ast.ClassDef():
                yield from _of_decorators(statement, statement.name)
                for method in statement.body:
                    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                        yield from _of_decorators(method, f"{statement.name}::{method.name}")


def _of_decorators(
    statement: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str
) -> Iterator[tuple[str, str]]:
    for decorator in statement.decorator_list:
        yield from ((row, name) for row in _rows(decorator))


def _rows(expression: ast.expr) -> Iterator[str]:
    """What is given to `pytest.mark.guide(…)` anywhere in an expression: in parameters of a test, too."""
    for node in ast.walk(expression):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr="guide")):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield argument.value


if __name__ == "__main__":
    sys.exit(main())
