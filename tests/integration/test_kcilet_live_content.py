"""What a pod's volumes show on disk while it runs, with a real API server that knows the kcilet as a node."""

import asyncio
import base64
import contextlib
import dataclasses
import os
import pathlib
import re
import time
import uuid

import msgspec
import needs
import pytest
from fakes import machine_world

from kci.kcilet.drivers.volumes import folders
from kci.kcilet.workers import agent, machine
from kci.kit import secret as secrets
from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import config, errors, resources
from kci.link import types as link
from kci.source import cluster

pytestmark = pytest.mark.integration
WITHIN_S = 20
CHANGE_WITHIN_S = 1.0
CANARY = "canary-of-a-secret"
PATCH = clients.PatchType.MERGE


class Line:
    """A kcilet with a real source and real volumes; only the runtime is a double."""

    def __init__(self, admin, namespace, node, kubeconfig, folder):
        self.admin, self.namespace, self.node, self.kubeconfig = admin, namespace, node, kubeconfig
        self.runtime = machine_world.FakeRuntime()
        self.volumes = folders.PodFolders(folder)
        self.drivers = dataclasses.replace(machine_world.drivers(self.runtime), volumes=self.volumes)
        self.agent = None
        self.groups = {}

    async def put(self, resource, name, **data):
        """Make it, or change what is given of its data."""
        if resource is resources.SECRETS:
            data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        try:
            await self.admin.patch(resource, name, {"data": data}, namespace=self.namespace, patch_type=PATCH)
        except errors.NotFoundError:
            body = {"metadata": {"name": name}, "data": data}
            await self.admin.create(resource, body, namespace=self.namespace)

    async def start(self, name="web", **spec):
        container = {"name": "app", "image": "app:1", "imagePullPolicy": "IfNotPresent"}
        body = {
            "metadata": {"name": name},
            "spec": {"nodeName": self.node, "containers": [container], **spec},
        }
        pod = await self.admin.create(resources.PODS, body, namespace=self.namespace)
        self.groups[name] = msgspec.structs.replace(
            machine_world.group(name, pod.uid, f"g-{name}"),
            cluster=link.Cluster(cluster_id="c", kubeconfig=self.kubeconfig),
            namespace=self.namespace,
            node_name=self.node,
        )
        self.agent.sync(tuple(self.groups.values()))
        return pod

    async def until_running(self, name="web"):
        await until(lambda: (report := self.agent.reports.get(f"g-{name}")) and report.phase == "Running")

    def path(self, pod, volume, file):
        return pathlib.Path(self.volumes.host_path(pod.uid, volume), file)

    def text(self, pod, volume, file):
        try:
            return self.path(pod, volume, file).read_text()
        except FileNotFoundError:
            return None

    async def until_shown(self, pod, volume, file, text):
        """That a change is seen within a second of when it was made."""
        await until(lambda: self.text(pod, volume, file) == text, CHANGE_WITHIN_S)

    async def times_told(self, reason, pod):
        listing = await self.admin.list_all(resources.EVENTS, namespace=self.namespace)
        found = [one for one in listing.items if (one.reason, one.involved_object.name) == (reason, pod)]
        return sum(event.count for event in found)

    async def end(self):
        self.agent.sync(())
        self.groups.clear()
        await until(lambda: not self.agent._workers)


async def until(holds, within_s=WITHIN_S):
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  (a disk tells no one)
            await asyncio.sleep(0.005)


async def counts(admin, name, **labels):
    """The sum of the API server's own count over all that has these labels."""
    text = (await admin.request("GET", "/metrics")).decode()
    total = 0
    for found, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE):
        if all(f'{key}="{wanted}"' in found for key, wanted in labels.items()):
            total += float(value)
    return int(total)


async def refusals(admin):
    return await counts(admin, "apiserver_request_total", code="403")


async def watches(admin):
    kinds = ("configmaps", "secrets")
    return sum(
        [
            await counts(
                admin, "apiserver_longrunning_requests", verb="WATCH", resource=kind, scope="resource"
            )
            for kind in kinds
        ]
    )


class _End(Exception):  # noqa: N818  (no error: leaves the group of tasks)
    pass


@contextlib.asynccontextmanager
async def running(line):
    with contextlib.suppress(_End):
        async with cluster.ClusterSources() as sources, tasks.Tasks() as group:
            ours = machine.Machine(line.drivers, clock=machine_world.LoopClock())
            line.agent = agent.Agent(ours, sources, group)
            group.run_forever("agent", line.agent.run())
            yield line
            raise _End


@pytest.fixture
async def line(api_server, admin, namespace, tmp_path):
    needs.demand("volumes in memory need root" if os.geteuid() else "")
    node = f"vn-{uuid.uuid4().hex[:8]}"
    async with clients.Client(api_server.node(node)) as own:
        addresses = [{"type": "InternalIP", "address": "192.168.0.1"}]
        await own.create(resources.NODES, {"metadata": {"name": node}, "status": {"addresses": addresses}})
    it = Line(admin, namespace, node, config.render(api_server.node(node)), tmp_path)
    # Made by the controller manager, which is not here.
    await it.put(resources.CONFIG_MAPS, "kube-root-ca.crt", **{"ca.crt": "a certificate"})
    async with running(it):
        yield it
        await it.end()
    it.runtime.close()


def config_map(name, **more):
    return {"name": name, "configMap": {"name": name, **more}}


async def test_changes_are_on_disk_within_a_second_and_everything_asked_for_is_allowed(line, capsys):
    refused = await refusals(line.admin)
    await line.put(resources.CONFIG_MAPS, "settings", a="1")
    await line.put(resources.SECRETS, "keys", password=CANARY)
    sources = [{"configMap": {"name": "settings"}}, {"secret": {"name": "keys"}}]
    pod = await line.start(
        volumes=[
            config_map("settings"),
            {"name": "keys", "secret": {"secretName": "keys"}},
            {"name": "all", "projected": {"sources": sources}},
            config_map("later", optional=True),
        ]
    )
    await line.until_running()
    assert line.text(pod, "keys", "password") == CANARY
    before = line.path(pod, "all", "..data").readlink()

    await line.put(resources.CONFIG_MAPS, "settings", a="2")
    await line.until_shown(pod, "settings", "a", "2")
    await line.until_shown(pod, "all", "a", "2")
    await line.put(resources.SECRETS, "keys", password=f"{CANARY}-2")
    await line.until_shown(pod, "keys", "password", f"{CANARY}-2")
    await line.until_shown(pod, "all", "password", f"{CANARY}-2")
    assert line.path(pod, "all", "..data").readlink() != before
    for _ in range(2):
        await line.put(resources.CONFIG_MAPS, "later", l="here")
        await line.until_shown(pod, "later", "l", "here")
        await line.admin.delete(resources.CONFIG_MAPS, "later", namespace=line.namespace)
        await line.until_shown(pod, "later", "l", None)
    # What a volume must not lack stays as it was until it is there again.
    await line.admin.delete(resources.SECRETS, "keys", namespace=line.namespace)
    await line.put(resources.CONFIG_MAPS, "settings", a="3")
    await line.until_shown(pod, "settings", "a", "3")
    assert line.text(pod, "keys", "password") == f"{CANARY}-2"
    await line.put(resources.SECRETS, "keys", password=f"{CANARY}-3")
    await line.until_shown(pod, "keys", "password", f"{CANARY}-3")
    assert await refusals(line.admin) == refused
    captured = capsys.readouterr()
    written = captured.out + captured.err
    assert "action failed" in written
    for text in (CANARY, base64.b64encode(CANARY.encode()).decode()[:16], line.text(pod, "keys", "password")):
        assert text not in written


async def test_a_pod_starts_at_once_when_what_it_waits_for_appears(line):
    env = {"name": "V", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "v"}}}
    container = {"name": "app", "image": "app:1", "imagePullPolicy": "IfNotPresent", "env": [env]}
    await line.start("env", containers=[container])
    await line.start("volume", volumes=[config_map("later")])
    boxes = line.runtime.sandboxes
    await until(lambda: len(boxes) == 2)
    # The back-off has grown: after so many the next try by itself would be 4 seconds away.
    for reason, name in (("Failed", "env"), ("FailedMount", "volume")):
        async with asyncio.timeout(WITHIN_S):
            while await line.times_told(reason, name) < (3 if name == "env" else 4):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert not line.runtime.containers
    await line.put(resources.CONFIG_MAPS, "later", v="here")
    async with asyncio.timeout(CHANGE_WITHIN_S):
        await line.until_running("env")
        await line.until_running("volume")


async def test_fifty_pods_share_what_they_have_in_common_and_end_their_watches(line):
    async def calls(verb, kind):
        return await counts(line.admin, "apiserver_request_total", verb=verb, resource=kind, code="200")

    async def all_calls():
        kinds = ("configmaps", "secrets")
        return {(verb, kind): await calls(verb, kind) for verb in ("GET", "LIST") for kind in kinds}

    await line.put(resources.CONFIG_MAPS, "settings", a="1")
    await line.put(resources.SECRETS, "keys", password=CANARY)
    idle, before = await watches(line.admin), await all_calls()
    volumes = [config_map("settings"), {"name": "keys", "secret": {"secretName": "keys"}}]
    refused = await refusals(line.admin)
    pods = await tasks.wait_all(
        (line.start(f"web-{number}", volumes=volumes) for number in range(50)), name="start"
    )
    for number in range(50):
        await line.until_running(f"web-{number}")
    after = await all_calls()
    made = {key: after[key] - before[key] for key in after}
    # One object each of kube-root-ca.crt, settings and keys, listed once for all; a few ended and began again
    # is no fault, one for each pod would be.
    assert made["GET", "configmaps"] == made["GET", "secrets"] == 0
    assert made["LIST", "configmaps"] + made["LIST", "secrets"] <= 6
    assert await watches(line.admin) == idle + 3
    assert await refusals(line.admin) == refused
    began_s = time.monotonic()
    await line.put(resources.CONFIG_MAPS, "settings", a="2")
    await until(lambda: all(line.text(pod, "settings", "a") == "2" for pod in pods))
    print(f"50 pods saw the change after {time.monotonic() - began_s:.3f} s; calls: {made}")
    await line.end()
    async with asyncio.timeout(WITHIN_S):
        while await watches(line.admin) != idle:  # noqa: ASYNC110  (the server is asked)
            await asyncio.sleep(0.05)


async def test_a_token_is_bound_to_its_pod_and_readable_by_its_user_alone(line):
    pod = await line.start(securityContext={"runAsUser": 1234})
    await line.until_running()
    [volume] = [volume.name for volume in pod.spec.volumes]
    file = line.path(pod, volume, "token")
    found = file.resolve().stat()
    assert (found.st_mode & 0o777, found.st_uid) == (0o600, 1234)
    user = await line.admin.review_token(secrets.Secret(file.read_text()))
    assert user.name == f"system:serviceaccount:{line.namespace}:default"
    assert user.extra["authentication.kubernetes.io/pod-uid"] == (pod.uid,)
    other = await line.start("grouped", securityContext={"fsGroup": 4321})
    await line.until_running("grouped")
    [volume] = [volume.name for volume in other.spec.volumes]
    found = line.path(other, volume, "token").resolve().stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, 0, 4321)


async def test_watches_go_on_after_the_api_server_was_away(line, api_server):
    await line.put(resources.CONFIG_MAPS, "settings", a="1")
    pod = await line.start(volumes=[config_map("settings")])
    await line.until_running()
    await tasks.in_thread(api_server.stop_api_server)
    await asyncio.sleep(1)
    assert line.text(pod, "settings", "a") == "1"
    api_server.start_api_server()
    await tasks.in_thread(api_server.await_ready)
    await line.put(resources.CONFIG_MAPS, "settings", a="2")
    await until(lambda: line.text(pod, "settings", "a") == "2")
    await line.put(resources.CONFIG_MAPS, "settings", a="3")
    await line.until_shown(pod, "settings", "a", "3")
