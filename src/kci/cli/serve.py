"""`kci serve`: the KCI service as a program of its own."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    # The service reads its own flags: what they mean is written down there, once.
    app.command(
        "serve",
        help="Run the KCI service; `kci serve --help` names its flags.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )(serve)


def serve(context: typer.Context) -> None:
    import kci.service.main as service  # it and its database take long to import

    raise typer.Exit(service.main(context.args))
