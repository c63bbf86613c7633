"""Carrying out one action through the ports. All is safe to repeat; errors go to the worker, which plans."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from kci.kcilet import ports
from kci.kcilet.plan import actions, events, identity
from kci.kcilet.workers import inputs, machine
from kci.kit import crashpoints, tasks
from kci.kube import dns, models
from kci.link import types as link
from kci.source import port

T = TypeVar("T")
ConfigError = inputs.ConfigError
MESSAGE_LIMIT = 4096
MESSAGE_LOG_LINES = 80
MESSAGE_LOG_LIMIT = 2048
MESSAGE_TIMEOUT_S = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Whose action it is."""

    uid: models.PodUid
    # Absent for orphans, of which things are only stopped and removed.
    group: link.WantedGroup | None
    source: port.PodSource | None
    pod: models.Pod | None
    image: ports.ImageRef | None
    tell: Callable[[events.Event], None]
    # For what does not change while the pod lives, however often its sandbox is made.
    tell_once: Callable[[events.Event], None]
    pulling: Callable[[str], None]

    def wanted(self) -> inputs.Wanted:
        assert self.group is not None
        assert self.source is not None
        assert self.pod is not None
        return inputs.Wanted(self.group, self.source, self.pod)


def touches_runtime(action: actions.Action) -> bool:
    """Whether the runtime shows something else afterwards."""
    return not isinstance(action, actions.PrepareVolumes | actions.EnsureImage | actions.RemoveLeftovers)


async def carry_out(machine: machine.Machine, action: actions.Action, job: Job) -> ports.ImageRef | None:
    runtime = machine.drivers.runtime
    match action:
        case actions.PrepareVolumes():
            await _prepare_volumes(machine, job.wanted())
        case actions.EnsureImage():
            return await _ensure_image(machine, action, job)
        case actions.RunSandbox():
            await _run_sandbox(machine, action, job)
        case actions.LimitTraffic(limits=limits):
            crashpoints.reached("kcilet.limit_traffic.before")
            await machine.drivers.network.limit_traffic(job.uid, limits)
            crashpoints.reached("kcilet.limit_traffic.after")
        case actions.StartContainer():
            await _start_container(machine, action, job)
        case actions.StopContainer():
            if action.message:
                job.tell(events.killing(action))
            await _stop_container(runtime, action)
        case actions.StopSandbox():
            await _stop_sandbox(runtime, action)
        case actions.RemoveContainer():
            await _remove_container(machine, action)
        case actions.RemoveSandbox():
            await _remove_sandbox(runtime, action)
        case actions.RemoveLeftovers():
            await _remove_leftovers(machine, job.uid)
    return None


async def _prepare_volumes(machine: machine.Machine, wanted: inputs.Wanted) -> None:
    volumes = machine.drivers.volumes
    async with asyncio.timeout(machine.limits.fetch_s):
        content, problems = await inputs.volumes_of(wanted)
    # Not to be cut off half-way: what a thread still writes could not be removed afterwards.
    crashpoints.reached("kcilet.volumes.before")
    await _whole(volumes.ensure_volumes(wanted.pod.uid, content))
    crashpoints.reached("kcilet.volumes.after")
    if problems:
        # The other volumes are right all the same, as with a kubelet.
        raise inputs.ConfigError("; ".join(problems))


async def _ensure_image(machine: machine.Machine, action: actions.EnsureImage, job: Job) -> ports.ImageRef:
    runtime, loop = machine.drivers.runtime, asyncio.get_running_loop()
    if action.policy != "Always":
        found = await runtime.find_image(action.image)
        if found is not None:
            job.tell(events.already_present(action))
            return found
    if action.policy == "Never":
        text = f'Container image "{action.image}" is not present with pull policy of Never'
        raise ports.ImagePullError("ErrImageNeverPull", text)
    job.pulling(action.container)
    job.tell(events.pulling(action))
    began_s = loop.time()
    auths = await inputs.registry_auths(job.wanted())
    async with machine.pulls:
        pull_began_s = loop.time()
        crashpoints.reached("kcilet.pull_image.before")
        pulled = await runtime.pull_image(action.image, auths)
        crashpoints.reached("kcilet.pull_image.after")
    now_s = loop.time()
    job.tell(
        events.pulled(
            action,
            pull_s=now_s - pull_began_s,
            total_s=now_s - began_s,
            size_bytes=pulled.size_bytes,
        )
    )
    return pulled


async def _run_sandbox(machine: machine.Machine, action: actions.RunSandbox, job: Job) -> None:
    drivers, wanted = machine.drivers, job.wanted()
    group, pod = wanted.group, wanted.pod
    resolved = dns.resolve(
        pod,
        cluster_dns=group.cluster_dns,
        cluster_domain=group.cluster_domain,
        machine=dns.of_machine(group.machine_dns, group.machine_searches, group.machine_options),
    )
    for note in resolved.notes:
        job.tell(events.warning(note.reason, note.message))
    outlook = await _outlook_on_services(machine, job) if group.kube_proxy else ""
    resolver = resolved.resolver
    if not group.kube_proxy:
        _warn_of_services(wanted.source, resolver.servers, job.tell_once)
    crashpoints.reached("kcilet.cgroup.before")
    cgroup = await drivers.cgroups.ensure_cgroup(
        pod.uid, cpu_milli=group.cpu_milli, memory_mib=group.memory_mib, pids=machine.limits.pids
    )
    crashpoints.reached("kcilet.cgroup.after")
    drivers.network.expect(pod.uid, group.interface, action.limits, outlook=outlook)
    spec = ports.SandboxSpec(
        pod=pod,
        group_id=group.group_id,
        attempt=action.attempt,
        hostname=identity.sandbox_hostname(pod, group.cluster_domain),
        log_directory=drivers.logs.log_directory(pod),
        cgroup_parent=cgroup,
        dns=ports.DnsConfig(resolver.servers, resolver.searches, resolver.options),
        runtime_handler=machine.runtime_handler,
    )
    crashpoints.reached("kcilet.run_sandbox.before")
    _ = await drivers.runtime.run_sandbox(spec)
    crashpoints.reached("kcilet.run_sandbox.after")


async def _outlook_on_services(machine: machine.Machine, job: Job) -> str:
    """The first pod of a cluster waits for its rules. It starts without them if they cannot be had soon."""
    services = job.wanted().source.services
    if not await machine.proxy.first_rules(services) and not services.problem:
        job.tell(events.services_not_known("the cluster has not listed them yet"))
    return services.outlook


def _reaches_services(machine: machine.Machine, wanted: inputs.Wanted) -> bool:
    """Whether they are known, and the kernel took the rules for them."""
    return wanted.group.kube_proxy and machine.proxy.has_rules(wanted.source.services)


def _warn_of_services(
    source: port.PodSource, servers: Iterable[str], tell: Callable[[events.Event], None]
) -> None:
    """Have it told, without waiting, which DNS servers are Services that the pod does not reach."""
    for address in servers:
        source.name_service(address, functools.partial(_warn_of_service, tell, address))


def _warn_of_service(tell: Callable[[events.Event], None], address: str, service: str) -> None:
    tell(events.dns_not_reachable(address, service))


async def _start_container(machine: machine.Machine, action: actions.StartContainer, job: Job) -> None:
    runtime = machine.drivers.runtime
    container_id = action.created
    if container_id is None:
        assert job.image is not None
        async with asyncio.timeout(machine.limits.fetch_s):
            spec = await inputs.container_spec(
                machine.drivers.volumes,
                job.wanted(),
                action,
                job.image,
                reaches_services=_reaches_services(machine, job.wanted()),
            )
        crashpoints.reached("kcilet.create_container.before")
        container_id = await runtime.create_container(action.sandbox_id, spec)
        crashpoints.reached("kcilet.create_container.after")
        job.tell(events.created(action.container))
    crashpoints.reached("kcilet.start_container.before")
    await runtime.start_container(container_id)
    crashpoints.reached("kcilet.start_container.after")
    job.tell(events.started(action.container))


async def _stop_container(runtime: ports.Runtime, action: actions.StopContainer) -> None:
    crashpoints.reached("kcilet.stop_container.before")
    await runtime.stop_container(action.container_id, action.grace_s)
    crashpoints.reached("kcilet.stop_container.after")


async def _stop_sandbox(runtime: ports.Runtime, action: actions.StopSandbox) -> None:
    crashpoints.reached("kcilet.stop_sandbox.before")
    await runtime.stop_sandbox(action.sandbox_id)
    crashpoints.reached("kcilet.stop_sandbox.after")


async def _remove_container(machine: machine.Machine, action: actions.RemoveContainer) -> None:
    crashpoints.reached("kcilet.remove_container.before")
    # First: without the record nobody knows of the log. The runtime itself never removes one.
    if action.log_path:
        await machine.drivers.logs.remove_log(action.log_path)
    await machine.drivers.runtime.remove_container(action.container_id)
    crashpoints.reached("kcilet.remove_container.after")


async def _remove_sandbox(runtime: ports.Runtime, action: actions.RemoveSandbox) -> None:
    crashpoints.reached("kcilet.remove_sandbox.before")
    await runtime.remove_sandbox(action.sandbox_id)
    crashpoints.reached("kcilet.remove_sandbox.after")


async def _remove_leftovers(machine: machine.Machine, uid: models.PodUid) -> None:
    drivers = machine.drivers
    crashpoints.reached("kcilet.remove_network.before")
    await drivers.network.remove_network(uid)
    crashpoints.reached("kcilet.remove_network.after")
    await drivers.cgroups.remove_cgroup(uid)
    crashpoints.reached("kcilet.remove_cgroup.after")
    await drivers.logs.remove_logs(uid)
    crashpoints.reached("kcilet.remove_logs.after")
    # Last: its folder is what a cleaning up after a crash finds the pod by.
    await drivers.volumes.remove_volumes(uid)
    crashpoints.reached("kcilet.remove_volumes.after")


async def read_message(machine: machine.Machine, pod: models.Pod, record: ports.SeenContainer) -> str:
    """What a container left as its last words (terminationMessagePath and -Policy); empty if nothing."""
    container = next((one for one in pod.spec.all_containers if one.name == record.name), None)
    if container is None:
        return ""
    try:
        async with asyncio.timeout(MESSAGE_TIMEOUT_S):
            file = inputs.message_file(record.name, record.attempt)
            told = await machine.drivers.volumes.read_file(pod.uid, file, limit=MESSAGE_LIMIT)
            wants_log = container.termination_message_policy == "FallbackToLogsOnError"
            if not told and wants_log and record.exit_code != 0 and record.started_at_ns:
                told = await _log_end(machine, pod, record)
    except ports.DriverError as error:
        return f"Error on reading termination log: {error}"
    except TimeoutError:
        return "Error on reading termination log: no answer in time"
    return told.decode(errors="replace")


async def _log_end(machine: machine.Machine, pod: models.Pod, record: ports.SeenContainer) -> bytes:
    options = link.LogOptions(tail_lines=MESSAGE_LOG_LINES)
    folder = machine.drivers.logs.log_directory(pod)
    text = b""
    async for part in machine.drivers.streams.log(folder, record.name, options, attempt=record.attempt):
        text = (text + part)[-MESSAGE_LOG_LIMIT:]
    return text


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Finish what was begun even if it is not wanted any more."""
    async with tasks.Tasks() as group:
        task = group.spawn("whole", work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            _ = await asyncio.wait([task])
            raise
