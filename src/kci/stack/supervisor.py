"""The program that holds a stack together: `python -m kci.stack.supervisor`.

It enters the stack's network and mount namespaces, starts the parts as their needs allow, watches
them, and takes all of it down in order when it is asked to stop or a part cannot start. Pods that it found
running, of a supervisor that was killed, it leaves running if it cannot start: they are no part of its
failure. It is handed the state folder's lock and holds it for its life; it tells everything in `state.json`,
which `kci up`, `status` and `down` only read.
With `--clean` it only takes down what a supervisor that was killed has left.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import dataclasses
import datetime
import functools
import os
import pathlib
import signal
import sys
from collections.abc import Callable

import structlog

from kci.kit import errors as kit_errors
from kci.kit import logs, tasks
from kci.kube import config
from kci.kube import errors as kube_errors
from kci.stack import (
    board,
    certificates,
    clusterdns,
    commands,
    containerd,
    controlplane,
    coredns,
    errors,
    goprograms,
    layout,
    links,
    metricsapi,
    metricsserver,
    namespaces,
    node,
    otherfirewalls,
    parts,
    preparation,
    processes,
    programs,
    publicimages,
    record,
    runner,
    settings,
    teardown,
    trial,
    typed,
)

log = structlog.get_logger(__name__)
NODE_READY_TIMEOUT_S = 60.0
ROTATE_INTERVAL_S = 60.0
PR_SET_PDEATHSIG = 1


class Supervisor:
    """One run: `start` brings everything up and keeps it up until `stop` is set, then all goes down."""

    def __init__(self, scene: teardown.Scene, account: board.Board) -> None:
        self._scene = scene
        self._where, self._asked = scene.where, scene.asked
        self._account = account
        self._planned = parts.plan(
            own_control_plane=self._asked.own_control_plane,
            own_containerd=self._asked.own_containerd,
            own_dns=self._asked.own_dns,
            metrics_server=self._asked.metrics_server,
        )
        self._ready = {part: asyncio.Event() for part in self._planned}
        self._runners: list[runner.Runner] = []
        self._node_kubeconfig = pathlib.Path()
        self._cluster_dns = ""
        self._begun = datetime.datetime.now(datetime.UTC)
        self._has_begun_anew = False

    async def start(self, stop: asyncio.Event) -> int:
        """Run until `stop`; the exit code."""
        failure: errors.PartFailedError | None = None
        async with tasks.background("state file", self._account.run()):
            try:
                await tasks.first_of(stop.wait(), self._bring_up(), name="stack")
            except errors.PartFailedError as error:
                failure = error
            except (kit_errors.UserError, kube_errors.KubeError, OSError) as error:
                failure = errors.PartFailedError("", str(error))
            except ExceptionGroup as group:
                failure = _first_failure(group)
            finally:
                # Also when a bug ends it: nothing of what it started may be left that nobody watches.
                was_ready = self._account.state.state is record.StackState.READY
                if self._scene.takes_over and not was_ready and not stop.is_set():
                    problems = await self._leave(failure)
                else:
                    problems = await self._go_down(failure)
        return 1 if failure or problems else 0

    async def clean(self) -> int:
        async with tasks.background("state file", self._account.run()):
            problems = await self._go_down(None)
        return 1 if problems else 0

    async def _bring_up(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        prepared = await self._prepare()
        async with tasks.Tasks() as group:
            for part in self._planned:
                group.start(part, self._run(part, prepared))
            group.run_forever("logs", self._bound_logs())
            for ready in self._ready.values():
                await ready.wait()
            took_s = round(loop.time() - begun, 2)
            self._account.note_changes(has_pods=True)
            self._account.update(state=record.StackState.READY, started_in_s=took_s)
            await tasks.in_thread(record.forget_launch_before, self._where)
            log.info("stack is ready", took_s=took_s)

    async def _prepare(self) -> preparation.Prepared:
        """Look whether it can start, stop what a killed supervisor left running (its containers go on), then
        decide and write files.
        """
        cluster = await tasks.in_thread(preparation.check, self._where, self._asked, self._scene.machine)
        lacks = await tasks.in_thread(trial.run)
        api_addresses: list[str] = []
        if cluster:
            # Before anything is remembered: a wrong kubeconfig must not be what the folder is bound to.
            await node.check_cluster(cluster, self._asked.node_name)
            api_addresses = await node.find_api_addresses(cluster.server)
        self._has_begun_anew = True
        leftovers = (*parts.STOP_BEFORE_DRAIN, *parts.STOP_AFTER_DRAIN)
        problems = await teardown.stop_processes(self._account, leftovers)
        if problems:
            raise errors.StackError("; ".join(problems))
        if self._asked.own_containerd:
            await teardown.end_orphans(self._where)
        self._account.update(parts=tuple(record.PartRecord(name=part) for part in self._planned))
        prepared = await tasks.in_thread(
            functools.partial(
                preparation.prepare,
                self._where,
                self._asked,
                self._scene.machine,
                cluster,
                api_addresses=api_addresses,
            )
        )
        is_local, words = await publicimages.decide(
            self._asked.images,
            has_default_route=links.has_default_route(await tasks.in_thread(links.list_routes)),
            proxy=publicimages.choose_proxy(self._scene.machine.proxies),
        )
        if not self._asked.own_containerd:
            words = "as the given containerd is set up"
        prepared = dataclasses.replace(prepared, images_are_local=is_local)
        await tasks.in_thread(preparation.write_files, prepared)
        blocked = await tasks.in_thread(
            otherfirewalls.find_warnings, self._where.bridge, typed.Place(self._asked)
        )
        warnings = (*lacks, *blocked)
        for text in warnings:
            log.warning("the machine may be in the way", text=text)
        self._account.update(
            node_name=self._asked.node_name,
            gateway=prepared.gateway,
            kubeconfig=prepared.kubeconfig,
            cluster=prepared.choices.cluster,
            kci_endpoint=prepared.program_plan().kci_endpoint,
            kci_region=programs.REGION,
            env_file=str(self._where.env_file),
            images=words,
            warnings=warnings,
        )
        return prepared

    async def _run(self, part: parts.Part, prepared: preparation.Prepared) -> None:
        for need in parts.needs(part, self._planned):
            await self._ready[need].wait()
        try:
            if part in parts.STEPS:
                await self._step(part, prepared)
            else:
                await self._run_process(part, prepared)
        except (kit_errors.UserError, kube_errors.KubeError, OSError) as error:
            self._account.update_part(part, state=record.PartState.FAILED, detail=str(error))
            if isinstance(error, errors.PartFailedError):
                raise
            raise errors.PartFailedError(part, str(error)) from error

    async def _run_process(self, part: parts.Part, prepared: preparation.Prepared) -> None:
        command = await tasks.in_thread(self._plan_command, part, prepared)
        if part is parts.Part.VIRTUAL_KUBELET and prepared.cluster:
            self._account.note_changes(node_registered=True)
            await tasks.in_thread(self._account.write)
        one = runner.Runner(part, command, self._where, self._account, self._ready[part])
        self._runners.append(one)
        await one.run()

    async def _step(self, part: parts.Part, prepared: preparation.Prepared) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._account.update_part(part, state=record.PartState.STARTING)
        match part:
            case parts.Part.PROGRAMS:
                await self._build_programs()
            case parts.Part.LINK:
                await self._link(prepared)
            case parts.Part.IMAGES:
                await self._fill_registry(prepared)
            case parts.Part.IDENTITY:
                await self._identify(prepared)
            case parts.Part.CLUSTER_DNS:
                await self._set_up_dns(prepared)
            case parts.Part.METRICS_API:
                await self._set_up_metrics(prepared)
            case parts.Part.NODE:
                administrator = await tasks.in_thread(preparation.administrator, prepared)
                await node.wait_ready(
                    administrator,
                    self._asked.node_name,
                    since=self._begun,
                    timeout_s=NODE_READY_TIMEOUT_S,
                )
            case _:
                raise AssertionError(f"{part} is not a step")
        self._account.update_part(
            part, state=record.PartState.DONE, detail="", started_in_s=round(loop.time() - begun, 2)
        )
        self._ready[part].set()

    async def _build_programs(self) -> None:
        def progress(text: str) -> None:
            self._account.update_part(parts.Part.PROGRAMS, detail=text)

        if self._asked.own_control_plane:
            await goprograms.ensure(goprograms.CONTROL_PLANE, self._scene.machine, progress)
        if self._asked.own_dns:
            await goprograms.ensure(goprograms.COREDNS, self._scene.machine, progress)
        if self._asked.metrics_server:
            await goprograms.ensure(goprograms.METRICS_SERVER, self._scene.machine, progress)
        if self._asked.own_containerd:
            plugin = await goprograms.ensure(goprograms.CNI, self._scene.machine, progress)
            await tasks.in_thread(preparation.install_cni, self._where, plugin)

    async def _fill_registry(self, prepared: preparation.Prepared) -> None:
        loop = asyncio.get_running_loop()

        def progress(text: str) -> None:
            loop.call_soon_threadsafe(
                functools.partial(self._account.update_part, parts.Part.IMAGES, detail=text)
            )

        missing = await tasks.in_thread(preparation.fill_registry, prepared, progress)
        if missing:
            self._account.update(images=f"{self._account.state.images}; {'; '.join(missing)}")

    async def _link(self, prepared: preparation.Prepared) -> None:
        if await tasks.in_thread(links.read_ip_forward) == "0":
            self._account.note_changes(ip_forward_was="0")
            await tasks.in_thread(self._account.write)
            await tasks.in_thread(links.write_ip_forward, "1")
        await tasks.in_thread(links.ensure, self._where.bridge, prepared.ranges)

    async def _identify(self, prepared: preparation.Prepared) -> None:
        administrator: config.ClusterConfig = await tasks.in_thread(preparation.administrator, prepared)
        authority = None
        if self._asked.own_control_plane:
            path = certificates.certificate_path(self._where.pki, "ca")
            authority = await tasks.in_thread(path.read_bytes)
        self._node_kubeconfig = await node.ensure_identity(
            self._where,
            administrator,
            node_name=self._asked.node_name,
            gateway=prepared.gateway,
            client_authority_pem=authority,
        )

        self._cluster_dns = prepared.gateway
        if not self._asked.own_dns:
            self._cluster_dns = await clusterdns.find(administrator)

    async def _set_up_dns(self, prepared: preparation.Prepared) -> None:
        assert prepared.ranges.services is not None
        administrator = await tasks.in_thread(preparation.administrator, prepared)
        await clusterdns.ensure(administrator, services=prepared.ranges.services, gateway=prepared.gateway)

    async def _set_up_metrics(self, prepared: preparation.Prepared) -> None:
        administrator = await tasks.in_thread(preparation.administrator, prepared)
        if self._asked.metrics_server:
            port = prepared.choices.metrics_server_port
            await metricsapi.ensure(administrator, gateway=prepared.gateway, port=port)
        else:
            await metricsapi.remove(administrator)

    def _plan_command(self, part: parts.Part, prepared: preparation.Prepared) -> commands.Command:
        plan = prepared.program_plan()
        planners: dict[parts.Part, Callable[[], commands.Command]] = {
            parts.Part.REGISTRY: lambda: programs.registry(plan),
            parts.Part.SERVICE: lambda: programs.service(plan),
            parts.Part.KCILET: lambda: programs.kcilet(
                plan, cluster_server=preparation.administrator(prepared).server
            ),
            parts.Part.VIRTUAL_KUBELET: lambda: programs.virtual_kubelet(
                plan,
                cluster_server=preparation.administrator(prepared).server,
                node_kubeconfig=self._node_kubeconfig,
                cluster_dns=self._cluster_dns,
            ),
            parts.Part.COREDNS: lambda: coredns.command(prepared.dns_plan()),
            parts.Part.METRICS_SERVER: lambda: metricsserver.command(prepared.metrics_server_plan()),
        }
        if prepared.binaries:
            binaries = prepared.binaries
            planners[parts.Part.CONTAINERD] = lambda: containerd.command(
                self._where, binaries, self._scene.machine
            )
        if part in parts.CONTROL_PLANE:
            control_plane = prepared.control_plane_plan()
            planners[parts.Part.ETCD] = lambda: controlplane.etcd(control_plane)
            planners[parts.Part.API_SERVER] = lambda: controlplane.api_server(control_plane)
            planners[parts.Part.CONTROLLER_MANAGER] = lambda: controlplane.controller_manager(control_plane)
            planners[parts.Part.SCHEDULER] = lambda: controlplane.scheduler(control_plane)
        return planners[part]()

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_INTERVAL_S)
            for log_file in await tasks.in_thread(lambda: list(self._where.logs.glob("*.log"))):
                await tasks.in_thread(processes.rotate, log_file)

    async def _leave(self, failure: errors.PartFailedError | None) -> list[str]:
        """What was found running is as it was, but for programs that were stopped to be started anew."""
        self._ignore_signals(failure)
        problems: list[str] = []
        if self._has_begun_anew:
            leftovers = (*parts.STOP_BEFORE_DRAIN, *parts.STOP_AFTER_DRAIN)
            problems = await teardown.stop_processes(self._account, leftovers)
        await tasks.in_thread(record.restore_launch, self._where)
        place = await tasks.in_thread(record.read_place, self._where)
        why = str(failure or f"the supervisor ended by a fault of its own: {self._where.log('supervisor')}")
        self._account.update(
            state=record.StackState.FAILED,
            supervisor=None,
            failure="; ".join(
                [
                    why,
                    *problems,
                    f"its pods go on: `{place.up}` takes them up again, `{place.kci('down')}` ends them",
                ]
            ),
            failure_log=failure.log_tail if failure else (),
        )
        await tasks.in_thread(self._account.write)
        return problems

    def _ignore_signals(self, failure: errors.PartFailedError | None) -> None:
        for number in processes.STOP_SIGNALS:
            # Asked again, it would only leave half of it behind.
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
        if failure:
            log.error("cannot bring the stack up", part=failure.part, error=str(failure))

    async def _go_down(self, failure: errors.PartFailedError | None) -> list[str]:
        self._ignore_signals(failure)
        self._account.update(
            state=record.StackState.STOPPING,
            failure=str(failure) if failure else "",
            failure_log=failure.log_tail if failure else (),
        )
        request = await tasks.in_thread(record.read_down_request, self._where)
        problems = await teardown.take_down(self._scene, self._account, keep_node=request.keep_node)
        await tasks.in_thread(record.forget_launch_before, self._where)
        final = record.StackState.FAILED if failure or problems else record.StackState.STOPPED
        self._account.update(
            state=final,
            supervisor=None,
            node_kept=request.keep_node,
            failure="; ".join([*([str(failure)] if failure else []), *problems]),
        )
        await tasks.in_thread(self._account.write)
        return problems


def _first_failure(group: ExceptionGroup[Exception]) -> errors.PartFailedError:
    """The cause to tell when several parts failed at once; anything else than a failed part is a bug."""
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            return _first_failure(error)
        if isinstance(error, errors.PartFailedError):
            return error
    raise group


def main() -> int:
    parser = argparse.ArgumentParser(prog="kci-supervisor", description=__doc__)
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--lock", required=True, type=int, help="the locked descriptor of its lock file")
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--end-with", type=int, metavar="PID", help="end when this parent has ended")
    given = parser.parse_args()
    logs.configure()
    os.set_inheritable(given.lock, False)
    where = layout.Layout(pathlib.Path(given.state_dir))
    if given.end_with:
        _end_with(given.end_with)
    try:
        return _supervise(where, given.run_id, clean=given.clean)
    except kit_errors.UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _supervise(where: layout.Layout, run_id: str, *, clean: bool) -> int:
    previous = record.read_state(where)
    launch = record.read_launch(where)
    state = board.new_state(run_id, previous, processes.observe(os.getpid()))
    account = board.Board(where, state)
    account.write()
    try:
        scene = _enter(where, launch.settings, account, clean=clean)
    except kit_errors.UserError as error:
        record.restore_launch(where)
        account.update(state=record.StackState.FAILED, failure=str(error), supervisor=None)
        account.write()
        sys.stderr.write(f"{error}\n")
        return 1

    async def run(stop: asyncio.Event) -> int:
        # Blocked by who started us, until there is somebody to handle them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, processes.STOP_SIGNALS)
        supervisor = Supervisor(scene, account)
        return await (supervisor.clean() if clean else supervisor.start(stop))

    return tasks.run_program(run)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # It ended before we asked to be told.
        os.kill(os.getpid(), signal.SIGTERM)


def _enter(
    where: layout.Layout, asked: settings.Settings, account: board.Board, *, clean: bool
) -> teardown.Scene:
    """Enter the namespaces that every part inherits. Before the first thread of this process."""
    outer_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    in_netns = True
    account.update(netns=asked.netns)
    if asked.netns:
        if not namespaces.has_netns(asked.netns) and not clean:
            account.note_changes(netns_created=asked.netns)
            account.write()
            namespaces.add_netns(asked.netns)
        in_netns = namespaces.has_netns(asked.netns)
        if in_netns:
            namespaces.enter_netns(asked.netns)
    earlier = [part.process for part in account.state.parts if processes.is_alive(part.process)]
    alive = [*(one for one in earlier if one), *processes.find_shims(where.containerd_socket)]
    if not asked.netns:
        # What a killed supervisor has left is where that was started, perhaps not where we are.
        _ = any(namespaces.enter_network_of(process) for process in alive)
    if asked.cri_endpoint:
        # What the kcilet mounts for a pod must be there for the containerd that it talks to.
        owner = processes.owner_of_socket(pathlib.Path(asked.cri_endpoint))
        _ = owner is not None and namespaces.enter_mounts_of(owner)
    elif not any(namespaces.enter_mounts_of(process) for process in alive):
        namespaces.enter_new_mounts()
    return teardown.Scene(
        where,
        asked,
        settings.read_machine(),
        outer_mounts,
        in_netns,
        takes_over=bool(alive) or account.state.changes.has_pods,
    )


if __name__ == "__main__":
    sys.exit(main())
