"""VPCs, subnets and security groups in a terminal: lists, and what makes and ends them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kci.cli import access, output
from kci.kit import errors

if TYPE_CHECKING:
    from kci.client import client
    from kci.contract import networks, security_groups

T = TypeVar("T")

_OLDER = "the KCI service at hand has no such actions: `kci serve` of this version has them"

NameOption = Annotated[str, typer.Option("--name", help="What people call it.")]
VpcOption = Annotated[
    str, typer.Option("--vpc", metavar="ID", help="The VPC; may be left out where there is only one.")
]
SubnetArgument = Annotated[str, typer.Argument(metavar="ID", help="The subnet: `kci subnets` lists them.")]
VpcArgument = Annotated[str, typer.Argument(metavar="ID", help="The VPC: `kci vpcs` lists them.")]
SecurityGroupArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The security group: `kci security-groups` lists them.")
]
CidrOption = Annotated[str, typer.Option("--cidr", metavar="CIDR", help="Its range, such as 10.20.0.0/16.")]


def add_commands(app: typer.Typer) -> None:
    app.command("vpcs", help="List the VPCs.")(list_vpcs)
    app.command("subnets", help="List the subnets.")(list_subnets)
    app.command("security-groups", help="List the security groups.")(list_security_groups)
    vpc = typer.Typer(no_args_is_help=True, help="Make and end VPCs.")
    vpc.command("create", help="Make a VPC, with a default security group.")(create_vpc)
    vpc.command("delete", help="Delete a VPC that has no subnets.")(delete_vpc)
    app.add_typer(vpc, name="vpc")
    subnet = typer.Typer(no_args_is_help=True, help="Make and end subnets.")
    subnet.command("create", help="Make a subnet in a VPC.")(create_subnet)
    subnet.command("delete", help="Delete a subnet that no group is in.")(delete_subnet)
    app.add_typer(subnet, name="subnet")


def list_vpcs(
    *, form: output.FormOption = output.Form.TABLE, state_dir: access.StateDirOption = None
) -> None:
    found = ask(state_dir, lambda service: service.vpc.list_vpcs())
    shown = [
        {"id": one.vpc_id, "name": one.vpc_name, "cidr": one.cidr_block, "default": one.is_default}
        for one in found
    ]
    show(("VPC", "NAME", "RANGE", "DEFAULT"), shown, form)


def list_subnets(
    *, form: output.FormOption = output.Form.TABLE, state_dir: access.StateDirOption = None
) -> None:
    from kci.cli import group_rows
    from kci.client import networks as calls

    async def work(
        service: client.KciClient,
    ) -> tuple[list[networks.Subnet] | None, dict[str, int]]:
        counts, _ = group_rows.places(await service.list_container_groups())
        return await calls.known(service.vpc.list_subnets()), counts

    found, counts = access.ask(state_dir, work)
    if found is None:
        _show_counts("SUBNET", counts, form)
        return
    shown = [_subnet(one, groups=counts.get(one.subnet_id, 0)) for one in found]
    show(("SUBNET", "NAME", "RANGE", "GATEWAY", "VPC", "FREE", "MTU", "GROUPS"), shown, form)


def list_security_groups(
    *, form: output.FormOption = output.Form.TABLE, state_dir: access.StateDirOption = None
) -> None:
    from kci.cli import group_rows
    from kci.client import networks as calls

    async def work(
        service: client.KciClient,
    ) -> tuple[list[security_groups.SecurityGroup] | None, dict[str, int]]:
        _, counts = group_rows.places(await service.list_container_groups())
        return await calls.known(service.vpc.list_security_groups()), counts

    found, counts = access.ask(state_dir, work)
    if found is None:
        _show_counts("SECURITY GROUP", counts, form)
        return
    shown = [
        {
            "id": one.security_group_id,
            "name": one.security_group_name,
            "vpc": one.vpc_id,
            "rules": len(one.security_group_entry_set),
            "groups": counts.get(one.security_group_id, 0),
        }
        for one in found
    ]
    show(("SECURITY GROUP", "NAME", "VPC", "RULES", "GROUPS"), shown, form)


def create_vpc(
    *,
    cidr: CidrOption,
    name: NameOption = "",
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.contract import networks

    request = networks.CreateVpc(vpc_name=name, cidr_block=cidr)
    made = ask(state_dir, lambda service: service.vpc.create_vpc(request))
    made_id(made.vpc_id, {"id": made.vpc_id, "name": made.vpc_name, "cidr": made.cidr_block}, form)


def delete_vpc(vpc_id: VpcArgument, *, state_dir: access.StateDirOption = None) -> None:
    ask(state_dir, lambda service: service.vpc.delete_vpc(vpc_id))


def create_subnet(
    *,
    cidr: CidrOption,
    vpc: VpcOption = "",
    name: NameOption = "",
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="IP", help="Default: the range's first address.")
    ] = "",
    first: Annotated[
        str, typer.Option("--first", metavar="IP", help="The first address for groups. Default: all of them.")
    ] = "",
    last: Annotated[str, typer.Option("--last", metavar="IP", help="The last address for groups.")] = "",
    dns: Annotated[
        list[str] | None,
        typer.Option(
            "--dns", metavar="IP", help="A name server for groups that are told no other; at most two."
        ),
    ] = None,
    mtu: Annotated[int, typer.Option("--mtu", help="The largest packet. Default: the service's.", min=0)] = 0,
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.contract import networks

    servers = list(dns or ())
    if len(servers) > 2:
        raise errors.UserError(f"cannot use {len(servers)} name servers: give --dns at most twice")
    dns1, dns2 = (*servers, "", "")[:2]

    async def work(service: client.KciClient) -> networks.Subnet:
        request = networks.CreateSubnet(
            vpc_id=await find_vpc(service, vpc),
            subnet_name=name,
            cidr_block=cidr,
            gateway_ip=gateway,
            dhcp_ip_from=first,
            dhcp_ip_to=last,
            dns1=dns1,
            dns2=dns2,
            mtu=mtu,
        )
        return await service.vpc.create_subnet(request)

    made = ask(state_dir, work)
    made_id(made.subnet_id, _subnet(made, groups=0), form)


def delete_subnet(subnet_id: SubnetArgument, *, state_dir: access.StateDirOption = None) -> None:
    ask(state_dir, lambda service: service.vpc.delete_subnet(subnet_id))


def ask(state_dir: access.StateDirOption, question: Callable[[client.KciClient], Awaitable[T]]) -> T:
    """As access.ask; for a service without these actions the error says so."""

    async def work(service: client.KciClient) -> T:
        from kci.client import errors as client_errors
        from kci.client import networks as calls

        try:
            return await question(service)
        except client_errors.KciError as error:
            if calls.is_unknown(error):
                raise errors.UserError(f"cannot ask for networks: {_OLDER}") from error
            raise

    return access.ask(state_dir, work)


async def find_vpc(service: client.KciClient, asked: str) -> str:
    """The one that is asked for, else the only one."""
    if asked:
        return asked
    found = await service.vpc.list_vpcs()
    if len(found) == 1:
        return found[0].vpc_id
    several = ", ".join(f"{one.vpc_id} ({one.cidr_block})" for one in found)
    remedy = f"give --vpc, one of {several}" if found else "make one with `kci vpc create`"
    raise errors.UserError(f"cannot tell which VPC is meant: {remedy}")


def show(headings: Sequence[str], rows: Sequence[dict[str, Any]], form: output.Form) -> None:
    """Rows whose values are in the order of the headings."""
    if form is not output.Form.TABLE:
        output.show(list(rows), form)
        return
    output.table(headings, [[_cell(value) for value in row.values()] for row in rows])


def made_id(identifier: str, value: dict[str, Any], form: output.Form) -> None:
    """What a command made: its id alone for people and shells, else all of it."""
    if form is output.Form.TABLE:
        typer.echo(identifier)
    else:
        output.show(value, form)


def _subnet(one: networks.Subnet, *, groups: int) -> dict[str, Any]:
    return {
        "id": one.subnet_id,
        "name": one.subnet_name,
        "cidr": one.cidr_block,
        "gateway": one.gateway_ip,
        "vpc": one.vpc_id,
        "free": int(one.available_ip_number or 0),
        # None: as the machine's own links.
        "mtu": one.mtu or None,
        "groups": groups,
    }


def _show_counts(heading: str, counts: dict[str, int], form: output.Form) -> None:
    """All that is known where the service has no such actions: what its groups are in."""
    show((heading, "GROUPS"), [{"id": name, "groups": counts[name]} for name in sorted(counts)], form)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return {True: "yes", False: ""}[value] if isinstance(value, bool) else str(value)
