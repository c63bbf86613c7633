"""The console in a terminal: groups, their events and logs, sizes, subnets and security groups."""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kci.cli import access, output
from kci.kit import errors

if TYPE_CHECKING:
    from kci.client import client
    from kci.contract import groups as api

_POD_NOTE = "What a container says of its pod's steps is in the pod's own events: `kubectl describe pod`."


def complete_ids(incomplete: str) -> list[str]:
    """For the shell: ids of the groups that there are; nothing where no service answers."""
    try:
        found = access.ask(None, lambda service: service.list_container_groups())
    except errors.UserError:
        return []
    return [group.container_group_id for group in found if group.container_group_id.startswith(incomplete)]


GroupArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        autocompletion=complete_ids,
        help="The group's id, or its pod: NAME or NAMESPACE/NAME.",
    ),
]
ContainerOption = Annotated[
    str, typer.Option("--container", "-c", help="The container, by the name that the pod gives it.")
]


def add_commands(app: typer.Typer) -> None:
    app.command("groups", help="List the container groups.")(list_groups)
    app.command("group", help="Show one container group.")(show_group)
    app.command("events", help="Show what the service tells of a group's past and present.")(show_events)
    app.command("logs", help="Print a container's log.")(print_log)
    app.command("packages", help="List the sizes that there are.")(list_packages)
    app.command("subnets", help="List the subnets in which there are groups.")(list_subnets)
    app.command("security-groups", help="List the security groups that groups have.")(list_security_groups)


def list_groups(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with each change.")] = False,
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            access.ask(state_dir, lambda service: _follow(service, form))
        return
    found = access.ask(state_dir, lambda service: service.list_container_groups())
    if form is not output.Form.TABLE:
        output.show([_builtins(group) for group in found], form)
        return
    from kci.cli import group_rows

    _table(group_rows.HEADINGS, [group_rows.row(group, _now()) for group in found])


async def _follow(service: client.KciClient, form: output.Form) -> None:
    """A line (or a document) for each group and for each change, until somebody ends it."""
    from kci.cli import group_rows

    if form is output.Form.TABLE:
        typer.echo(_aligned(group_rows.HEADINGS))
    async with contextlib.aclosing(service.watch_container_groups()) as changes:
        async for change in changes:
            if change.group is not None and form is output.Form.TABLE:
                typer.echo(_aligned(group_rows.row(change.group, _now())))
            elif change.group is not None:
                output.show_one(_builtins(change.group), form)
            elif change.absent and form is output.Form.TABLE:
                typer.echo(_aligned(group_rows.changed(change.group_id)))
            elif change.absent:
                output.show_one({"ContainerGroupId": change.group_id, "Absent": True}, form)


def show_group(
    group_id: GroupArgument,
    *,
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.cli import group_rows

    group = group_rows.find(access.ask(state_dir, lambda service: service.list_container_groups()), group_id)
    if form is not output.Form.TABLE:
        output.show(_builtins(group), form)
        return
    for name, value in group_rows.lines(group, _now()):
        typer.echo(f"{name:<16}{value}")


def show_events(
    group_id: GroupArgument,
    *,
    form: output.FormOption = output.Form.TABLE,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.cli import group_rows

    group = group_rows.find(access.ask(state_dir, lambda service: service.list_container_groups()), group_id)
    events = group_rows.events(group)
    if form is not output.Form.TABLE:
        output.show(
            [{"time": one.time, "reason": one.reason, "message": one.message} for one in events], form
        )
        return
    _table(("TIME", "REASON", "MESSAGE"), [(one.time, one.reason, one.message) for one in events])
    typer.echo(_POD_NOTE, err=True)


def print_log(
    group_id: GroupArgument,
    container: ContainerOption,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of the container's last run.")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Each line with its time.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Its last lines only.")] = None,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.cli import group_rows
    from kci.contract import groups as api

    wanted = api.StreamContainerLog(follow=follow, previous=previous, timestamps=timestamps, tail_lines=tail)

    async def work(service: client.KciClient) -> None:
        group = group_rows.find(await service.list_container_groups(), group_id)
        stream = service.stream_container_log(group.container_group_id, container, wanted)
        async with contextlib.aclosing(stream) as chunks:
            async for chunk in chunks:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()

    with contextlib.suppress(KeyboardInterrupt):
        access.ask(state_dir, work)


def list_packages(
    *, form: output.FormOption = output.Form.TABLE, state_dir: access.StateDirOption = None
) -> None:
    table = access.ask(state_dir, lambda service: service.describe_kci_packages())
    if form is output.Form.TABLE:
        _table(
            ("CPU", "MEMORY (GiB)"),
            [(f"{one.cpu:g}", ", ".join(f"{gib:g}" for gib in one.mem)) for one in table.packages],
        )
    else:
        output.show([{"cpu": one.cpu, "memory": list(one.mem)} for one in table.packages], form)


def list_subnets(
    *, form: output.FormOption = output.Form.TABLE, state_dir: access.StateDirOption = None
) -> None:
    _show_places(0, "SUBNET", form, state_dir)


def list_security_groups(
    *, form: output.FormOption = output.Form.TABLE, state_dir: access.StateDirOption = None
) -> None:
    _show_places(1, "SECURITY GROUP", form, state_dir)


def _show_places(which: int, heading: str, form: output.Form, state_dir: access.StateDirOption) -> None:
    from kci.cli import group_rows

    found = access.ask(state_dir, lambda service: service.list_container_groups())
    counts = group_rows.places(found)[which]
    if form is output.Form.TABLE:
        _table((heading, "GROUPS"), [(name, str(count)) for name, count in sorted(counts.items())])
    else:
        output.show([{"id": name, "groups": count} for name, count in sorted(counts.items())], form)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    import rich.console

    from kci.cli import group_rows

    console = rich.console.Console(highlight=False, markup=False)
    # Where nobody looks at it, nothing is cut to a width.
    if not console.is_terminal:
        console.width = 10_000
    console.print(group_rows.render(headings, rows))


def _aligned(cells: Sequence[str]) -> str:
    widths = (36, 40, 10, 24, 16, 0)
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _builtins(group: api.ContainerGroup) -> Any:
    import msgspec

    return msgspec.to_builtins(group)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
