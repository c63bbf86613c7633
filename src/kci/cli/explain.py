"""`kci explain`: where a pod's start time went, and why it does not run."""

from __future__ import annotations

import os
import pathlib
from typing import Annotated

import typer

from kci.cli import access, output
from kci.kit import errors
from kci.stack import settings

_HELP = (
    "Say where the start time of a pod went, and if it does not run, why not and what to do. It asks the "
    "cluster and, if one is known, the KCI service."
)


def add_commands(app: typer.Typer) -> None:
    app.command("explain", help=_HELP)(explain)


def explain(
    context: typer.Context,
    pod: Annotated[str, typer.Argument(metavar="POD", help="The pod's name, or NAMESPACE/NAME.")],
    *,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The pod's namespace.")] = "default",
    kubeconfig: Annotated[
        str,
        typer.Option(
            envvar="KUBECONFIG",
            help="How the cluster is reached. Default: as the stack in --state-dir, else ~/.kube/config.",
        ),
    ] = "",
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    # What speaks HTTP takes long to import.
    from kci.cli.explanation import gather, reasons, start, text

    source = context.get_parameter_source("kubeconfig")
    if source is not None and source.name == "COMMANDLINE" and state_dir is not None:
        raise errors.UserError("cannot ask two clusters: give --kubeconfig or --state-dir, not both")
    before, slash, name = pod.rpartition("/")
    known = gather.facts_of(
        before if slash else namespace,
        name,
        kubeconfig=_kubeconfig(kubeconfig, state_dir),
        state_dir=state_dir,
    )
    findings, begun = reasons.explain(known), start.explain(known)
    if form is output.Form.TABLE:
        for line in text.lines(known, findings, begun):
            typer.echo(line)
    else:
        output.show(text.to_builtins(known, findings, begun), form)


def _kubeconfig(given: str, state_dir: pathlib.Path | None) -> pathlib.Path:
    """A stack that is named goes before the variable, which may be of another cluster."""
    from kci.stack import errors as stack_errors
    from kci.stack import lifecycle

    if state_dir is None and given:
        return pathlib.Path(given.partition(os.pathsep)[0])
    users = pathlib.Path.home() / ".kube" / "config"
    others = users if state_dir is None and users.exists() else None
    try:
        state = lifecycle.read(state_dir or settings.DEFAULT_STATE_DIR)
    except stack_errors.StackError:
        # Somebody else's stack, which nobody named.
        if others is None:
            raise
        return others
    if state is not None and state.kubeconfig and (others is None or state.state not in lifecycle.ENDED):
        access.enter_network(state_dir or settings.DEFAULT_STATE_DIR)
        return pathlib.Path(state.kubeconfig)
    if others is not None:
        return others
    raise errors.UserError(
        f"cannot find the cluster: no stack was started in {state_dir or settings.DEFAULT_STATE_DIR}; give "
        "--kubeconfig or KUBECONFIG, or run `kci up`"
    )
