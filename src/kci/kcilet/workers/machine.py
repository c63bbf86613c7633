"""What all workers share: the drivers, the limits, and what bounds how much runs at once."""

from __future__ import annotations

import asyncio
import dataclasses

from kci.kcilet import ports
from kci.kcilet.workers import places, proxy
from kci.kit import clock, observing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drivers:
    runtime: ports.Runtime
    volumes: ports.Volumes
    network: ports.Network
    cgroups: ports.Cgroups
    logs: ports.LogFolders
    streams: ports.Streams
    probes: ports.Probes
    stats: ports.Stats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    # Pods being started at once (workers/places.py).
    starts: int = 4
    # How long a pod being started counts as one of them.
    start_place_s: float = 3.0
    # Images being pulled at once; a kubelet's maxParallelImagePulls is this in many clusters.
    pulls: int = 5
    # A start without trouble that is done within this time costs one status write instead of two.
    quiet_start_s: float = 2.0
    # Once told, a start without trouble is not told again before this: its next steps mostly are its last.
    told_start_s: float = 30.0
    # Probes run at once, beside commands: each waits for its answer for as long as its timeout.
    checks: int = 2048
    # Commands of probes run at once: each is a process that the runtime starts.
    commands: int = 64
    # How often everything is looked at again, should an event have been lost.
    relist_s: float = 30.0
    # How often it is looked whether what should run has processes: at two looks without any it is lost.
    processes_s: float = 10.0
    # Processes and threads of one pod.
    pids: int = 1024
    # How long a pod's end waits for its final status to reach the API server.
    final_status_s: float = 10.0
    # How long one look at the source for a pod's data may take.
    fetch_s: float = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observers:
    """Who is told of what is done here, to measure and trace it."""

    # How long after a pod was wanted it came so far.
    start_phase: observing.OnTime = observing.no_time
    # Which probe, and what came of it, in the kubelet's words: successful, failed or unknown.
    probe: observing.OnCount = observing.no_count
    orphan: observing.OnCount = observing.no_count
    watch_restart: observing.OnCount = observing.no_count
    # Of pods' starts.
    tracer: observing.Tracer = observing.NO_TRACER


NOBODY = Observers()


class Machine:
    """Made once, in main.py."""

    def __init__(
        self,
        drivers: Drivers,
        *,
        limits: Limits | None = None,
        runtime_handler: str = "",
        runtime_name: str = "containerd",
        services: proxy.Settings | None = None,
        clock: clock.Clock,
        observed: Observers = NOBODY,
    ) -> None:
        self.observed = observed
        self.drivers = drivers
        self.limits = limits or Limits()
        self.runtime_handler = runtime_handler
        # Stands before container ids in a pod's status.
        self.runtime_name = runtime_name
        self.places = places.Places(self.limits.starts, counts_for_s=self.limits.start_place_s)
        self.pulls = asyncio.Semaphore(self.limits.pulls)
        self.proxy = proxy.Proxy(drivers.network, services)
        self.checks = asyncio.Semaphore(self.limits.checks)
        self.commands = asyncio.Semaphore(self.limits.commands)
        self._clock = clock

    @property
    def shows_processes(self) -> bool:
        """Whether a container's processes are this machine's: a virtual machine's are not."""
        return self.runtime_handler in {"", "runc", "crun"}

    def now_s(self) -> float:
        return self._clock.now().timestamp()
