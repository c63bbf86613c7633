"""What is there of a state folder's stack."""

from __future__ import annotations

import ipaddress
import pathlib
from collections.abc import Mapping

import pyroute2
from cryptography import x509

from kci.doctor.facts import machine
from kci.doctor.findings import stack as findings
from kci.kit import linkgroups
from kci.stack import (
    addresses,
    commands,
    controlplane,
    coredns,
    layout,
    links,
    metricsserver,
    parts,
    preparation,
    probes,
    processes,
    programs,
    record,
)

LOCKS = pathlib.Path("/proc/locks")


def supervisor(where: layout.Layout) -> findings.Supervisor:
    """Blocking."""
    state = record.read_state(where)
    alive = state is not None and state.boot_id == record.boot_id() and processes.is_alive(state.supervisor)
    return findings.Supervisor(state, is_alive=alive, is_locked=is_locked(where.lock))


def is_locked(file: pathlib.Path) -> bool:
    """Whether somebody holds it, by the kernel's list: to try would be in the way of others. Blocking."""
    try:
        inode = file.stat().st_ino
    except FileNotFoundError:
        return False
    rows = (line.split() for line in LOCKS.read_text().splitlines())
    # What waits for a lock has an arrow before its kind. Devices are told otherwise by some file systems.
    return any(row[1] == "FLOCK" and row[5].rpartition(":")[2] == str(inode) for row in rows)


async def part(told: record.PartRecord, probe: commands.Probe | None) -> findings.Part:
    alive = processes.is_alive(told.process)
    answer = await probes.ask(probe) if alive and probe is not None else ""
    paused = told.process is not None and processes.is_paused(told.process)
    return findings.Part(told, alive, answer, is_paused=paused)


def probes_of(prepared: preparation.Prepared) -> Mapping[str, commands.Probe | None]:
    """How each part that is a process says that it is ready. Blocking."""
    plan, control_plane = prepared.program_plan(), prepared.control_plane_plan()
    own = prepared.asked.own_control_plane
    found: dict[str, commands.Probe | None] = {
        parts.Part.REGISTRY: programs.registry(plan).probe,
        parts.Part.SERVICE: programs.service(plan).probe,
        parts.Part.KCILET: programs.kcilet(plan, cluster_server="").probe,
        parts.Part.VIRTUAL_KUBELET: commands.TcpProbe(prepared.gateway, prepared.asked.kubelet_port),
        parts.Part.CONTAINERD: commands.SocketProbe(prepared.where.containerd_socket),
    }
    if own:
        found[parts.Part.ETCD] = controlplane.etcd(control_plane).probe
        found[parts.Part.API_SERVER] = controlplane.api_server(control_plane).probe
        found[parts.Part.CONTROLLER_MANAGER] = controlplane.controller_manager(control_plane).probe
        found[parts.Part.SCHEDULER] = controlplane.scheduler(control_plane).probe
    if prepared.asked.own_dns:
        found[parts.Part.COREDNS] = coredns.command(prepared.dns_plan()).probe
    if prepared.asked.metrics_server:
        found[parts.Part.METRICS_SERVER] = metricsserver.command(prepared.metrics_server_plan()).probe
    return found


def certificates(where: layout.Layout) -> list[findings.Certificate]:
    """Blocking."""
    return [
        _certificate(file) for folder in (where.pki, where.node_pki) for file in sorted(folder.glob("*.crt"))
    ]


def _certificate(file: pathlib.Path) -> findings.Certificate:
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        return findings.Certificate(str(file), problem=str(error))
    return findings.Certificate(str(file), found.not_valid_before_utc, found.not_valid_after_utc)


def link_facts(prepared: preparation.Prepared) -> findings.Links:
    """Blocking; in the stack's network namespace."""
    bridge, gateway = prepared.where.bridge, prepared.gateway
    with pyroute2.IPRoute() as netlink:
        indices = netlink.link_lookup(ifname=bridge)
        held = [one.get_attr("IFA_ADDRESS") for index in indices for one in netlink.get_addr(index=index)]
    wanted = [one for one in (prepared.ranges.pods, prepared.ranges.services) if one is not None]
    guarded = {route.destination for route in links.list_routes() if not route.interface}
    return findings.Links(
        bridge,
        gateway,
        has_gateway=gateway in held,
        forwards=links.read_ip_forward() != "0",
        unguarded=tuple(str(one) for one in wanted if one not in guarded),
    )


def reserved(prepared: preparation.Prepared) -> list[ipaddress.IPv4Network]:
    """What no subnet may have, by the routes of now. Blocking."""
    bridge = prepared.where.bridge
    return list(
        addresses.plan_reserved(
            prepared.ranges,
            links.list_routes(),
            bridge=bridge,
            link_group=linkgroups.number_of(bridge),
            hosts=[one for one in machine.resolvers(prepared.asked, prepared.gateway) if ":" not in one],
        )
    )


def store(where: layout.Layout) -> findings.Store:
    """Blocking. The lock's file as service/store/database.py names it."""
    database = where.service_database
    return findings.Store(database.exists(), is_locked(database.with_name(f"{database.name}.lock")))
