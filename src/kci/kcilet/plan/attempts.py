"""Attempts that never came to a run, because a kcilet or the runtime ended in the middle of a start.

They are no restarts and nobody is told of them: they are removed, and the same attempt is made again. A
kubelet counts them. A container that was made in the sandbox that lives is not among them: it only has to
be started.
"""

from __future__ import annotations

import dataclasses

from kci.kcilet import ports
from kci.kcilet.plan import actions, histories, records
from kci.kube import models


def void(pod: models.Pod, seen: ports.SeenPod, history: histories.History) -> list[ports.SeenContainer]:
    """The newest records of containers, where they tell of no attempt."""
    newest = [records.newest_of(seen, container.name) for container in pod.spec.all_containers]
    return [record for record in newest if record is not None and _is_void(pod, record, seen, history)]


def without_void(pod: models.Pod, seen: ports.SeenPod, history: histories.History) -> ports.SeenPod:
    """What is to be decided from and told."""
    gone = void(pod, seen, history)
    if not gone:
        return seen
    return dataclasses.replace(seen, containers=tuple(one for one in seen.containers if one not in gone))


def _is_void(
    pod: models.Pod, record: ports.SeenContainer, seen: ports.SeenPod, history: histories.History
) -> bool:
    if record.phase is records.Phase.CREATED:
        sandbox = records.current_sandbox(seen)
        return sandbox is None or record.sandbox_id != sandbox.id
    if record.phase is not records.Phase.EXITED or record.started_at_ns:
        return False
    # The runtime gave the start up. A start that failed by itself is known of: in this life or at the server.
    failure = history.failures.get(actions.container_subject(record.name))
    return (failure is None or not failure.reason) and not _is_told(pod, record)


def _is_told(pod: models.Pod, record: ports.SeenContainer) -> bool:
    known = records.server_status(pod, record.name)
    if known is None:
        return False
    ends = (known.state.terminated, known.last_state.terminated)
    told = [known.container_id, *(end.container_id for end in ends if end is not None)]
    return any(identifier.endswith(f"://{record.id}") for identifier in told)
