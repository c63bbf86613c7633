"""What the CRI driver asks of a runtime, and how it takes the answers."""

import asyncio
import contextlib

import pytest
from fakes import cri_server

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import cri
from kci.kcilet.drivers.runtime.api import api_pb2
from kci.kit import secret
from kci.kube import models

UID = models.PodUid("uid-1")


@pytest.fixture
def server():
    return cri_server.CriServer()


@pytest.fixture
async def runtime(server, tmp_path):
    socket = tmp_path / "cri.sock"
    async with cri_server.serving(server, socket), cri.open_runtime(str(socket)) as opened:
        yield opened


async def test_what_cannot_change_is_asked_once(server, runtime):
    server.add_pod(UID)
    for _ in range(3):
        seen = await runtime.observe_pod(UID)
    assert seen.sandboxes[0].address == "10.0.0.7"
    assert seen.containers[0].phase == ports.ContainerPhase.RUNNING
    assert server.calls == {"ContainerStatus": 1, "PodSandboxStatus": 1}
    server.containers[UID].state = cri_server.EXITED
    for _ in range(3):
        seen = await runtime.observe_pod(UID)
    assert (seen.containers[0].phase, seen.containers[0].exit_code) == (ports.ContainerPhase.EXITED, 3)
    assert server.calls["ContainerStatus"] == 2


async def test_pods_are_kept_apart_and_strangers_left_out(server, runtime):
    server.add_pod("uid-1")
    server.add_pod("uid-2")
    server.add_pod("stranger")
    del server.sandboxes["stranger"].labels["kci.ksyun.com/managed"]
    del server.containers["stranger"].labels["kci.ksyun.com/managed"]
    assert {seen.pod_uid for seen in await runtime.list_pods()} == {"uid-1", "uid-2"}
    assert (await runtime.observe_pod(models.PodUid("stranger"))).sandboxes == ()


async def test_a_runtime_without_events_is_looked_at_instead(server, runtime):
    server.add_pod("uid-1")
    server.add_pod("uid-2")
    server.after_a_look = lambda: setattr(server.containers["uid-2"], "state", cri_server.EXITED)
    async with contextlib.aclosing(runtime.events()) as events, asyncio.timeout(10):
        assert await anext(events) == ports.RuntimeEvent(pod_uid=models.PodUid("uid-2"))


def event(server, uid, state):
    status = api_pb2.ContainerStatus(id=server.containers[uid].id, state=state, started_at=4, exit_code=1)
    box = api_pb2.PodSandboxStatus(
        id=server.sandboxes[uid].id,
        metadata=server.sandboxes[uid].metadata,
        labels=server.sandboxes[uid].labels,
        network=api_pb2.PodSandboxNetworkStatus(ip="10.0.0.8"),
    )
    return api_pb2.ContainerEventResponse(pod_sandbox_status=box, containers_statuses=[status])


async def test_what_an_event_tells_of_a_start_is_not_asked(server, runtime):
    server.add_pod(UID, state=api_pb2.ContainerState.CONTAINER_CREATED)
    _ = await runtime.list_pods()
    server.calls.clear()
    server.events = [event(server, UID, cri_server.RUNNING)]
    async with contextlib.aclosing(runtime.events()) as events, asyncio.timeout(10):
        assert await anext(events) == ports.RuntimeEvent(pod_uid=UID)
    server.containers[UID].state = cri_server.RUNNING
    seen = await runtime.observe_pod(UID)
    assert seen.sandboxes[0].address == "10.0.0.8"
    assert seen.containers[0].started_at_ns == 4
    assert server.calls == {}


async def test_what_an_event_tells_of_an_end_is_asked_all_the_same(server, runtime):
    """Why it ended (OOMKilled) may be known only a moment later."""
    server.add_pod(UID)
    _ = await runtime.observe_pod(UID)
    server.events = [event(server, UID, cri_server.EXITED)]
    async with contextlib.aclosing(runtime.events()) as events, asyncio.timeout(10):
        _ = await anext(events)
    server.containers[UID].state = cri_server.EXITED
    assert (await runtime.observe_pod(UID)).containers[0].exit_code == 3


async def test_a_late_event_does_not_bring_back_what_was_removed(server, runtime):
    server.events = []
    server.add_pod(UID)
    late = event(server, UID, cri_server.RUNNING)
    runtime._learn(late)
    assert runtime._statuses == {}


async def test_each_credential_that_fits_is_tried(server, runtime):
    server.allowed = {"right"}
    auths = [
        ports.RegistryAuth("reg.example", username, secret.Secret("x"))
        for username in ("wrong", "right", "never")
    ]
    assert (await runtime.pull_image("reg.example/web", auths)).user == "web"
    assert server.tried == ["wrong", "right"]
    server.allowed = set()
    with pytest.raises(ports.ImagePullError, match="pull access denied") as caught:
        await runtime.pull_image("reg.example/web", auths)
    assert caught.value.reason == "ErrImagePull"


async def test_no_registry_is_asked_for_a_name_that_is_none(server, runtime):
    for ask in (runtime.find_image("Not A Name"), runtime.pull_image("Not A Name", [])):
        with pytest.raises(ports.ImagePullError, match="cannot read the image name"):
            await ask
    assert server.tried == []


async def test_answers_become_the_ports_errors(runtime):
    await runtime.stop_container(ports.ContainerId("gone"), 0)
    with pytest.raises(ports.ContainerError, match="exec: no such file") as caught:
        await runtime.start_container(ports.ContainerId("broken"))
    assert caught.value.reason == "RunContainerError"
    with pytest.raises(ports.DriverError, match="does not support it"):
        await runtime.version()
