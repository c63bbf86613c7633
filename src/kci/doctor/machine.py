"""The questions about the machine on which `kci up` runs, or will."""

from __future__ import annotations

import dataclasses

from kci.doctor import examination
from kci.doctor.facts import machine as facts
from kci.doctor.findings import finding
from kci.doctor.findings import machine as findings
from kci.stack import layout, settings

AREA = "machine"


@dataclasses.dataclass(frozen=True)
class Questions:
    where: layout.Layout
    asked: settings.Settings

    async def privileges(self) -> examination.Found:
        return findings.judge_privileges(facts.user_id())

    async def programs(self) -> examination.Found:
        return findings.judge_tools(await examination.in_thread(facts.missing_tools))

    async def kernel(self) -> examination.Found:
        return findings.judge_kernel(*await examination.in_thread(facts.try_kernel))

    async def cgroups(self) -> examination.Found:
        seen = await examination.in_thread(facts.cgroup_facts)
        own = self.asked.own_containerd
        return findings.judge_cgroups(seen, own_containerd=own, handler=self.asked.runtime.value)

    async def containerd(self) -> examination.Found:
        if not self.asked.own_containerd:
            raise finding.NotAtHandError(f"--cri-endpoint names another, {self.asked.cri_endpoint}")
        return findings.judge_runtime(await examination.in_thread(facts.runtime, self.asked))

    async def memory(self) -> examination.Found:
        return findings.judge_memory(await examination.in_thread(facts.available_mib))

    async def disk(self) -> examination.Found:
        return findings.judge_space(await examination.in_thread(facts.space, self.where.root))

    async def inodes(self) -> examination.Found:
        return findings.judge_inodes(await examination.in_thread(facts.space, self.where.root))

    async def processes(self) -> examination.Found:
        return findings.judge_pids(await examination.in_thread(facts.pids))

    async def clock(self) -> examination.Found:
        return findings.judge_clock(await examination.in_thread(facts.clock))

    async def firewalls(self) -> examination.Found:
        return findings.judge_firewalls(await examination.in_thread(facts.firewalls, self.where))

    async def ranges(self) -> examination.Found:
        problem, pods, services = await examination.in_thread(facts.ranges, self.where, self.asked)
        return findings.judge_ranges(problem, pods=pods, services=services)


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
