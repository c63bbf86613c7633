"""Kingsoft's own Python SDK against the real service: what it sends is accepted as it is."""

import asyncio
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import service_world
from fakes import link_server
from ksyun.client.kci.v20200702 import client as sdk_client
from ksyun.client.kci.v20200702 import models
from ksyun.common import credential
from ksyun.common.exception.ksyun_sdk_exception import KsyunSDKException
from ksyun.common.profile import client_profile, http_profile

from kci.contract import packages
from kci.kit import tasks


def sdk(endpoint, *, key="AKALICE", secret="alice-secret", region=service_world.REGION, method="POST"):
    profile = client_profile.ClientProfile()
    profile.httpProfile = http_profile.HttpProfile(
        protocol="http", endpoint=endpoint, reqMethod=method, reqTimeout=10
    )
    return sdk_client.KciClient(credential.Credential(key, secret), region, profile=profile)


def create_request(pod="web-0"):
    request = models.CreateContainerGroupRequest()
    request.ContainerGroupName = f"default-{pod}-0"
    request.SubnetId = service_world.SUBNET_ID
    request.SecurityGroupId = [service_world.SECURITY_GROUP_ID]
    request.Cpu = 2.0
    request.Memory = 4
    request.KubeConfig = "apiVersion: v1\nkind: Config # a+b c&d=e %41 \N{SNOWMAN}\n"
    request.RetainIp = True
    request.KubeProxy = {"Enabled": True}
    request.Label = [
        {"Key": "cluster-id", "Value": "c1"},
        {"Key": "namespace", "Value": "default"},
        {"Key": "pod-name", "Value": pod},
    ]
    return request


def call(client, action, **fields):
    request = getattr(models, f"{action}Request")()
    for name, value in fields.items():
        setattr(request, name, value)
    return json.loads(getattr(client, action)(request))


@pytest.mark.requirement("R44")
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_the_official_sdk_creates_describes_and_deletes(tmp_path, method):
    async with service_world.running(tmp_path) as world, asyncio.timeout(30):
        client = sdk(world.endpoint, method=method)
        created = json.loads(await tasks.in_thread(client.CreateContainerGroup, create_request()))
        group_id = created["ContainerGroupId"]
        assert created["RequestId"]

        def describe():
            return call(client, "DescribeContainerGroup", ContainerGroupId=[group_id], MaxResults=5)

        while (page := await tasks.in_thread(describe))["ContainerGroups"][0]["Status"] != "Running":
            pass
        group = page["ContainerGroups"][0]
        # The Go SDK fails on 2.0.
        assert (repr(group["Cpu"]), repr(group["Memory"])) == ("2", "4")
        assert (group["KciMode"], group["KciType"], page["Marker"], page["TotalCount"]) == (
            "Cluster",
            "RBKCI",
            0,
            1,
        )
        assert world.kcilet.wanted[group_id].cluster.kubeconfig == create_request().KubeConfig
        assert world.kcilet.wanted[group_id].kube_proxy
        assert group["NetworkInterfaceAttributes"][0]["PrivateIpAddress"] == "10.9.0.2"

        world.kcilet.logs[group_id, "web"] = b"hello\n"
        log = await tasks.in_thread(
            lambda: call(client, "DescribeContainerLog", ContainerGroupId=group_id, ContainerName="web")
        )
        assert log["Content"] == "hello\n"
        await tasks.in_thread(lambda: call(client, "DeleteContainerGroup", ContainerGroupId=group_id))
        while (await tasks.in_thread(describe))["TotalCount"]:
            pass


@pytest.mark.guide("limit sizes")
async def test_the_official_sdk_reads_the_sizes_that_there_are(tmp_path):
    table = packages.read_table(b'{"Packages": [{"Cpu": 2.0, "Mem": [4.0, 7.5]}]}', "sizes.json")
    async with service_world.running(tmp_path, table=table) as world:
        answer = await tasks.in_thread(lambda: call(sdk(world.endpoint), "DescribeKciPackages"))
        (package,) = answer["Packages"]
        # The Go SDK fails on 2.0.
        assert (repr(package["Cpu"]), repr(package["Mem"])) == ("2", "[4, 7.5]")


@pytest.mark.requirement("R44")
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"secret": "wrong"}, "SignatureDoesNotMatch"),
        ({"key": "AKNOBODY"}, "SignatureDoesNotMatch"),
        ({"region": "cn-elsewhere-1"}, "IncompleteSignature"),
    ],
)
async def test_wrong_credentials_are_refused(tmp_path, changes, code):
    async with service_world.running(tmp_path) as world:
        client = sdk(world.endpoint, **changes)
        with pytest.raises(KsyunSDKException) as caught:
            await tasks.in_thread(client.CreateContainerGroup, create_request())
        assert json.loads(caught.value.message)["Error"]["Code"] == code


async def test_an_acknowledged_create_survives_a_killed_service(tmp_path):
    """The whole program, killed the moment after it answered, and started again over its database."""
    kcilet = link_server.LinkServer()
    async with asyncio.timeout(60), kcilet.serve(str(tmp_path / "kcilet.sock")):
        made = []
        for round_ in range(3):
            process, endpoint = await tasks.in_thread(_start_program, tmp_path)
            try:
                client = sdk(endpoint)
                listed = await tasks.in_thread(lambda client=client: call(client, "DescribeContainerGroup"))
                assert {group["ContainerGroupId"] for group in listed["ContainerGroups"]} == set(made)
                answer = await tasks.in_thread(client.CreateContainerGroup, create_request(f"web-{round_}"))
                made.append(json.loads(answer)["ContainerGroupId"])
            finally:
                process.send_signal(signal.SIGKILL)
                await tasks.in_thread(process.wait)
        process, endpoint = await tasks.in_thread(_start_program, tmp_path)
        while set(kcilet.wanted) != set(made):  # noqa: ASYNC110  (the fake tells nobody)
            await asyncio.sleep(0.01)
        process.terminate()
        assert await tasks.in_thread(process.wait) == 0
    for left in tmp_path.iterdir():
        if left.is_file():
            assert b"kind: Config" not in left.read_bytes()


def _start_program(folder: pathlib.Path):
    for name, content in (
        ("operator.env", "KCI_ACCESS_KEY=AKALICE\nKCI_SECRET_KEY=alice-secret\n"),
        ("key", "11" * 32),
    ):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    port = _free_port()
    log = folder / f"{port}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "kci.service.main", "--listen", f"127.0.0.1:{port}",
             "--database", folder / "kci.db", "--kcilet-socket", folder / "kcilet.sock",
             "--region", service_world.REGION, "--subnet-id", service_world.SUBNET_ID,
             "--subnet-cidr", "10.9.0.0/24", "--gateway", "10.9.0.1",
             "--security-group-id", service_world.SECURITY_GROUP_ID,
             "--operator-credentials", folder / "operator.env", "--encryption-key-file", folder / "key"],
            stderr=stderr,
        )  # fmt: skip
    while b'"serving"' not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    return process, f"127.0.0.1:{port}"


def _free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
