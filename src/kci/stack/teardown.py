"""Taking a stack down: parts in order, then whatever is left, then what was changed on the machine.

Works from the state file's account, so it is the same whether this supervisor started the parts or
one that was killed did. Each step is safe twice and safe without its thing, and one that fails does not
keep the others from being done: its sentence is returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import subprocess
from collections.abc import AsyncIterator

import structlog

from kci.kit import errors as kit_errors
from kci.kit import tasks
from kci.kube import config
from kci.kube import errors as kube_errors
from kci.stack import (
    addresses,
    board,
    cgroups,
    layout,
    links,
    namespaces,
    node,
    parts,
    processes,
    programs,
    record,
    settings,
)

log = structlog.get_logger(__name__)
STOP_TIMEOUT_S = 25.0
DRAIN_TIMEOUT_S = programs.DRAIN_GRACE_S + 60.0
NODE_TIMEOUT_S = 15.0
FORWARDS_STILL = (
    "net.ipv4.ip_forward was 0 before this stack and stays 1, for other virtual links may need it; "
    "`sysctl -w net.ipv4.ip_forward=0` if none does"
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where the stack is taken down."""

    where: layout.Layout
    asked: settings.Settings
    machine: settings.Machine
    # The mount namespace that the supervisor came from, where a network namespace's name is mounted.
    outer_mounts: int
    in_netns: bool
    # Something runs that an earlier supervisor started, such as pods.
    takes_over: bool = False


async def stop_processes(account: board.Board, names: tuple[parts.Part, ...]) -> list[str]:
    """Stop these parts one after the other; returns what could not be stopped."""
    problems = []
    for name in names:
        part = account.state.part(name)
        if part.process is None:
            continue
        # A failed part goes on saying so, and why.
        failed = part.state is record.PartState.FAILED
        account.update_part(name, state=part.state if failed else record.PartState.STOPPING)
        if await processes.stop(part.process, STOP_TIMEOUT_S):
            state = part.state if failed else record.PartState.STOPPED
            account.update_part(name, state=state, process=None, detail=part.detail if failed else "")
        else:
            problems.append(f"cannot end {name} (pid {part.process.pid})")
    return problems


async def take_down(scene: Scene, account: board.Board, *, keep_node: bool) -> list[str]:
    """Everything of the stack ends, its files stay. Returns what could not be done."""
    problems = await stop_processes(account, parts.STOP_BEFORE_DRAIN)
    async with _collected(problems, "stop the pods"):
        await _drain(scene, account)
    if account.state.changes.node_registered and not keep_node:
        async with _collected(problems, "remove the Node (`kci down --keep-node` leaves it)"):
            await _delete_node(scene.asked)
    problems += await stop_processes(account, parts.STOP_AFTER_DRAIN)
    async with _collected(problems, "end what is left of the pods"):
        await _end_leftovers(scene)
    async with _collected(problems, "remove the network"):
        account.update(warnings=await tasks.in_thread(_restore_machine, scene, account.state))
    if not problems:
        account.update(changes=record.Changes())
    for name in parts.STEPS:
        if account.state.part(name).state in {record.PartState.STARTING, record.PartState.DONE}:
            account.update_part(name, state=record.PartState.STOPPED, detail="")
    return problems


async def end_orphans(where: layout.Layout) -> None:
    """Kill containers whose shim is dead: containerd takes them for ended and starts others beside them,
    with the same addresses.
    """
    shims = {shim.pid for shim in await tasks.in_thread(processes.find_shims, where.containerd_socket)}
    for pid in await tasks.in_thread(cgroups.list_members, where.cgroup_parent):
        orphan = None if processes.has_ancestor(pid, shims) else processes.observe(pid)
        if orphan:
            log.warning("ending a container without a shim", pid=pid)
            _ = await processes.stop(orphan, 0.0)


async def _drain(scene: Scene, account: board.Board) -> None:
    """Have the kcilet's own command stop all pods, as long as their containerd lives."""
    own = account.state.part(parts.Part.CONTAINERD).process
    if scene.asked.own_containerd and not processes.is_alive(own):
        return
    endpoint = (
        scene.where.containerd_socket
        if scene.asked.own_containerd
        else pathlib.Path(scene.asked.cri_endpoint)
    )
    log_file = scene.where.log("drain")
    command = programs.drain(scene.where, endpoint, scene.machine.path)
    account.update_part(parts.Part.CONTAINERD, detail="stopping pods")
    process = await processes.start(command, log_file)
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            code = await process.wait()
    except TimeoutError:
        await processes.stop(processes.observe(process.pid), 1.0)
        code = -1
    account.update_part(parts.Part.CONTAINERD, detail="")
    if code != 0:
        # Not the end: what is left is killed with its cgroup below.
        log.warning("drain failed", exit_code=code, log_tail=processes.last_lines(log_file, count=3))


async def _delete_node(asked: settings.Settings) -> None:
    administrator = await tasks.in_thread(config.load, pathlib.Path(asked.kubeconfig))
    async with asyncio.timeout(NODE_TIMEOUT_S):
        await node.delete_node(administrator, asked.node_name)


async def _end_leftovers(scene: Scene) -> None:
    if scene.asked.own_containerd:
        for shim in await tasks.in_thread(processes.find_shims, scene.where.containerd_socket):
            _ = await processes.stop(shim, 0.5)
    await tasks.in_thread(cgroups.remove, scene.where.cgroup_parent)


def _restore_machine(scene: Scene, state: record.State) -> tuple[str, ...]:
    """Returns what is not as it was, and why."""
    left: tuple[str, ...] = ()
    choices = record.read_choices(scene.where)
    if choices and scene.in_netns:
        services = addresses.Network(choices.service_cidr) if choices.service_cidr else None
        links.remove(
            scene.where.bridge, addresses.Ranges(pods=addresses.Network(choices.pod_cidr), services=services)
        )
        if state.changes.ip_forward_was and not links.has_others_virtual_links():
            links.write_ip_forward(state.changes.ip_forward_was)
        elif state.changes.ip_forward_was and not state.changes.netns_created:
            left = (FORWARDS_STILL,)
    if state.changes.netns_created:
        namespaces.remove_netns(state.changes.netns_created, scene.outer_mounts)
    return left


@contextlib.asynccontextmanager
async def _collected(problems: list[str], what: str) -> AsyncIterator[None]:
    """Let one step's failure be known without keeping the next from being done."""
    try:
        yield
    except (
        kit_errors.UserError,
        kube_errors.KubeError,
        OSError,
        TimeoutError,
        subprocess.SubprocessError,
    ) as error:
        problems.append(f"cannot {what}: {str(error) or type(error).__name__}")
        log.error("cannot take a step of the way down", step=what, error=repr(error))
