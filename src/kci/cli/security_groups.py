"""`kci security-group`: what a security group lets through, and changes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kci.cli import access, networks, output
from kci.kit import errors

if TYPE_CHECKING:
    from kci.client import client
    from kci.contract import security_groups as api

# Where somebody writes a rule without saying how it stands to others.
_PRIORITY = 50

DirectionArgument = Annotated[
    str, typer.Argument(metavar="in|out", help="What comes to an instance, or what leaves it.")
]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", "-p", help="tcp, udp, icmp, or ip for all of them.")
]
PortsOption = Annotated[
    str, typer.Option("--port", metavar="PORT[-PORT]", help="Of TCP and UDP. Default: all of them.")
]
PeerOption = Annotated[
    str,
    typer.Option(
        "--peer",
        metavar="CIDR|ID",
        help="The other side: addresses, or a security group for its instances. Default: everybody.",
    ),
]
PriorityOption = Annotated[
    int,
    typer.Option(
        "--priority", min=1, max=100, help="The lowest number is looked at first; of two equal ones, deny."
    ),
]
DescriptionOption = Annotated[str, typer.Option("--description", help="Why it is there.")]


def add_commands(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Make, change and end security groups.")
    commands.command("create", help="Make a security group, which lets nothing through yet.")(create)
    commands.command("delete", help="Delete a security group that no container group is in.")(delete)
    commands.command("show", help="Show what a security group lets through.")(show)
    commands.command("allow", help="Let something through.")(allow)
    commands.command("deny", help="Let something not through that a later rule would.")(deny)
    commands.command("revoke", help="Take a rule away.")(revoke)
    app.add_typer(commands, name="security-group")


def create(
    *,
    name: networks.NameOption = "",
    description: DescriptionOption = "",
    vpc: networks.VpcOption = "",
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.contract import security_groups as api

    async def work(service: client.KciClient) -> api.SecurityGroup:
        request = api.CreateSecurityGroup(
            vpc_id=await networks.find_vpc(service, vpc), security_group_name=name, description=description
        )
        return await service.vpc.create_security_group(request)

    made = networks.ask(state_dir, work)
    networks.made_id(made.security_group_id, _group(made), form)


def delete(
    security_group_id: networks.SecurityGroupArgument, *, state_dir: access.StateDirOption = None
) -> None:
    networks.ask(state_dir, lambda service: service.vpc.delete_security_group(security_group_id))


def show(
    security_group_id: networks.SecurityGroupArgument,
    *,
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    found = networks.ask(state_dir, lambda service: service.vpc.list_security_groups((security_group_id,)))
    if not found:
        raise errors.UserError(
            f"cannot find a security group {security_group_id!r}: `kci security-groups` lists what there is"
        )
    shown = _group(found[0])
    if form is not output.Form.TABLE:
        output.show(shown, form)
        return
    for key in ("id", "name", "description", "vpc"):
        typer.echo(f"{key:<16}{shown[key]}")
    typer.echo()
    headings = ("RULE", "PRIORITY", "DIRECTION", "DOES", "PROTOCOL", "PORTS", "PEER", "DESCRIPTION")
    networks.show(headings, sorted(shown["rules"], key=lambda rule: rule["priority"]), form)


def allow(
    security_group_id: networks.SecurityGroupArgument,
    direction: DirectionArgument,
    *,
    protocol: ProtocolOption = "ip",
    port: PortsOption = "",
    peer: PeerOption = "0.0.0.0/0",
    priority: PriorityOption = _PRIORITY,
    description: DescriptionOption = "",
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.contract import security_groups as api

    request = _request(api.ACCEPT, security_group_id, direction, protocol, port, peer, priority, description)
    made = networks.ask(state_dir, lambda service: service.vpc.authorize_security_group_entry(request))
    typer.echo(made)


def deny(
    security_group_id: networks.SecurityGroupArgument,
    direction: DirectionArgument,
    *,
    protocol: ProtocolOption = "ip",
    port: PortsOption = "",
    peer: PeerOption = "0.0.0.0/0",
    priority: PriorityOption = _PRIORITY,
    description: DescriptionOption = "",
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.contract import security_groups as api

    request = _request(api.DROP, security_group_id, direction, protocol, port, peer, priority, description)
    made = networks.ask(state_dir, lambda service: service.vpc.authorize_security_group_entry(request))
    typer.echo(made)


def revoke(
    security_group_id: networks.SecurityGroupArgument,
    rule: Annotated[
        str, typer.Argument(metavar="RULE", help="The rule's id: `kci security-group show` lists them.")
    ],
    *,
    state_dir: access.StateDirOption = None,
) -> None:
    networks.ask(state_dir, lambda service: service.vpc.revoke_security_group_entry(security_group_id, rule))


def _request(
    policy: str,
    security_group_id: str,
    direction: str,
    protocol: str,
    port: str,
    peer: str,
    priority: int,
    description: str,
) -> api.AuthorizeSecurityGroupEntry:
    import msgspec

    from kci.contract import security_groups as api

    if direction not in {"in", "out"}:
        raise errors.UserError(f"cannot use the direction {direction!r}: write `in` or `out`")
    first, last = read_ports(port)
    is_range = "/" in peer or "." in peer
    return msgspec.convert(
        {
            "SecurityGroupId": security_group_id,
            "Description": description,
            "CidrBlock": peer if is_range else "",
            "AuthorizedSecurityGroupId": "" if is_range else peer,
            "Direction": direction,
            "Protocol": protocol,
            "PortRangeFrom": first,
            "PortRangeTo": last,
            "Priority": priority,
            "Policy": policy,
        },
        api.AuthorizeSecurityGroupEntry,
    )


def read_ports(text: str) -> tuple[int, int]:
    """`80` or `8000-8100`; zeros for none."""
    if not text:
        return 0, 0
    first, dash, last = text.partition("-")
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in (first, last or first)]
    if not 1 <= numbers[0] <= numbers[1] <= 65535 or (dash and not last):
        raise errors.UserError(f"cannot use the port {text!r}: write 80, or 8000-8100")
    return numbers[0], numbers[1]


def _group(one: api.SecurityGroup) -> dict[str, Any]:
    return {
        "id": one.security_group_id,
        "name": one.security_group_name,
        "description": one.description,
        "vpc": one.vpc_id,
        "rules": [_rule(entry) for entry in one.security_group_entry_set],
    }


def _rule(entry: api.SecurityGroupEntry) -> dict[str, Any]:
    from kci.contract import security_groups as api

    return {
        "id": entry.security_group_entry_id,
        "priority": entry.priority,
        "direction": entry.direction,
        "does": "allow" if entry.policy == api.ACCEPT else "deny",
        "protocol": entry.protocol,
        "ports": _ports(entry),
        "peer": entry.cidr_block or entry.authorized_security_group_id,
        "description": entry.description,
    }


def _ports(entry: api.SecurityGroupEntry) -> str:
    first, last = entry.port_range_from or 0, entry.port_range_to or 0
    if entry.icmp_type is not None and entry.icmp_type >= 0:
        code = entry.icmp_code
        return f"type {entry.icmp_type}" + (f" code {code}" if code is not None and code >= 0 else "")
    if not first or (first, last) == (1, 65535):
        return "all"
    return str(first) if first == last else f"{first}-{last}"
