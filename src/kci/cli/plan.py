"""`kci plan`: what would become of a manifest's pods on a virtual node, by the node's own code."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated

import msgspec
import typer

from kci.cli import output
from kci.kit import errors

ALL_GRANTED, SOME_REFUSED, UNREADABLE = 0, 1, 2
_HELP = (
    "Show what would become of a manifest's pods: size, place, DNS, and what is changed or refused and why. "
    "It needs no cluster and no service. The options say what the node runs with, by its own flags' and "
    "variables' names. The exit code is 0 if every pod is granted, 1 if one is refused, 2 if the manifest "
    "cannot be read."
)
_TAINT = ("virtual-kubelet.io/provider", "kingsoftcloud", "NoSchedule")


def add_commands(app: typer.Typer) -> None:
    app.command("plan", help=_HELP)(plan)


def plan(
    *,
    files: Annotated[
        list[str], typer.Option("--file", "-f", help="A manifest; - is standard input. May be repeated.")
    ],
    output_form: output.FormOption = output.Form.TABLE,
    subnet_id: Annotated[
        str | None,
        typer.Option(envvar="KCI_SUBNET_ID", help="The node's subnet; '' says that it has none."),
    ] = None,
    security_group_ids: Annotated[
        str | None,
        typer.Option(
            envvar="KCI_SECURITY_GROUP_IDS",
            help="The node's security groups, comma separated; '' says that it has none.",
        ),
    ] = None,
    cluster_dns: Annotated[list[str] | None, typer.Option(help="As the node's; may be repeated.")] = None,
    virtual_node_dns: Annotated[list[str] | None, typer.Option(help="As the node's.")] = None,
    cluster_domain: Annotated[str, typer.Option(help="As the node's.")] = "cluster.local",
    kube_proxy: Annotated[bool, typer.Option(envvar="KCI_KUBE_PROXY", help="As the node's.")] = False,
    disable_taint: Annotated[
        bool, typer.Option("--disable-taint", help="The node has no taint to tolerate.")
    ] = False,
    strict_sizes: Annotated[
        bool, typer.Option("--strict-sizes", help="The node rounds no sizes that annotations name.")
    ] = False,
    packages_file: Annotated[
        pathlib.Path | None,
        typer.Option("--packages", help="Sizes that there are, as DescribeKciPackages answers in JSON."),
    ] = None,
) -> None:
    from kci.cli import manifests
    from kci.contract import packages
    from kci.kube import models
    from kci.provider.plan import preview

    key, value, effect = _TAINT
    try:
        node = preview.Node(
            taints=() if disable_taint else (models.Taint(key=key, value=value, effect=effect),),
            subnet_id=subnet_id,
            security_group_ids=None if security_group_ids is None else _split(security_group_ids),
            cluster_dns=None if cluster_dns is None else _split(",".join(cluster_dns)),
            node_dns=None if virtual_node_dns is None else _split(",".join(virtual_node_dns)),
            cluster_domain=cluster_domain,
            kube_proxy=kube_proxy,
            strict_sizes=strict_sizes,
            table=(
                packages.read_table(_read(packages_file), str(packages_file))
                if packages_file
                else packages.STANDARD
            ),
        )
        found = [
            one if isinstance(one, preview.Preview) else preview.preview(one, node)
            for name in files
            for one in manifests.read(_text(name), "standard input" if name == "-" else name)
        ]
    except errors.UserError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(UNREADABLE) from error
    if output_form is output.Form.TABLE:
        from kci.cli import plan_text

        plan_text.show(found)
    else:
        output.show([msgspec.to_builtins(one) for one in found], output_form)
    raise typer.Exit(SOME_REFUSED if any(one.refused for one in found) else ALL_GRANTED)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _text(name: str) -> str:
    content = sys.stdin.buffer.read() if name == "-" else _read(pathlib.Path(name))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise errors.UserError(f"cannot read {name}: it is no UTF-8 text") from error


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
