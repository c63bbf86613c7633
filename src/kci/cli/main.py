"""`kci`: the user's command. Subcommands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

import kci
from kci.cli import (
    credentials,
    doctor,
    execute,
    explain,
    groups,
    networks,
    plan,
    security_groups,
    serve,
    stack,
)
from kci.kit import errors, logs

_NO_OUTPUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
app = typer.Typer(
    name="kci",
    help="Kingsoft Cloud Container Instance on your own machine: a virtual node and the service behind it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
stack.add_commands(app)
serve.add_commands(app)
credentials.add_commands(app)
groups.add_commands(app)
execute.add_commands(app)
networks.add_commands(app)
security_groups.add_commands(app)
plan.add_commands(app)
doctor.add_commands(app)
explain.add_commands(app)


@app.callback(invoke_without_command=True)
def _top(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    if version:
        typer.echo(f"kci {kci.__version__}")
        raise typer.Exit


def main() -> None:
    # Standard output is for answers alone.
    logs.configure("error")
    try:
        app()
    except errors.UserError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NO_OUTPUT:
            raise
        # What is still to be written would fail again when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        typer.secho(f"cannot write the output: {error.strerror}", fg=typer.colors.RED, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
