"""Reading what the runtime holds of a pod: which attempt counts, whose turn it is, and what should run again.

Init containers run one after another, each to its success; those that are sidecars run on from their turn
until all others have ended. What a record tells of the order holds for the sandbox that it was made in: in a
new one everything begins anew.

Ported from pkg/kubelet/container/helpers.go (ShouldContainerBeRestarted) and pkg/kubelet/kuberuntime
(kuberuntime_container.go, computeInitContainerActions; kuberuntime_termination_order.go; util/util.go,
PodSandboxChanged), Kubernetes 1.36. Differs: a container that was created and never started is started as it
is, so that a crash of ours in between counts as no restart (attempts.py has the rest of it), and records of
init containers need not be removed with their sandbox.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from kci.kcilet import ports
from kci.kube import models

Phase = ports.ContainerPhase


def attempts_of(seen: ports.SeenPod, name: str) -> list[ports.SeenContainer]:
    """All records of a container, newest first."""
    found = [record for record in seen.containers if record.name == name]
    return sorted(found, key=lambda record: (record.attempt, record.created_at_ns), reverse=True)


def newest_of(seen: ports.SeenPod, name: str) -> ports.SeenContainer | None:
    return next(iter(attempts_of(seen, name)), None)


def ready_sandboxes(seen: ports.SeenPod) -> list[ports.SeenSandbox]:
    return [sandbox for sandbox in seen.sandboxes if sandbox.ready]


def newest_sandbox(seen: ports.SeenPod) -> ports.SeenSandbox | None:
    return max(seen.sandboxes, key=lambda box: (box.attempt, box.created_at_ns), default=None)


def current_sandbox(seen: ports.SeenPod) -> ports.SeenSandbox | None:
    """The sandbox to run containers in: the newest, if it lives and is the only one that does."""
    newest = newest_sandbox(seen)
    return newest if newest is not None and ready_sandboxes(seen) == [newest] else None


def live_containers(seen: ports.SeenPod) -> list[ports.SeenContainer]:
    return [record for record in seen.containers if record.phase in {Phase.RUNNING, Phase.UNKNOWN}]


def with_lost(seen: ports.SeenPod, lost: Collection[ports.ContainerId]) -> ports.SeenPod:
    """What the runtime shows as running though no process is left of it is in an unknown state."""
    containers = tuple(
        dataclasses.replace(one, phase=Phase.UNKNOWN)
        if one.id in lost and one.phase is Phase.RUNNING
        else one
        for one in seen.containers
    )
    return seen if containers == seen.containers else dataclasses.replace(seen, containers=containers)


def is_all_dead(seen: ports.SeenPod) -> bool:
    return not ready_sandboxes(seen) and all(record.phase is not Phase.RUNNING for record in seen.containers)


def is_kept_running(seen: ports.SeenPod, name: str) -> bool:
    newest, sandbox = newest_of(seen, name), current_sandbox(seen)
    return (
        newest is not None
        and sandbox is not None
        and newest.phase is Phase.RUNNING
        and newest.sandbox_id == sandbox.id
    )


def remembered_pod(seen: ports.SeenPod) -> models.Pod | None:
    """As much of a pod as the runtime remembers: enough to reach its containers, not to run them."""
    sandbox = newest_sandbox(seen)
    if sandbox is None:
        return None
    return models.Pod(
        metadata=models.ObjectMeta(name=sandbox.name, namespace=sandbox.namespace, uid=seen.pod_uid),
        spec=models.PodSpec(
            containers=tuple(
                models.Container(name=name) for name in sorted({one.name for one in seen.containers})
            )
        ),
    )


def restart_policy(pod: models.Pod, container: models.Container) -> str:
    return container.restart_policy or pod.spec.restart_policy


def is_init(pod: models.Pod, container: models.Container) -> bool:
    """Whether the container is to run to its success before the next one's turn."""
    return container in pod.spec.init_containers and not container.is_sidecar


def initialized(pod: models.Pod, seen: ports.SeenPod) -> int:
    """How many of the init containers have had their turn in the newest sandbox: they succeeded or, sidecars,
    run. Counted from the last one, because records of earlier ones may be gone.
    """
    steps, sandbox = pod.spec.init_containers, newest_sandbox(seen)
    if not steps or sandbox is None:
        return 0
    own = tuple(record for record in seen.containers if record.sandbox_id == sandbox.id)
    here = dataclasses.replace(seen, containers=own)
    if any(newest_of(here, container.name) is not None for container in pod.spec.containers):
        return len(steps)
    for number in range(len(steps), 0, -1):
        newest = newest_of(here, steps[number - 1].name)
        if newest is not None:
            return number if _has_had_its_turn(steps[number - 1], newest) else number - 1
    return 0


def _has_had_its_turn(container: models.Container, newest: ports.SeenContainer) -> bool:
    if container.is_sidecar:
        return newest.phase is Phase.RUNNING and newest.health.started
    return newest.phase is Phase.EXITED and newest.exit_code == 0


def having_turn(pod: models.Pod, seen: ports.SeenPod) -> tuple[models.Container, ...]:
    """The containers that may run now: the next init container or, after the last, all that are none; and the
    sidecars before.
    """
    steps = pod.spec.init_containers
    done = initialized(pod, seen) if current_sandbox(seen) is not None else 0
    sidecars = (one for one in steps[:done] if one.is_sidecar)
    following = steps[done : done + 1] if done < len(steps) else pod.spec.containers
    return (*sidecars, *following)


def should_run(pod: models.Pod, container: models.Container, seen: ports.SeenPod) -> bool:
    """Whether the container should be running (again), now or when it is its turn, back-off aside."""
    newest = newest_of(seen, container.name)
    if is_init(pod, container):
        if container in pod.spec.init_containers[: initialized(pod, seen)]:
            return False
        has_failed = newest is not None and newest.phase is Phase.EXITED and newest.exit_code != 0
        return not has_failed or pod.spec.restart_policy != "Never"
    if newest is None or newest.phase is not Phase.EXITED:
        return True
    policy = restart_policy(pod, container)
    # Whatever it ended with: what a probe has stopped did not succeed.
    has_failed = newest.exit_code != 0 or bool(newest.health.failed)
    return policy == "Always" or (policy == "OnFailure" and has_failed)


def is_over(pod: models.Pod, seen: ports.SeenPod) -> bool:
    """Whether the pod has run to its end by its restart policy: nothing of it will start any more but, if
    they were left alone, sidecars.
    """
    lost_sandbox = bool(seen.sandboxes) and current_sandbox(seen) is None
    if lost_sandbox and seen.containers and pod.spec.restart_policy == "Never":
        return True
    to_do = pod.spec.init_containers[initialized(pod, seen) :]
    if any(is_init(pod, container) and not should_run(pod, container, seen) for container in to_do):
        return True
    return all(not should_run(pod, container, seen) for container in pod.spec.containers)


def to_stop(pod: models.Pod | None, seen: ports.SeenPod) -> list[ports.SeenContainer]:
    """The live containers that may be stopped now, if the pod is to end: sidecars only after all others, and
    the last one first.
    """
    live, running = live_containers(seen), {one.name for one in seen.containers if one.phase is Phase.RUNNING}
    sidecars = sidecar_names(pod)
    may_end = running - set(sidecars) or {*[name for name in sidecars if name in running][-1:]}
    # What is in an unknown state may be without an end: nothing waits for it.
    return [record for record in live if record.phase is Phase.UNKNOWN or record.name in may_end]


def sidecar_names(pod: models.Pod | None) -> list[str]:
    return [] if pod is None else [one.name for one in pod.spec.init_containers if one.is_sidecar]


def server_status(pod: models.Pod, name: str) -> models.ContainerStatus | None:
    return next((one for one in pod.status.all_containers if one.name == name), None)


def logged_attempt(
    pod: models.Pod, container: models.Container, seen: ports.SeenPod, *, previous: bool
) -> int | None:
    """Whose log is meant; None if there is no such attempt. While a container waits for its restart, both
    the log and the previous one are the ended attempt's (validateContainerLogStatus in
    pkg/kubelet/kubelet_pods.go, 1.36).
    """
    started = [one for one in attempts_of(seen, container.name) if one.phase is not Phase.CREATED]
    if not started:
        return None
    newest = started[0]
    waits = newest.phase is Phase.EXITED and should_run(pod, container, seen)
    if not previous or waits:
        return newest.attempt
    return newest.attempt - 1 if newest.attempt > 0 else None


def next_attempt(pod: models.Pod, name: str, seen: ports.SeenPod) -> int:
    """The attempt's number, which is also the restart count: it must not fall when the runtime lost
    its records, as after a reinstallation of the machine.
    """
    newest, known = newest_of(seen, name), server_status(pod, name)
    attempt = 0 if newest is None else newest.attempt + 1
    if known is not None:
        has_run = known.state.running is not None or known.state.terminated is not None
        attempt = max(attempt, known.restart_count + (1 if has_run and newest is None else 0))
    return attempt
