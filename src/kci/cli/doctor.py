"""`kci doctor`: what is wrong, and what to type."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import table, text

from kci.cli import output
from kci.kit import environment, errors
from kci.stack import settings

if TYPE_CHECKING:
    from kci.doctor import subject as subjects
    from kci.doctor.findings import finding


def add_commands(app: typer.Typer) -> None:
    app.command(
        "doctor",
        help="Say what is wrong and what to type, of a stack here or (--kubeconfig) of a cluster and its "
        "node. The exit code is 1 if something must be done.",
    )(doctor)


def doctor(
    flags: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FLAG",
            help="With --kubeconfig, after --: what virtual-kubelet is started with.",
            show_default=False,
        ),
    ] = None,
    *,
    kubeconfig: Annotated[
        pathlib.Path | None,
        typer.Option("--kubeconfig", help="Examine this cluster and its virtual node instead of a stack."),
    ] = None,
    env_file: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--env-file",
            help="With --kubeconfig: the virtual node's variables, NAME=VALUE on a line each; they count "
            "before those of the environment.",
        ),
    ] = None,
    service_account: Annotated[
        str,
        typer.Option(
            "--service-account",
            metavar="NAMESPACE/NAME",
            help="With --kubeconfig: the ServiceAccount of the virtual node's pod, NAMESPACE/NAME.",
        ),
    ] = "kube-system/virtual-kubelet-sa",
    state_dir: Annotated[
        pathlib.Path, typer.Option("--state-dir", readable=False, help="The stack's state folder.")
    ] = settings.DEFAULT_STATE_DIR,
    form: output.FormOption = output.Form.TABLE,
) -> None:
    from kci.doctor import areas  # it and what it asks take long to import
    from kci.doctor.findings import finding

    subject = _find(state_dir, kubeconfig, env_file, flags or [], service_account)
    answers = asyncio.run(areas.examine(subject))
    if form is output.Form.TABLE:
        _show(answers)
    else:
        output.show(to_values(answers), form)
    raise typer.Exit(finding.exit_code(answers))


def to_values(answers: Sequence[finding.Answer]) -> dict[str, Any]:
    """The answer in JSON and YAML."""
    from kci.doctor.findings import finding

    findings = [
        {
            "area": answer.area,
            "name": answer.name,
            "level": one.level.value,
            "text": one.text,
            "remedy": one.remedy,
        }
        for answer in answers
        for one in answer.findings
    ]
    return {"ok": finding.exit_code(answers) == 0, "findings": findings}


def render(answers: Sequence[finding.Answer]) -> list[table.Table | text.Text]:
    """A line for each finding, and under it what to do."""
    made: list[table.Table | text.Text] = []
    for area, group in itertools.groupby(answers, key=lambda one: one.area):
        rows = table.Table(box=None, pad_edge=False, show_header=False)
        rows.add_column(no_wrap=True, min_width=_LEVEL_WIDTH)
        rows.add_column(no_wrap=True, min_width=_NAME_WIDTH)
        rows.add_column(overflow="fold")
        for answer in group:
            for one in answer.findings:
                style = _style(one)
                rows.add_row(text.Text(one.level.value, style), answer.name, text.Text(one.text, style))
                if one.remedy:
                    rows.add_row("", "", text.Text(f"do: {one.remedy}", "bold"))
        made += [text.Text(area, "bold"), rows]
    made.append(text.Text(summary(answers)))
    return made


def summary(answers: Sequence[finding.Answer]) -> str:
    levels = [one.level for answer in answers for one in answer.findings]
    counts = [f"{levels.count(level)} {level}" for level in dict.fromkeys(sorted(levels, key=_ORDER.index))]
    return f"{len(levels)} looked into: {', '.join(counts)}"


# The longest there are, so that all areas stand alike.
_LEVEL_WIDTH, _NAME_WIDTH = 13, 23
_ORDER = ["ok", "warning", "wrong", "not looked at"]


def _style(one: finding.Finding) -> str:
    return {"ok": "green", "warning": "yellow", "wrong": "red"}.get(one.level.value, "dim")


def _show(answers: Sequence[finding.Answer]) -> None:
    import rich.console

    console = rich.console.Console(highlight=False, markup=False)
    # Where nobody looks at it, nothing is cut to a width.
    if not console.is_terminal:
        console.width = 10_000
    for one in render(answers):
        console.print(one)


def _find(
    state_dir: pathlib.Path,
    kubeconfig: pathlib.Path | None,
    env_file: pathlib.Path | None,
    flags: list[str],
    service_account: str,
) -> subjects.Subject:
    from kci.doctor import subject as subjects

    variables = dict(environment.read())
    if kubeconfig is None:
        if env_file is not None or flags:
            raise errors.UserError(
                "cannot examine a node without its cluster: give --kubeconfig as well, or leave --env-file "
                "and the node's flags out to examine the stack of --state-dir"
            )
        return subjects.of_stack(state_dir)
    if env_file is not None:
        variables |= subjects.read_env_file(env_file)
    return subjects.of_cluster(kubeconfig, variables, flags, subjects.read_service_account(service_account))
