"""The volumes driver as a container sees it."""

import asyncio
import pathlib

import pytest
from drivers import machine as machines

from kci.kcilet import ports
from kci.kube import models


def content(text, **options):
    file = ports.VolumeFile(path="key", content=text.encode(), **options)
    return ports.ContentVolume(name="config", files=(file,), in_memory=True)


async def test_new_content_replaces_the_old_under_a_running_container(machine):
    pod = machines.make_pod(models.Container(name="main", command=("sleep", "1000")))
    await machine.volumes.ensure_volumes(pod.uid, [content("old")])
    mount = ports.Mount("/config", machine.volumes.host_path(pod.uid, "config"), read_only=True)
    started = await machine.run_pod(pod, mounts=(mount,))
    assert await machine.ask(started, "cat", "/config/key") == "old"
    await machine.volumes.ensure_volumes(pod.uid, [content("new", mode=0o400)])
    assert await machine.ask(started, "cat", "/config/key") == "new"
    listed = await machine.ask(started, "ls", "-lL", "/config/key")
    assert listed.startswith("-r--------")
    assert "tmpfs" in await machine.ask(started, "grep", "/config", "/proc/mounts")


async def test_a_volume_in_memory_has_its_size_and_is_shared(machine):
    pod = machines.make_pod(models.Container(name="main", command=("sleep", "1000")))
    volume = ports.EmptyDir(name="scratch", in_memory=True, size_limit_bytes=1 << 20, fs_group=55)
    await machine.volumes.ensure_volumes(pod.uid, [volume])
    mount = ports.Mount("/scratch", machine.volumes.host_path(pod.uid, "scratch"))
    started = await machine.run_pod(pod, mounts=(mount,))
    answer = await machine.ask(
        started, "sh", "-c", "head -c 2097152 /dev/zero > /scratch/big; wc -c < /scratch/big"
    )
    assert int(answer) == 1 << 20
    assert (await machine.ask(started, "stat", "-c", "%g %a", "/scratch")).split() == ["55", "2777"]


async def test_a_link_made_by_a_container_leads_no_sub_path_out(machine):
    pod = machines.make_pod(models.Container(name="main", command=("sleep", "1000")))
    await machine.volumes.ensure_volumes(pod.uid, [ports.EmptyDir(name="data")])
    mount = ports.Mount("/data", machine.volumes.host_path(pod.uid, "data"))
    started = await machine.run_pod(pod, mounts=(mount,))
    script = "ln -s / out; ln -s ../../.. up; mkdir real; echo in > real/file; ln -s real in"
    await machine.ask(started, "sh", "-c", f"cd /data; {script}")
    for path in ("out", "out/etc", "up", "up/pods"):
        with pytest.raises(ports.DriverError, match="cannot resolve"):
            await machine.volumes.ensure_sub_path(pod.uid, "data", path)
    bound = pathlib.Path(await machine.volumes.ensure_sub_path(pod.uid, "data", "in"))
    assert (bound / "file").read_text() == "in\n"
    # What is bound stays what it was, whatever the container makes of the path.
    await machine.ask(started, "sh", "-c", "rm /data/in; ln -s /etc /data/in")
    assert (bound / "file").read_text() == "in\n"


async def test_a_container_that_swaps_a_folder_for_a_link_all_the_time_gets_nothing(machine):
    pod = machines.make_pod(models.Container(name="main", command=("sleep", "1000")))
    await machine.volumes.ensure_volumes(pod.uid, [ports.EmptyDir(name="data")])
    mount = ports.Mount("/data", machine.volumes.host_path(pod.uid, "data"))
    swap = "mv -T real x; mv -T link real; mv -T real link; mv -T x real"
    script = f"cd /data; mkdir -p real/sub; ln -s /etc link; while :; do {swap}; done"
    pod = machines.with_command(pod, "sh", "-c", script)
    await machine.run_pod(pod, mounts=(mount,))
    loop = asyncio.get_running_loop()
    until, resolved = loop.time() + 2, 0
    while loop.time() < until:
        try:
            bound = pathlib.Path(await machine.volumes.ensure_sub_path(pod.uid, "data", "real"))
        except ports.DriverError:
            continue
        resolved += 1
        assert not (bound / "passwd").exists()
    assert resolved > 0
