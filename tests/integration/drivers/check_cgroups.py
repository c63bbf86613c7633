"""The cgroup driver on this machine's hierarchies."""

import pathlib

from drivers import machine as machines

from kci.kcilet import ports
from kci.kube import models

ROOT = pathlib.Path("/sys/fs/cgroup")


def read(machine, started, v1, v2):
    is_v2 = (ROOT / "cgroup.controllers").exists()
    folder = ROOT if is_v2 else ROOT / v1.split(".")[0]
    return (folder / machine.cgroup / f"pod{started.pod.uid}" / (v2 if is_v2 else v1)).read_text().strip()


async def test_a_pods_limits_are_the_granted_size(machine):
    started = await machine.run("sleep", "1000", cpu_milli=500, memory_mib=64, pids=50)
    assert read(machine, started, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert read(machine, started, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert read(machine, started, "pids.max", "pids.max") == "50"


async def test_the_pods_memory_is_a_ceiling_for_a_container_without_a_limit(machine):
    started = await machine.run("tail", "/dev/zero", memory_mib=32)
    assert (await machine.ended(started)).exit_code == 137


async def test_a_fork_bomb_stays_in_its_pod(machine):
    started = await machine.run("sh", "-c", "for i in $(seq 100); do sleep 100 & done; wait", pids=20)
    await machine.ended(started)
    assert "can't fork" in await machine.log(started)


async def test_what_the_runtime_lost_is_ended_with_its_cgroup(machine):
    """A container's process that no runtime knows of any more must not go on."""
    pod_uid = machines.make_pod(models.Container(name="main")).uid
    parent = await machine.cgroups.ensure_cgroup(pod_uid, cpu_milli=0, memory_mib=0, pids=0)
    folder = next(path for path in (ROOT / "pids", ROOT) if path.exists()) / parent.strip("/") / "lost"
    folder.mkdir()
    with machines.process("sleep", "1000") as process:
        (folder / "cgroup.procs").write_text(str(process.pid))
        await machine.cgroups.remove_cgroup(pod_uid)
        assert process.wait(timeout=machines.WITHIN_S) == -9
    assert not folder.parent.exists()
    await machine.cgroups.remove_cgroup(pod_uid)


async def test_limits_may_be_said_again_and_changed(machine):
    started = await machine.run(
        "sleep", "1000", cpu_milli=500, resources=models.ResourceRequirements(limits={"cpu": "500m"})
    )
    for cpu_milli in (500, 1500):
        await machine.cgroups.ensure_cgroup(started.pod.uid, cpu_milli=cpu_milli, memory_mib=256, pids=9)
    assert read(machine, started, "cpu.cfs_quota_us", "cpu.max").split()[0] == "150000"
    assert (await machine.runtime.observe_pod(started.pod.uid)).containers[
        0
    ].phase == ports.ContainerPhase.RUNNING
