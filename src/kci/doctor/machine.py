"""The questions about the machine on which `kci up` runs, or will."""

from __future__ import annotations

import dataclasses
import pathlib

from kci.doctor import examination, threads
from kci.doctor.facts import machine as facts
from kci.doctor.findings import finding
from kci.doctor.findings import machine as findings
from kci.stack import commands, layout, probes, settings, typed

AREA = "machine"


@dataclasses.dataclass(frozen=True)
class Questions:
    where: layout.Layout
    asked: settings.Settings

    @property
    def place(self) -> typed.Place:
        return typed.Place(self.asked)

    async def privileges(self) -> examination.Found:
        """We are root."""
        return findings.judge_privileges(facts.user_id(), self.place)

    async def programs(self) -> examination.Found:
        """The programs that `kci up` calls are installed."""
        return findings.judge_tools(await threads.in_thread(facts.missing_tools))

    async def kernel(self) -> examination.Found:
        """Nftables and queues have what pods' networks need; each is tried."""
        _demand_root()
        return findings.judge_kernel(*await threads.in_thread(facts.try_kernel))

    async def cgroups(self) -> examination.Found:
        """Version, controllers `cpu`, `memory` and `pids`, and both versions mounted at once."""
        return findings.judge_cgroups(await threads.in_thread(facts.cgroup_facts), self.place)

    async def containerd(self) -> examination.Found:
        """The container runtime is there: containerd, and crun or runc, in versions that do."""
        if not self.asked.own_containerd:
            answer = await probes.ask(commands.SocketProbe(pathlib.Path(self.asked.cri_endpoint)))
            return findings.judge_cri(self.asked.cri_endpoint, answer)
        return findings.judge_runtime(await threads.in_thread(facts.runtime, self.asked))

    async def memory(self) -> examination.Found:
        """At least 1 GiB is available (wrong below 100 MiB)."""
        return findings.judge_memory(await threads.in_thread(facts.available_mib))

    async def disk(self) -> examination.Found:
        """A tenth of the state folder's file system is free (wrong below 256 MiB)."""
        return findings.judge_space(await threads.in_thread(facts.space, self.where.root))

    async def inodes(self) -> examination.Found:
        """A twentieth of its inodes is free (wrong below 1000)."""
        return findings.judge_inodes(await threads.in_thread(facts.space, self.where.root))

    async def processes(self) -> examination.Found:
        """Processes and threads are below 80 % of what the machine and our cgroup allow."""
        return findings.judge_pids(await threads.in_thread(facts.pids))

    async def clock(self) -> examination.Found:
        """The kernel says that somebody keeps the clock right."""
        return findings.judge_clock(await threads.in_thread(facts.clock))

    async def firewalls(self) -> examination.Found:
        """No firewall of others drops pods' traffic."""
        _demand_root()
        return findings.judge_firewalls(await threads.in_thread(facts.firewalls, self.where, self.place))

    async def ranges(self) -> examination.Found:
        """No route of the machine is in the way of the ranges of pods and Services."""
        problem, pods, services = await threads.in_thread(facts.ranges, self.where, self.asked)
        return findings.judge_ranges(problem, self.place, pods=pods, services=services)


def _demand_root() -> None:
    if facts.user_id() != 0:
        raise finding.NotAtHandError("only root may ask the kernel")


ALL = {
    "privileges": Questions.privileges,
    "programs": Questions.programs,
    "kernel": Questions.kernel,
    "cgroups": Questions.cgroups,
    "containerd": Questions.containerd,
    "memory": Questions.memory,
    "disk": Questions.disk,
    "inodes": Questions.inodes,
    "processes": Questions.processes,
    "clock": Questions.clock,
    "firewalls": Questions.firewalls,
    "address ranges": Questions.ranges,
}
