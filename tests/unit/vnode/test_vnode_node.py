"""The node object says what a kubelet's would, and its heartbeat never goes back."""

import asyncio
import dataclasses
import datetime

import msgspec
import pytest
from aiohttp import web
from fakes import kube_api, virtual_time

from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import config, models, resources
from kci.vnode import leadership, node, node_controller

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
SETTINGS = node.NodeSettings(name="vn", address="10.0.0.9", kubelet_port=10250, version="0.1.0")
TAINT = {"key": "virtual-kubelet.io/provider", "value": "kingsoftcloud", "effect": "NoSchedule"}


def decoded(settings=SETTINGS):
    return msgspec.convert(node.to_node(settings, "v1.36.3", NOW), models.Node)


@pytest.mark.guide("form node", "form taint")
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


def taint(text):
    place, _, effect = text.rpartition(":")
    key, _, value = place.partition("=")
    return models.Taint(key=key, value=value, effect=effect)


OTHERS = "node.kubernetes.io/unreachable:NoExecute"
OURS = "virtual-kubelet.io/provider=kingsoftcloud:NoSchedule"


@pytest.mark.guide("form taint")
@pytest.mark.parametrize(
    ("has", "wants", "command"),
    [
        ([OURS, OTHERS], [OURS], None),
        ([], [], None),
        # Nobody knows whose it is.
        (["a=b:NoSchedule"], [], None),
        ([OURS], [], "virtual-kubelet.io/provider:NoSchedule-"),
        ([OTHERS], [OURS], OURS),
        (
            ["rbkci-virtual-kubelet.io/provider=kingsoftcloud:NoSchedule"],
            [OURS],
            f"{OURS} rbkci-virtual-kubelet.io/provider:NoSchedule-",
        ),
        # Another value takes the place of the one that is there.
        ([OURS], ["virtual-kubelet.io/provider=x:NoSchedule"], "virtual-kubelet.io/provider=x:NoSchedule"),
        (
            [OURS],
            ["virtual-kubelet.io/provider=kingsoftcloud:NoExecute"],
            "virtual-kubelet.io/provider=kingsoftcloud:NoExecute virtual-kubelet.io/provider:NoSchedule-",
        ),
    ],
)
def test_other_taints_than_configured_are_told_with_the_remedy(has, wants, command):
    seen = decoded(dataclasses.replace(SETTINGS, taints=tuple(map(taint, has))))
    warning = node.taint_warning(dataclasses.replace(SETTINGS, taints=tuple(map(taint, wants))), seen)
    if command is None:
        assert warning is None
    else:
        assert warning.endswith(f": kubectl taint node vn --overwrite {command}")


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("team", True),
        ("example.com/team", True),
        ("topology.kubernetes.io/zone", True),
        ("node.kubernetes.io/anything", True),
        ("my.node.kubernetes.io/anything", True),
        ("kubernetes.io/role", False),
        ("node-role.kubernetes.io/agent", False),
        ("node-restriction.kubernetes.io/x", False),
        ("x.k8s.io/y", False),
        ("notkubernetes.io/x", True),
    ],
)
def test_a_node_may_give_itself_only_the_labels_that_a_kubelet_may(key, allowed):
    assert node.may_set_label(key) is allowed


@pytest.mark.guide("config customLabels")
def test_labels_of_the_settings_never_hide_the_nodes_own():
    made = node.to_labels(dataclasses.replace(SETTINGS, labels={"team": "a", "type": "machine"}))
    assert (made["team"], made["type"]) == ("a", "virtual-kubelet")


def test_labels_that_somebody_removed_come_back_and_then_it_is_quiet():
    api = Api()

    async def story():
        controller = make_controller(api, dataclasses.replace(SETTINGS, labels={"team": "a"}))
        async with tasks.background("node", controller.run()):
            await asyncio.sleep(1)
            await api.patch(resources.NODES, "vn", {"metadata": {"labels": {"team": None}}})
            await asyncio.sleep(5)
            assert api.labels["team"] == "a"
            settled = api.version
            await asyncio.sleep(60)
            # What it wrote itself leaves it nothing to do.
            assert api.version == settled

    in_no_time(story())


def test_taints_that_the_node_may_not_change_are_told_and_no_failure():
    told = []
    api = Api()

    async def story():
        bare = dataclasses.replace(SETTINGS, taints=())
        await api.create(resources.NODES, node.to_node(bare, "v1.36.3", NOW))
        controller = make_controller(api, SETTINGS, on_trouble=lambda *one: told.append(one))
        async with tasks.background("node", controller.run()):
            await asyncio.sleep(60)
        assert (await api.get(resources.NODES, "vn")).spec.taints == ()

    in_no_time(story())
    assert [reason for reason, _ in told] == ["TaintsDiffer"]
    assert f"kubectl taint node vn --overwrite {OURS}" in told[0][1]


class Api(kube_api.FakeApi):
    """With what a node needs beside its own object."""

    async def request(self, method, path):
        return b'{"gitVersion": "v1.36.3"}'

    async def patch(self, resource, name, patch, **options):
        return await super().patch(resource, name, patch)

    @property
    def labels(self):
        return self._find(resources.NODES, "", "vn")["metadata"]["labels"]


def make_controller(api, settings, on_trouble=lambda *_: None):
    return node_controller.NodeController(
        api, settings, right=leadership.Always(), on_registered=lambda _: None, on_trouble=on_trouble
    )


def in_no_time(story):
    loop = virtual_time.VirtualLoop()
    try:
        loop.run_until_complete(story)
    finally:
        loop.close()


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
                client,
                SETTINGS,
                right=leadership.Always(),
                on_registered=lambda _: None,
                on_trouble=lambda *_: None,
            )
            async with asyncio.timeout(5), tasks.background("node", controller.run()):
                await asked.acquire()
                await asked.acquire()
    finally:
        await runner.cleanup()
