"""How small programs end, and what is told of it: the kubelet's answer each time, and not a process left."""

import dataclasses
import pathlib

import msgspec
import node_world
import pytest
from node_world import node, until

from kci.kube import models
from kci.link import types as link

__all__ = ["node"]

GRACE_S = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and the kubelet's answer. `deleted`: it is deleted once it has said that it runs."""

    script: str
    exit_code: int
    reason: str
    deleted: bool = False
    memory: str = ""
    message: str = ""


# What says that it runs, where a deletion is to meet it.
RUNS = "touch /tmp/up; "
EAT = "a=x; while :; do a=$a$a; done"
# A kubelet's own escape halves the dollar signs of a command.
CASES = {
    "exits 0": Case("exit 0", 0, "Completed"),
    "exits 1": Case("exit 1", 1, "Error"),
    "exits 42 with last words": Case(
        "echo bye > /dev/termination-log; exit 42", 42, "Error", message="bye\n"
    ),
    "exits 126, as a shell that may not run": Case("/etc/passwd", 126, "Error"),
    "exits 127, as a shell that finds nothing": Case("/no/such/program", 127, "Error"),
    "exits 137 by itself": Case("exit 137", 137, "Error"),
    "exits 143 by itself": Case("exit 143", 143, "Error"),
    "exits 255": Case("exit 255", 255, "Error"),
    "exits 256, which is 0": Case("exit 256", 0, "Completed"),
    "a child dies of TERM": Case("sh -c 'kill -TERM $$$$'; exit $?", 143, "Error"),
    "a child dies of SEGV": Case("sh -c 'kill -SEGV $$$$'; exit $?", 139, "Error"),
    "a child dies of KILL and is not minded": Case("sh -c 'kill -KILL $$$$'; exit 0", 0, "Completed"),
    "eats too much memory": Case(f"exec sh -c '{EAT}'", 137, "OOMKilled", memory="24Mi"),
    "serves TERM": Case(f"trap 'exit 3' TERM; {RUNS}sleep 1000 & wait", 3, "Error", deleted=True),
    "serves TERM with success": Case(
        f"trap 'exit 0' TERM; {RUNS}sleep 1000 & wait", 0, "Completed", deleted=True
    ),
    "ignores TERM": Case(f"trap '' TERM; {RUNS}while :; do sleep 0.1; done", 137, "Error", deleted=True),
    "its child ignores TERM and outlives it": Case(
        f"trap 'exit 5' TERM; (trap '' TERM; {RUNS}while :; do sleep 0.1; done) & wait",
        5,
        "Error",
        deleted=True,
    ),
    "exceeds its grace": Case(
        f"trap 'sleep 60; exit 0' TERM; {RUNS}while :; do sleep 0.1; done", 137, "Error", deleted=True
    ),
    "leaves a storm of zombies": Case(
        f"for i in $(seq 200); do sh -c 'sh -c true &' ; done; {RUNS}exec sleep 1000",
        137,
        "Error",
        deleted=True,
    ),
    "forks twice and goes": Case("sh -c '(setsid sleep 1000 &) &'; sleep 0.2; exit 9", 9, "Error"),
}


def add(node, case):
    group = node.add(case.script, policy="Never", termination_grace_period_seconds=GRACE_S)
    if case.memory:
        pod = node.cluster.pods[group.pod_uid]
        resources = models.ResourceRequirements(limits={"memory": case.memory})
        (container,) = pod.spec.containers
        containers = (msgspec.structs.replace(container, resources=resources),)
        node.cluster.put(
            msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, containers=containers))
        )
    return group


def processes(group):
    """All that runs in the pod's cgroup: not in its containers' alone."""
    found = []
    for folder in pathlib.Path("/sys/fs/cgroup/pids").rglob(f"pod{group.pod_uid}"):
        for file in folder.rglob("cgroup.procs"):
            found += file.read_text().split()
    return found


def is_up(group):
    """Whether the program has said so, in its own mount namespace."""
    return any(pathlib.Path(f"/proc/{pid}/root/tmp/up").exists() for pid in processes(group))


@pytest.mark.parametrize("name", CASES)
async def test_an_end_is_told_as_a_kubelet_tells_it(node, name):
    case = CASES[name]
    async with node.kcilet():
        group = add(node, case)
        node.agent.sync((group,))
        if case.deleted:
            await until(lambda: node.app(group) is not None and is_up(group))
            node.cluster.delete(group.pod_uid, grace_s=GRACE_S)
        await until(lambda: node.status(group).phase in {"Succeeded", "Failed"})
        ended = node.app(group).state.terminated
        assert (ended.exit_code, ended.reason, ended.message) == (case.exit_code, case.reason, case.message)
        assert node.status(group).phase == ("Succeeded" if case.exit_code == 0 else "Failed")
        await until(lambda: not processes(group))
        if case.deleted:
            await until(lambda: node.phase(group) is link.Phase.GONE)
    assert node_world.WITHIN_S > GRACE_S
