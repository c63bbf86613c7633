"""The kcilet program: puts the drivers, the source and the agent together; only here drivers are known."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import sys

import structlog

import kci
from kci.kcilet import instruments, ports, server, settings
from kci.kcilet.drivers.cgroups import pods as cgroups
from kci.kcilet.drivers.logs import folders as logs
from kci.kcilet.drivers.logs import rotation
from kci.kcilet.drivers.network import cni, rules
from kci.kcilet.drivers.network import server as network
from kci.kcilet.drivers.probes import driver as probes
from kci.kcilet.drivers.runtime import cri
from kci.kcilet.drivers.served import file as served
from kci.kcilet.drivers.stats import driver as stats
from kci.kcilet.drivers.streams import driver as streams
from kci.kcilet.drivers.volumes import folders as volumes
from kci.kcilet.workers import agent, drain, machine, proxy
from kci.kit import backoff as backoffs
from kci.kit import clock, crashpoints, environment, errors, tasks, tracing
from kci.kit import logs as program_logs
from kci.source import cluster

log = structlog.get_logger(__name__)
# The runtime is started beside us and may need a moment.
RUNTIME_WAIT_S = 30.0
BACKOFF = backoffs.Backoff(initial_s=0.05, cap_s=1.0)


def main() -> None:
    try:
        chosen = settings.parse(sys.argv[1:])
        program_logs.configure(chosen.log_level)
        crashpoints.arm(environment.read().get(crashpoints.ENVIRONMENT, ""))
        if isinstance(chosen, settings.Run):
            sys.exit(tasks.run_program(functools.partial(run, chosen)))
        sys.exit(tasks.run_program(lambda _: drain_all(chosen)))
    except errors.UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


async def run(chosen: settings.Run, stop: asyncio.Event) -> int:
    """Until `stop`. Containers outlive us."""
    async with contextlib.AsyncExitStack() as stack:
        hirings: list[agent.Agent] = []
        measured = instruments.make(pods=lambda: sum(one.pods for one in hirings))
        _ = await stack.enter_async_context(measured.registry.served(chosen.metrics_address))
        tracer = await stack.enter_async_context(
            tracing.opened("kcilet", kci.__version__, environment.read())
        )
        runtime = await stack.enter_async_context(
            cri.open_runtime(str(chosen.cri_endpoint), on_call=measured.on_cri_call)
        )
        version = await wait_for(runtime)
        system_clock = clock.SystemClock()
        carried = streams.MachineStreams(
            exec_url=runtime.exec_url,
            attach_url=runtime.attach_url,
            is_written=runtime.is_written,
            clock=system_clock,
            commands_dir=chosen.state_dir / "commands",
        )
        parents = cgroups.PodCgroups(chosen.cgroup_parent)
        drivers = machine.Drivers(
            runtime=runtime,
            volumes=volumes.PodFolders(chosen.state_dir),
            network=await stack.enter_async_context(
                network.open_network(
                    chosen.cni_socket,
                    chosen.bridge,
                    reachable=frozenset(
                        rules.Endpoint(one.address, one.port, one.protocol) for one in chosen.reachable
                    ),
                    connections=chosen.connections,
                )
            ),
            cgroups=parents,
            logs=logs.Folders(chosen.logs_dir),
            streams=carried,
            probes=probes.MachineProbes(run_command=runtime.run_command, open_network=carried.open_network),
            stats=stats.MachineStats(cgroup_of=parents.path_of, link_of=cni.to_link_name),
        )
        ours = machine.Machine(
            drivers,
            limits=chosen.limits,
            runtime_handler=chosen.runtime_handler,
            runtime_name=version.name,
            services=proxy.Settings(chosen.reachable, chosen.service_external_addresses),
            clock=system_clock,
            observed=dataclasses.replace(measured.machine, tracer=tracer),
        )
        rotated = rotation.Rotation(
            list_written=runtime.list_written_logs,
            reopen=runtime.reopen_log,
            policy=rotation.Policy(max_bytes=chosen.log_max_mib << 20, max_files=chosen.log_max_files),
            clock=system_clock,
        )
        sources = await stack.enter_async_context(
            cluster.ClusterSources(
                clock=system_clock,
                connect=functools.partial(cluster.connect, on_call=measured.on_kube_call),
                on_watch_restart=measured.watch_restart,
            )
        )
        log.info("ready", runtime=version.name, runtime_version=version.version)
        ours_to_serve = served.ServedFile(chosen.served_store)
        with contextlib.suppress(_Stopped):
            async with tasks.Tasks() as group:
                hired = agent.Agent(ours, sources, group)
                hirings.append(hired)
                group.run_forever("agent", hired.run())
                group.run_forever("logs", rotated.run())
                group.start("left-commands", carried.end_left_commands())
                async with server.Server(hired, drivers, ours_to_serve).listen(chosen.socket):
                    _ = await stop.wait()
                    raise _Stopped
    log.info("stopped")
    return 0


class _Stopped(Exception):  # noqa: N818  (no error)
    """Leaves the group of tasks and cancels them."""


async def wait_for(runtime: ports.Runtime) -> ports.RuntimeVersion:
    """The runtime's version once it answers."""
    failures = 0
    deadline_s = asyncio.get_running_loop().time() + RUNTIME_WAIT_S
    while True:
        try:
            return await runtime.version()
        except ports.DriverError as error:
            if asyncio.get_running_loop().time() > deadline_s:
                text = f"cannot use the container runtime: {error}; is it running, and --cri-endpoint right?"
                raise errors.UserError(text) from error
            failures += 1
            await asyncio.sleep(BACKOFF.delay_s(failures))


async def drain_all(chosen: settings.Drain) -> int:
    async with cri.open_runtime(str(chosen.cri_endpoint)) as runtime:
        parent = cgroups.PodCgroups(chosen.cgroup_parent)
        try:
            problems = await drain.drain(runtime, parent, grace_s=chosen.grace_s)
            if not problems:
                await parent.remove_parent()
        except ports.DriverError as error:
            problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    main()
