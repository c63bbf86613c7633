"""The forms in which a command answers: for people, or for programs."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer


class Form(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


FormOption = Annotated[Form, typer.Option("--output", "-o", help="Form of the answer.")]


def show(value: Any, form: Form) -> None:
    """Plain values in JSON or YAML."""
    if form is Form.YAML:
        import yaml  # only who asks for it waits for it

        typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def show_one(value: Any, form: Form) -> None:
    """One of an endless row of values: a line of JSON, or a document of YAML."""
    if form is Form.YAML:
        typer.echo("---")
        show(value, form)
    else:
        typer.echo(json.dumps(value, ensure_ascii=False))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """For people."""
    import rich.console

    from kci.cli import group_rows

    # As with kubectl, a row that is wider than the terminal goes on below: half an id or a name is no use.
    console = rich.console.Console(highlight=False, markup=False, width=10_000)
    console.print(group_rows.render(headings, rows))
