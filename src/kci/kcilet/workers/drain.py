"""Stopping everything in order, as before a reboot. Records of containers stay: at the next start the restart
policy decides from them what comes back.
"""

from __future__ import annotations

import structlog

from kci.kcilet import ports
from kci.kcilet.plan import records
from kci.kit import tasks

log = structlog.get_logger(__name__)


async def drain(runtime: ports.Runtime, cgroups: ports.Cgroups, *, grace_s: int) -> list[str]:
    """Stop all pods at once, each container with its own grace period but no more than this; returns what
    could not be stopped.
    """
    pods = await runtime.list_pods()
    log.info("draining", pods=len(pods))
    problems = await tasks.wait_all((_stop(runtime, cgroups, pod, grace_s) for pod in pods), name="drain")
    return [problem for problem in problems if problem]


async def _stop(runtime: ports.Runtime, cgroups: ports.Cgroups, pod: ports.SeenPod, grace_s: int) -> str:
    try:
        live = records.live_containers(pod)
        _ = await tasks.wait_all(
            (runtime.stop_container(one.id, min(one.grace_s, grace_s)) for one in live), name="stop container"
        )
        for sandbox in records.ready_sandboxes(pod):
            await runtime.stop_sandbox(sandbox.id)
        await cgroups.remove_cgroup(pod.pod_uid)
    except ports.DriverError as error:
        log.warning("pod not stopped", uid=pod.pod_uid, error=str(error))
        return str(error)
    return ""
