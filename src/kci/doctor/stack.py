"""The questions about a stack that runs on this machine."""

from __future__ import annotations

import dataclasses

from kci.doctor import examination, threads
from kci.doctor.facts import kci as kci_facts
from kci.doctor.facts import stack as facts
from kci.doctor.findings import finding
from kci.doctor.findings import stack as findings
from kci.kit import clock, tasks
from kci.stack import parts, preparation, record, typed

AREA = "stack"
SUPERVISOR = "supervisor"


@dataclasses.dataclass(frozen=True)
class Questions:
    prepared: preparation.Prepared
    state: record.State
    # None before its node has its identity.
    service: kci_facts.Service | None

    @property
    def place(self) -> typed.Place:
        return typed.Place(self.prepared.asked)

    async def programs(self) -> examination.Found:
        """Each program of the stack lives, and is ready by its own probe."""
        probes = await threads.in_thread(facts.probes_of, self.prepared)
        processes = [one for one in self.state.parts if one.name not in parts.STEPS]
        asked = [facts.part(one, probes.get(one.name)) for one in processes]
        return [findings.judge_part(one, self.place) for one in await tasks.wait_all(asked, name="part")]

    async def links(self) -> examination.Found:
        """The gateway address, forwarding, and the routes that keep unused addresses on the machine."""
        return findings.judge_links(await threads.in_thread(facts.link_facts, self.prepared), self.place)

    async def subnets(self) -> examination.Found:
        """No subnet overlaps a network that the machine has by now."""
        if self.service is None:
            raise finding.NotAtHandError("the virtual node has no identity yet")
        reserved = await threads.in_thread(facts.reserved, self.prepared)
        return findings.judge_reserved(await self.service.subnets(), reserved, self.place)

    async def certificates(self) -> examination.Found:
        """No certificate of the state folder has ended, or ends within 30 days (half of a shorter life)."""
        seen = await threads.in_thread(facts.certificates, self.prepared.where)
        return findings.judge_certificates(seen, clock.SystemClock().now(), self.place)

    async def store(self) -> examination.Found:
        """One service holds the lock of its database."""
        return findings.judge_store(await threads.in_thread(facts.store, self.prepared.where), self.place)


ALL = {
    "programs": Questions.programs,
    "links and routes": Questions.links,
    "subnets": Questions.subnets,
    "certificates": Questions.certificates,
    "store": Questions.store,
}


def of_supervisor(place: typed.Place, seen: findings.Supervisor, problem: str) -> examination.Question:
    """`problem` is why the state folder cannot be used at all."""

    async def ask() -> examination.Found:
        if problem:
            remedy = "name another folder: --state-dir"
            return finding.of_sentence(finding.Level.WRONG, problem, otherwise=remedy)
        return findings.judge_supervisor(seen, place)

    return examination.Question(AREA, SUPERVISOR, ask)
