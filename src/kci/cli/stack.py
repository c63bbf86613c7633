"""`kci up`, `down`, `status` and `kubeconfig`: the whole on one machine."""

from __future__ import annotations

import enum
import pathlib
from typing import Annotated, Any

import typer

from kci.stack import settings

StateDir = Annotated[
    pathlib.Path,
    # Whether it can be read is the stack's to say, with the remedy.
    typer.Option("--state-dir", readable=False, help="The stack's state folder."),
]


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


def add_commands(app: typer.Typer) -> None:
    app.command("up", help="Start everything on this machine and say how to use it.")(up)
    app.command("down", help="Stop everything that `up` started and leave nothing behind.")(down)
    app.command("status", help="Show what runs. The exit code is 0 if all of it is ready.")(status)
    app.command("kubeconfig", help="Print the path of the cluster's kubeconfig.")(kubeconfig)


def _option(name: str, **more: Any) -> Any:
    return typer.Option(f"--{name.replace('_', '-')}", help=settings.describe(name), **more)


DEFAULTS = settings.Settings()


def up(  # one parameter per setting
    *,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it is ready and leave it running.")
    ] = False,
    state_dir: Annotated[str, _option("state_dir")] = DEFAULTS.state_dir,
    netns: Annotated[str, _option("netns")] = DEFAULTS.netns,
    kubeconfig: Annotated[str, _option("kubeconfig")] = DEFAULTS.kubeconfig,
    cri_endpoint: Annotated[str, _option("cri_endpoint")] = DEFAULTS.cri_endpoint,
    node_name: Annotated[str, _option("node_name")] = DEFAULTS.node_name,
    cluster_domain: Annotated[str, _option("cluster_domain")] = DEFAULTS.cluster_domain,
    pod_cidr: Annotated[str, _option("pod_cidr")] = DEFAULTS.pod_cidr,
    service_cidr: Annotated[str, _option("service_cidr")] = DEFAULTS.service_cidr,
    api_port: Annotated[int, _option("api_port")] = DEFAULTS.api_port,
    kubelet_port: Annotated[int, _option("kubelet_port")] = DEFAULTS.kubelet_port,
    kci_port: Annotated[int, _option("kci_port")] = DEFAULTS.kci_port,
    runtime: Annotated[settings.Runtime, _option("runtime")] = DEFAULTS.runtime,
    images: Annotated[settings.Images, _option("images")] = DEFAULTS.images,
    dns: Annotated[settings.Dns, _option("dns")] = DEFAULTS.dns,
    metrics_server: Annotated[bool, _option("metrics_server")] = DEFAULTS.metrics_server,
    disable_taint: Annotated[bool, _option("disable_taint")] = DEFAULTS.disable_taint,
    kube_proxy: Annotated[bool, _option("kube_proxy")] = DEFAULTS.kube_proxy,
    node_image: Annotated[bool, _option("node_image")] = DEFAULTS.node_image,
    audit: Annotated[bool, _option("audit")] = DEFAULTS.audit,
    log_level: Annotated[str, _option("log_level")] = DEFAULTS.log_level,
) -> None:
    from kci.cli import screen
    from kci.stack import lifecycle

    asked = settings.Settings(
        state_dir=state_dir,
        netns=netns,
        kubeconfig=kubeconfig,
        cri_endpoint=cri_endpoint,
        node_name=node_name,
        cluster_domain=cluster_domain,
        pod_cidr=pod_cidr,
        service_cidr=service_cidr,
        api_port=api_port,
        kubelet_port=kubelet_port,
        kci_port=kci_port,
        runtime=runtime,
        images=images,
        dns=dns,
        metrics_server=metrics_server,
        disable_taint=disable_taint,
        kube_proxy=kube_proxy,
        node_image=node_image,
        audit=audit,
        log_level=log_level,
    )
    run = lifecycle.start(asked, foreground=not detach)
    raise typer.Exit(screen.show_up(run, stay=not detach))


def down(
    *,
    state_dir: StateDir = settings.DEFAULT_STATE_DIR,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the state folder as well.")] = False,
    keep_node: Annotated[
        bool, typer.Option("--keep-node", help="Leave the Node object in a cluster given by --kubeconfig.")
    ] = False,
) -> None:
    from kci.cli import screen
    from kci.stack import lifecycle

    run = lifecycle.stop(state_dir, keep_node=keep_node)
    code = screen.show_down(run)
    if code == 0 and purge:
        removed = lifecycle.purge(state_dir)
        typer.echo(f"Removed {state_dir}." if removed else f"There is no state in {state_dir}.")
    raise typer.Exit(code)


def status(
    *,
    state_dir: StateDir = settings.DEFAULT_STATE_DIR,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the answer.")] = Output.TABLE,
) -> None:
    from kci.cli import screen
    from kci.stack import lifecycle

    raise typer.Exit(screen.show_status(lifecycle.read(state_dir), as_json=output is Output.JSON))


def kubeconfig(*, state_dir: StateDir = settings.DEFAULT_STATE_DIR) -> None:
    from kci.stack import errors, lifecycle

    state = lifecycle.read(state_dir)
    if state is None or not state.kubeconfig:
        raise errors.StackError(
            f"cannot name a kubeconfig: no stack was started in {state_dir}; run `kci up`"
        )
    typer.echo(state.kubeconfig)
