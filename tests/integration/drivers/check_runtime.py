"""The CRI driver on a real containerd."""

import asyncio
import contextlib

import pytest
from drivers import machine as machines

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import cri
from kci.kit import tasks
from kci.kube import models

MIB = 1 << 20


async def test_a_container_runs_to_its_end_and_is_seen_to(machine):
    started = await machine.run("sh", "-c", "echo hello; echo oops >&2; exit 3")
    seen = await machine.ended(started)
    assert (seen.exit_code, seen.reason, seen.attempt) == (3, "Error", 0)
    assert 0 < seen.created_at_ns <= min(seen.started_at_ns, seen.finished_at_ns)
    assert "busybox" in seen.image
    assert seen.image_id
    assert sorted((await machine.log(started)).splitlines()) == ["hello", "oops"]


async def test_the_sandbox_tells_whose_it_is(machine):
    started = await machine.sandbox()
    (seen,) = await machine.runtime.list_pods()
    assert seen.pod_uid == started.pod.uid
    (sandbox,) = seen.sandboxes
    assert sandbox.ready
    assert (sandbox.name, sandbox.namespace) == (started.pod.metadata.name, "default")
    assert (sandbox.group_id, sandbox.address) == ("group-1", started.interface.address)


async def test_an_exit_wakes_whoever_follows_the_events(machine):
    woken = asyncio.Event()
    wanted = set()

    async def follow():
        async for event in machine.runtime.events():
            if event.pod_uid in wanted:
                woken.set()

    async with tasks.background("events", follow()):
        started = await machine.run("sleep", "1000")
        wanted.add(started.pod.uid)
        await asyncio.sleep(0)
        woken.clear()
        await machine.runtime.stop_container(started.container_id, 0)
        async with asyncio.timeout(machines.WITHIN_S):
            await woken.wait()
    assert (await machine.ended(started)).exit_code == 137


async def test_too_much_memory_is_told_as_such(machine):
    limited = models.ResourceRequirements(limits={"memory": "32Mi"})
    started = await machine.run("tail", "/dev/zero", resources=limited)
    seen = await machine.ended(started)
    assert (seen.reason, seen.exit_code) == ("OOMKilled", 137)


async def test_a_signal_that_is_served_gives_its_own_exit_code(machine):
    started = await machine.run("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    log = machine.streams.log(started.log_directory, "main", machines.link.LogOptions(follow=True))
    async with contextlib.aclosing(log) as parts:
        assert await anext(parts) == b""
        assert await anext(parts) == b"ready\n"
    await machine.runtime.stop_container(started.container_id, 10)
    assert (await machine.ended(started)).exit_code == 5


async def test_a_container_gets_what_its_spec_says(machine):
    started = await machine.run(
        "sleep", "1000",
        cpu_milli=500,
        working_dir="/tmp",
        resources=models.ResourceRequirements(limits={"cpu": "2", "memory": "64Mi"}),
        security_context=models.SecurityContext(
            run_as_user=1234, run_as_group=77, allow_privilege_escalation=False,
            capabilities=models.Capabilities(drop=("ALL",)),
        ),
        pod_spec={"security_context": models.PodSecurityContext(supplemental_groups=(4,), fs_group=99)},
    )  # fmt: skip
    status = dict(
        line.split(":\t", 1)
        for line in (await machine.ask(started, "cat", "/proc/1/status")).splitlines()
        if "\t" in line
    )
    assert status["Uid"].split()[0] == "1234"
    assert status["Groups"].split() == ["4", "77", "99"]
    assert (status["Seccomp"], status["NoNewPrivs"], status["CapEff"]) == ("2", "1", "0000000000000000")
    assert (await machine.ask(started, "pwd")).strip() == "/tmp"
    assert (await machine.ask(started, "hostname")).strip() == started.pod.metadata.name
    assert "nameserver 10.0.0.10" in await machine.ask(started, "cat", "/etc/resolv.conf")


async def test_a_command_that_is_not_there_is_an_error_of_the_container(machine):
    started = await machine.sandbox(command=("/nonexistent",))
    container_id = await machine.create(started)
    with pytest.raises(ports.ContainerError, match="nonexistent") as caught:
        await machine.runtime.start_container(container_id)
    assert caught.value.reason == "RunContainerError"


async def test_root_is_refused_where_the_pod_says_so(machine):
    started = await machine.sandbox(security_context=models.SecurityContext(run_as_non_root=True))
    with pytest.raises(ports.ContainerError, match="runs as root") as caught:
        await machine.create(started)
    assert caught.value.reason == "CreateContainerConfigError"


async def test_an_image_that_nobody_has_is_an_error_of_the_image(machine):
    image = "docker.io/library/absent:latest"
    assert await machine.runtime.find_image(image) is None
    with pytest.raises(ports.ImagePullError, match="not found") as caught:
        await machine.runtime.pull_image(image, [])
    assert caught.value.reason == "ErrImagePull"


async def test_a_driver_that_was_restarted_goes_on_with_the_sandbox(machine):
    started = await machine.sandbox(command=("echo", "again"))
    async with cri.open_runtime(str(machine.where.containerd_socket)) as restarted:
        machine.runtime, before = restarted, machine.runtime
        started.container_id = await machine.create(started)
        await restarted.start_container(started.container_id)
        assert (await machine.ended(started)).exit_code == 0
        machine.runtime = before
    assert await machine.log(started) == "again\n"


async def test_ending_and_removing_may_be_repeated(machine):
    started = await machine.run("sleep", "1000")
    for _ in range(2):
        await machine.runtime.stop_container(started.container_id, 0)
        await machine.runtime.remove_container(started.container_id)
    for _ in range(2):
        await machine.runtime.stop_sandbox(started.sandbox_id)
        await machine.runtime.remove_sandbox(started.sandbox_id)
    assert await machine.runtime.observe_pod(started.pod.uid) == ports.SeenPod(pod_uid=started.pod.uid)


async def test_a_runtime_that_is_away_is_told_in_words(tmp_path):
    async with cri.open_runtime(str(tmp_path / "absent.sock")) as runtime:
        with pytest.raises(ports.DriverError, match="does not answer"):
            await runtime.version()
        with pytest.raises(ports.DriverError, match="does not answer"):
            async with contextlib.aclosing(runtime.events()) as events:
                await anext(events)
