"""Container groups as a person reads them: rows and lines from the service's answers. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence

from rich import table

from kci.contract import groups, ids
from kci.kit import errors

# What KCI answers is Beijing time, without saying so.
_BEIJING = datetime.timezone(datetime.timedelta(hours=8))
HEADINGS = ("ID", "POD", "SIZE", "STATUS", "ADDRESS", "AGE")
_STEPS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a group, as far as the service tells."""

    time: str
    reason: str
    message: str


def row(group: groups.ContainerGroup, now: datetime.datetime) -> tuple[str, ...]:
    status = f"{group.status} ({group.status_reason})" if group.status_reason else group.status
    return (
        group.container_group_id,
        pod(group),
        size(group),
        status,
        group.private_address,
        age(group.create_time, now),
    )


def pod(group: groups.ContainerGroup) -> str:
    """`<namespace>/<name>`; a group without a pod has a name of its own."""
    name = group.label(groups.POD_NAME)
    return f"{group.label(groups.NAMESPACE)}/{name}" if name else group.container_group_name


def size(group: groups.ContainerGroup) -> str:
    return f"{group.cpu:g}C{group.memory:g}G"


def moment(create_time: str) -> datetime.datetime | None:
    """None if the time cannot be read."""
    try:
        made = datetime.datetime.fromisoformat(create_time)
    except ValueError:
        return None
    return made.replace(tzinfo=made.tzinfo or _BEIJING).astimezone(datetime.UTC)


def shown(create_time: str) -> str:
    """As Kubernetes writes times; what cannot be read as it is."""
    made = moment(create_time)
    return f"{made:%Y-%m-%dT%H:%M:%SZ}" if made else create_time


def age(create_time: str, now: datetime.datetime) -> str:
    """The largest unit that fits, as kubectl's; empty if the time cannot be read."""
    made = moment(create_time)
    if made is None:
        return ""
    seconds = max(0, int((now - made).total_seconds()))
    return next((f"{seconds // step}{unit}" for step, unit in _STEPS if seconds >= step), "0s")


def lines(group: groups.ContainerGroup, now: datetime.datetime) -> list[tuple[str, str]]:
    """A group's own page: names and values."""
    face = next(iter(group.network_interface_attributes), groups.NetworkInterface())
    made = [
        ("id", group.container_group_id),
        ("name", group.container_group_name),
        ("pod", pod(group)),
        ("node", group.label(groups.NODE_NAME)),
        ("cluster", group.label(groups.CLUSTER_ID)),
        ("status", group.status),
        ("reason", group.status_reason),
        ("message", group.status_message),
        ("size", f"{group.cpu:g} cores and {group.memory:g} GiB"),
        ("address", group.private_address),
        ("public address", face.public_ip),
        ("subnet", face.subnet_id),
        ("security groups", ", ".join(one.security_group_id for one in face.security_groups)),
        ("zone", group.availability_zone),
        ("created", f"{shown(group.create_time)} ({age(group.create_time, now)} ago)"),
    ]
    return [(name, value) for name, value in made if value]


def events(group: groups.ContainerGroup) -> list[Event]:
    """The service keeps no history: when the group was made, and what is the matter with it now."""
    made = Event(shown(group.create_time), "Created", f"{size(group)}, {group.private_address}")
    now = Event("now", group.status_reason or group.status, group.status_message or group.status)
    return [made, now]


def find(found: Iterable[groups.ContainerGroup], wanted: str) -> groups.ContainerGroup:
    """By id; or by `<namespace>/<pod>`, a pod's name or the beginning of an id, if it is the only one: pods
    of several clusters may have one name, and so has a pod that ends and the one that takes its place.
    """
    matching = []
    for group in found:
        if group.container_group_id == wanted:
            return group
        if wanted in {pod(group), group.label(groups.POD_NAME)} or group.container_group_id.startswith(
            wanted
        ):
            matching.append(group)
    if len(matching) == 1:
        return matching[0]
    if matching:
        several = ", ".join(
            f"{group.container_group_id} ({pod(group)}, {group.status})" for group in matching
        )
        raise errors.UserError(f"cannot tell which group {wanted!r} is: {several}; give its id")
    raise errors.UserError(f"cannot find a group {wanted!r}: `kci groups` lists what there is")


def places(found: Iterable[groups.ContainerGroup]) -> tuple[dict[str, int], dict[str, int]]:
    """How many groups are in each subnet, and in each security group."""
    subnets: dict[str, int] = {}
    firewalls: dict[str, int] = {}
    for group in found:
        for face in group.network_interface_attributes:
            subnets[face.subnet_id] = subnets.get(face.subnet_id, 0) + 1
            for one in face.security_groups:
                firewalls[one.security_group_id] = firewalls.get(one.security_group_id, 0) + 1
    return subnets, firewalls


def changed(group_id: ids.GroupId) -> tuple[str, ...]:
    """The row of a group that is gone."""
    return (group_id, "", "", "gone", "", "")


def render(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> table.Table:
    made = table.Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, no_wrap=True)
    for cells in rows:
        made.add_row(*cells)
    return made
