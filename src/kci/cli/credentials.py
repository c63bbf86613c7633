"""`kci credentials issue`: temporary keys of the stack's service, as the ConfigMap that a node follows."""

from __future__ import annotations

import datetime
import json
import pathlib
from typing import Annotated, Any

import typer

from kci.cli import access
from kci.contract import credentials as api
from kci.stack import settings

_NAMESPACE = "kube-system"


def add_commands(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Temporary keys of the service on this machine.")
    commands.command("issue", help="Print a ConfigMap with new keys, for `kubectl apply -f -`. Secret.")(
        issue
    )
    app.add_typer(commands, name="credentials")


def issue(
    *,
    duration_s: Annotated[
        int,
        typer.Option(
            "--duration-s",
            min=api.MIN_DURATION_S,
            max=api.MAX_DURATION_S,
            help="How long they are good, in seconds; an hour unless told otherwise, as Kingsoft Cloud's.",
        ),
    ] = api.DEFAULT_DURATION_S,
    name: Annotated[
        str, typer.Option("--name", help="The ConfigMap, as TEMP_AKSK_CM has it.")
    ] = "user-temp-aksk",
    node_name: Annotated[
        str, typer.Option("--node-name", help="The node that may read it.")
    ] = settings.Settings().node_name,
    state_dir: Annotated[
        pathlib.Path, typer.Option("--state-dir", readable=False, help="The stack's state folder.")
    ] = settings.DEFAULT_STATE_DIR,
) -> None:
    issued = access.ask(state_dir, lambda service: service.issue_credentials(duration_s))
    typer.echo(json.dumps(to_manifest(issued, name=name, node_name=node_name), indent=2))


def to_manifest(issued: api.IssuedCredentials, *, name: str, node_name: str) -> dict[str, Any]:
    """The ConfigMap, and the right of the node's user to follow it: the Node authorizer gives none."""
    end = datetime.datetime.fromisoformat(issued.expiration).astimezone(datetime.UTC)
    group = "rbac.authorization.k8s.io"
    meta = {"name": name, "namespace": _NAMESPACE}
    reader = {"name": f"{name}-reader", "namespace": _NAMESPACE}
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [name],
        "verbs": ["get", "list", "watch"],
    }
    data = {
        "ak": issued.access_key_id,
        "sk": issued.secret_access_key,
        "securityToken": issued.security_token,
        "expired_at": end.strftime("%Y-%m-%dT%H:%M:%S"),
        "cipher": "none",
    }
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data},
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": reader, "rules": [rule]},
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": reader,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": reader["name"]},
                "subjects": [{"apiGroup": group, "kind": "User", "name": f"system:node:{node_name}"}],
            },
        ],
    }
