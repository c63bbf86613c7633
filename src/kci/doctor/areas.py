"""All areas of a subject, asked at once."""

from __future__ import annotations

import contextlib

from kci.doctor import cluster, examination, kci, machine, node, stack
from kci.doctor import subject as subjects
from kci.doctor.facts import cluster as cluster_facts
from kci.doctor.facts import kci as kci_facts
from kci.doctor.findings import finding


async def examine(subject: subjects.Subject) -> list[finding.Answer]:
    async with contextlib.AsyncExitStack() as opened:
        told, reached, service = subject.node, None, None
        if told is not None and subject.cluster is not None:
            reached = await opened.enter_async_context(
                cluster_facts.Cluster(
                    subject.cluster, told.config, told.service_account, told.unread_identity
                )
            )
        if told is not None and told.is_told:
            service = await opened.enter_async_context(kci_facts.Service(told.settings, reached))
        return await examination.examine(_questions(subject, reached, service))


def _questions(
    subject: subjects.Subject, reached: cluster_facts.Cluster | None, service: kci_facts.Service | None
) -> list[examination.Question]:
    found, told, why = subject.stack, subject.node, subject.why_not
    of_machine = machine.Questions(found.where, found.asked) if found is not None else None
    of_stack, of_cluster, of_node, of_kci = None, None, None, None
    if found is not None and found.prepared is not None and found.supervisor.state is not None:
        of_stack = stack.Questions(found.prepared, found.supervisor.state, service)
    if told is not None and reached is not None:
        of_cluster = cluster.Questions(reached, told)
        of_node = node.Questions(reached, told, subject.is_here)
    if told is not None and service is not None:
        of_kci = kci.Questions(service, told)
    questions = examination.of(machine.AREA, of_machine, machine.ALL, why=why.machine)
    if found is not None:
        questions.append(stack.of_supervisor(found.place, found.supervisor, found.problem))
    questions += examination.of(stack.AREA, of_stack, stack.ALL, why=why.stack)
    questions += examination.of(
        cluster.AREA, of_cluster, cluster.ALL, why=why.cluster, limit_s=cluster.LIMIT_S
    )
    questions += examination.of(node.AREA, of_node, node.ALL, why=why.cluster, limit_s=cluster.LIMIT_S)
    questions += examination.of(kci.AREA, of_kci, kci.ALL, why=why.kci, limit_s=kci.LIMIT_S)
    return questions
