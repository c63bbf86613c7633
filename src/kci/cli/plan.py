"""`kci plan`: what would become of a manifest's pods on a virtual node, by the node's own code."""

from __future__ import annotations

import asyncio
import ipaddress
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from kci.cli import access, output
from kci.kit import environment, errors

if TYPE_CHECKING:
    from kci.client import client
    from kci.contract import packages
    from kci.provider.plan import preview

T = TypeVar("T")
ALL_GRANTED, SOME_REFUSED, UNREADABLE = 0, 1, 2
_HELP = (
    "Show what would become of a manifest's pods: size, place, DNS, and what is changed or refused and why. "
    "It needs no cluster and no service. The options say what the node runs with, by its own flags' and "
    "variables' names, VKUBELET_TAINT_* among them. The exit code is 0 if every pod is granted, 1 if one is "
    "refused, 2 if the manifest cannot be read."
)
# A plan waits no longer for a service that may not be there.
_ANSWERS_WITHIN_S = 1.0


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
    service_cidr: Annotated[
        str | None,
        typer.Option(help="The cluster's service range: tells DNS servers that take kube-proxy."),
    ] = None,
    disable_taint: Annotated[
        bool, typer.Option("--disable-taint", help="The node has no taint to tolerate.")
    ] = False,
    strict_sizes: Annotated[
        bool, typer.Option("--strict-sizes", help="The node rounds no sizes that annotations name.")
    ] = False,
    sum_containers_only: Annotated[
        bool, typer.Option("--sum-containers-only", help="The node leaves init containers out of the sum.")
    ] = False,
    packages_file: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--packages",
            help="Sizes that there are, as DescribeKciPackages answers in JSON. Default: as the KCI service "
            "says, if one is known and answers, else those of the documentation.",
        ),
    ] = None,
    provider_config: Annotated[
        str | None, typer.Option(help="The node's file with taints and instanceSettings.")
    ] = None,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.cli import manifests
    from kci.provider.plan import preview

    try:
        subjects = [
            one
            for name in files
            for one in manifests.read(_text(name), "standard input" if name == "-" else name)
        ]
        node = _node(
            subnet_id=subnet_id,
            security_group_ids=security_group_ids,
            cluster_dns=cluster_dns,
            virtual_node_dns=virtual_node_dns,
            cluster_domain=cluster_domain,
            kube_proxy=kube_proxy,
            disable_taint=disable_taint,
            services=service_cidr,
            strict_sizes=strict_sizes,
            sum_containers_only=sum_containers_only,
            provider_config=provider_config,
            table=_table(packages_file, state_dir),
        )
        found = [one if isinstance(one, preview.Preview) else preview.preview(one, node) for one in subjects]
    except errors.UserError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(UNREADABLE) from error
    if output_form is output.Form.TABLE:
        from kci.cli import plan_text

        plan_text.show(found)
    else:
        output.show([msgspec.to_builtins(one) for one in found], output_form)
    raise typer.Exit(SOME_REFUSED if any(one.refused for one in found) else ALL_GRANTED)


def _node(
    *,
    subnet_id: str | None,
    security_group_ids: str | None,
    cluster_dns: list[str] | None,
    virtual_node_dns: list[str] | None,
    cluster_domain: str,
    kube_proxy: bool,
    disable_taint: bool,
    services: str | None,
    strict_sizes: bool,
    sum_containers_only: bool,
    provider_config: str | None,
    table: packages.Table,
) -> preview.Node:
    """What is told of the node, read as the node reads it."""
    from kci.provider import node_config, pod_settings
    from kci.provider.plan import preview

    problems: list[str] = []
    config = node_config.read(provider_config, problems) if provider_config else node_config.NodeConfig()
    node = preview.Node(
        taints=pod_settings.taints(environment.read(), config.taints, problems, is_disabled=disable_taint),
        subnet_id=subnet_id,
        security_group_ids=_if_told(
            security_group_ids, lambda text: pod_settings.security_groups(text, problems)
        ),
        cluster_dns=_if_told(
            cluster_dns, lambda texts: pod_settings.dns_servers("--cluster-dns", ",".join(texts), problems)
        ),
        node_dns=_if_told(
            virtual_node_dns,
            lambda texts: pod_settings.dns_servers("--virtual-node-dns", ",".join(texts), problems),
        ),
        cluster_domain=pod_settings.cluster_domain(cluster_domain, problems),
        kube_proxy=kube_proxy,
        services=None if services is None else _network(services),
        strict_sizes=strict_sizes,
        sum_containers_only=sum_containers_only,
        instance_settings=config.instance_settings,
        table=table,
    )
    if problems:
        raise errors.UserError("\n".join(("cannot plan for a node that would not start:", *problems)))
    return node


def _if_told(value: T | None, read: Callable[[T], tuple[str, ...]]) -> tuple[str, ...] | None:
    return None if value is None else read(value)


def _table(file: pathlib.Path | None, state_dir: pathlib.Path | None) -> packages.Table:
    from kci.contract import packages

    if file is not None:
        return packages.read_table(_read(file), str(file))
    try:
        table = access.ask(state_dir, _offered)
    except errors.UserError as error:
        if state_dir is not None:
            typer.secho(f"taking the documentation's sizes: {error}", err=True)
        return packages.STANDARD
    return table


async def _offered(service: client.KciClient) -> packages.Table:
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            return await service.describe_kci_packages()
    except TimeoutError as error:
        raise errors.UserError(
            f"the service does not answer within {_ANSWERS_WITHIN_S:g} s; look at `kci status`"
        ) from error


def _network(text: str) -> preview.Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise errors.UserError(f"cannot use --service-cidr {text!r}: {error}") from error


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
