"""The node object says what a kubelet's would, and its heartbeat never goes back."""

import asyncio
import dataclasses
import datetime

import msgspec
import pytest
from aiohttp import web

from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import config, models
from kci.vnode import leadership, node, node_controller

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
SETTINGS = node.NodeSettings(name="vn", address="10.0.0.9", kubelet_port=10250, version="0.1.0")
TAINT = {"key": "virtual-kubelet.io/provider", "value": "kingsoftcloud", "effect": "NoSchedule"}


def decoded(settings=SETTINGS):
    return msgspec.convert(node.to_node(settings, "v1.36.3", NOW), models.Node)


def test_the_node_is_ready_from_its_first_request():
    made = node.to_node(SETTINGS, "v1.36.3", NOW)
    assert made["metadata"]["labels"]["type"] == "virtual-kubelet"
    assert made["spec"]["taints"] == [TAINT]
    status = made["status"]
    assert status["nodeInfo"]["kubeletVersion"] == "v1.36.3-vk-v0.1.0"
    assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
    assert status["capacity"]["cpu"] == "1000"
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }


def test_a_condition_keeps_the_time_of_its_last_transition():
    later = NOW + datetime.timedelta(hours=1)
    ready = node.to_status(SETTINGS, "v1.36.3", later, seen=decoded())["conditions"][-1]
    assert ready["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert ready["lastHeartbeatTime"] == "2026-01-01T13:00:00Z"


def test_a_node_that_others_changed_is_noticed():
    assert node.is_current(SETTINGS, "v1.36.3", decoded())
    assert not node.is_current(SETTINGS, "v1.37.0", decoded())
    unknown = models.NodeCondition(type="Ready", status="Unknown")
    seen = decoded()
    status = msgspec.structs.replace(seen.status, conditions=(*seen.status.conditions[:-1], unknown))
    assert not node.is_current(SETTINGS, "v1.36.3", msgspec.structs.replace(seen, status=status))


@pytest.mark.parametrize(
    ("was", "wanted", "words"),
    [
        (node.DEFAULT_TAINT, node.DEFAULT_TAINT, None),
        (None, None, None),
        (node.DEFAULT_TAINT, None, "kubectl taint node vn virtual-kubelet.io/provider-"),
        (None, node.DEFAULT_TAINT, "virtual-kubelet.io/provider=kingsoftcloud:NoSchedule"),
    ],
)
def test_another_taint_than_configured_is_told_with_the_remedy(was, wanted, words):
    seen = decoded(dataclasses.replace(SETTINGS, taint=was))
    warning = node.taint_warning(dataclasses.replace(SETTINGS, taint=wanted), seen)
    assert (warning is None) if words is None else (words in warning)


async def test_an_answer_that_is_no_version_is_asked_for_again():
    asked = asyncio.Semaphore(0)

    async def handler(request):
        asked.release()
        return web.Response(text="<html>")

    app = web.Application()
    app.router.add_get("/version", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with clients.Client(config.ClusterConfig(server=server)) as client:
            controller = node_controller.NodeController(
                client, SETTINGS, right=leadership.Always(), on_registered=lambda seen: None
            )
            async with asyncio.timeout(5), tasks.background("node", controller.run()):
                await asked.acquire()
                await asked.acquire()
    finally:
        await runner.cleanup()
