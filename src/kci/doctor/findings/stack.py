"""The stack of a state folder: who holds it, what runs of it, what it has of the machine. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
from collections.abc import Iterable, Sequence

from kci.doctor.findings import finding
from kci.stack import links, record, typed

EXPIRES_SOON = datetime.timedelta(days=30)


@dataclasses.dataclass(frozen=True)
class Supervisor:
    """`state` is what it wrote last; `is_locked` whether somebody holds the state folder's lock."""

    state: record.State | None
    is_alive: bool
    is_locked: bool


@dataclasses.dataclass(frozen=True)
class Part:
    """`answer` is why it is not ready by its own probe; empty if it is."""

    told: record.PartRecord
    is_alive: bool
    answer: str
    # Somebody stopped it with a signal; the kernel may still take connections for it.
    is_paused: bool = False


@dataclasses.dataclass(frozen=True)
class Certificate:
    """One of the state folder; `problem` if it cannot be read."""

    file: str
    begin: datetime.datetime | None = None
    end: datetime.datetime | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Links:
    """What the stack needs of links and routes, and whether it is there."""

    bridge: str
    gateway: str
    has_gateway: bool
    forwards: bool
    # Ranges without their unreachable route.
    unguarded: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Store:
    """The service's database, and whether a program holds the lock beside it."""

    exists: bool
    is_locked: bool


def is_up(seen: Supervisor) -> bool:
    """Whether there is a stack to look at."""
    return seen.is_alive and seen.state is not None and seen.state.state not in _DOWN


_DOWN = (record.StackState.STOPPED, record.StackState.FAILED)


def judge_supervisor(seen: Supervisor, place: typed.Place) -> finding.Finding:
    state_dir, state = place.asked.state_dir, seen.state
    if not seen.is_alive and seen.is_locked:
        return finding.wrong(
            f"somebody holds the lock of {state_dir}, and no supervisor of it lives",
            f"wait until the other kci has ended, or find it: fuser -v {state_dir}/lock",
        )
    if state is None:
        return finding.unseen(f"no stack was started in {state_dir} ({place.up})")
    if state.state is record.StackState.STOPPED:
        return finding.unseen(f"the stack of {state_dir} is stopped ({place.up})")
    if state.state is record.StackState.FAILED:
        return finding.wrong(f"the stack failed: {state.failure}", f"{place.kci('status')}, then {place.up}")
    if not seen.is_alive:
        return finding.wrong(
            "the stack's supervisor was killed",
            f"{place.up} brings the stack back; {place.kci('down')} cleans up",
        )
    if not seen.is_locked:
        return finding.wrong(
            f"the supervisor lives and does not hold the lock of {state_dir}: a second one may start",
            place.again,
        )
    if state.state is not record.StackState.READY:
        return finding.warning(f"the stack is {state.state}", f"wait, and look at {place.kci('status')}")
    return finding.well(f"the stack of {state_dir} is ready")


def judge_part(seen: Part, place: typed.Place) -> finding.Finding:
    told = seen.told
    log = f"see why: tail {told.log_file}" if told.log_file else f"see why: {place.kci('status')}"
    if told.process is None or not seen.is_alive:
        return finding.wrong(f"{told.name} does not run: {told.detail or told.state}", log)
    if seen.is_paused:
        return finding.wrong(
            f"{told.name} is stopped by a signal and does nothing", f"kill -CONT {told.process.pid}"
        )
    if seen.answer:
        return finding.wrong(
            f"{told.name} runs and is not ready: {seen.answer}",
            f"{log}; kill {told.process.pid} has it started again",
        )
    again = f", started again {told.restarts} times" if told.restarts else ""
    return finding.well(f"{told.name} runs and answers{again}")


def judge_certificates(
    seen: Iterable[Certificate], now: datetime.datetime, place: typed.Place
) -> list[finding.Finding]:
    certificates = list(seen)
    renew = f"{place.again}: the start makes those anew that end soon"
    found, ends = [], []
    for one in certificates:
        if one.end is None or one.begin is None:
            found.append(finding.wrong(f"{one.file} cannot be read: {one.problem}", renew))
        elif now >= one.end:
            found.append(finding.wrong(f"{one.file} ended on {one.end:%Y-%m-%d %H:%M} UTC", renew))
        elif now < one.begin:
            found.append(
                finding.wrong(
                    f"{one.file} begins on {one.begin:%Y-%m-%d %H:%M} UTC, after now: the clock was set back",
                    "timedatectl set-ntp true",
                )
            )
        # A start makes what a given cluster issued for less anew from half of its life.
        elif one.end - now < min(EXPIRES_SOON, (one.end - one.begin) / 2):
            found.append(finding.warning(f"{one.file} ends on {one.end:%Y-%m-%d}", renew))
        else:
            ends.append(one.end)
    if found or not ends:
        return found or [finding.unseen("there are none: the control plane and its certificates are others'")]
    return [finding.well(f"{len(ends)} certificates, the first ends on {min(ends):%Y-%m-%d}")]


def judge_links(seen: Links, place: typed.Place) -> list[finding.Finding]:
    found = []
    if not seen.has_gateway:
        found.append(
            finding.wrong(f"the link {seen.bridge} does not have the address {seen.gateway}", place.again)
        )
    if not seen.forwards:
        found.append(
            finding.wrong(
                "net.ipv4.ip_forward is 0, so pods reach nothing beyond the machine",
                place.inside("sysctl -w net.ipv4.ip_forward=1"),
            )
        )
    found += [
        finding.wrong(
            f"the unreachable route of {network} is gone: packets to unused addresses leave the machine",
            place.inside(
                f"ip route add unreachable {network} metric {links.UNREACHABLE_PRIORITY} proto static"
            ),
        )
        for network in seen.unguarded
    ]
    return found or [
        finding.well(f"{seen.bridge} has {seen.gateway}, and no unused address leaves the machine")
    ]


def judge_reserved(
    subnets: Iterable[tuple[str, str]], reserved: Sequence[ipaddress.IPv4Network], place: typed.Place
) -> list[finding.Finding]:
    """Subnets (id, CIDR) that others of the machine's networks have by now."""
    found = []
    for name, text in subnets:
        clash = next((one for one in reserved if ipaddress.IPv4Network(text).overlaps(one)), None)
        if clash is not None:
            found.append(
                finding.wrong(
                    f"the subnet {name} ({text}) overlaps {clash}, which a network of the machine has",
                    f"remove that route, or make another subnet and: {place.kci(f'subnet delete {name}')}",
                )
            )
    return found or [finding.well("no subnet overlaps a network of the machine")]


def judge_store(seen: Store, place: typed.Place) -> finding.Finding:
    if not seen.exists:
        return finding.wrong(
            "the KCI service has no database", "put a backup back (docs/how-to/back-up-the-service.md)"
        )
    if not seen.is_locked:
        return finding.wrong(
            "no program holds the lock of the KCI service's database: a second service could open it",
            f"see why the service does not: {place.kci('status')}",
        )
    return finding.well("one service holds the database")
