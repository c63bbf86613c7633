"""The virtual node between a real API server, where NodeRestriction holds, and a real KCI service."""

import asyncio
import contextlib
import dataclasses
import pathlib
import socket
import subprocess
import sys
import time

import aiohttp
import pytest
import service_world
from fakes import kubelet_peers

from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import errors, resources, transport
from kci.provider import main, settings

WITHIN_S = 20


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclasses.dataclass
class Line:
    name: str
    service: service_world.World
    admin: clients.Client
    settings: settings.Settings
    config: object
    authority: kubelet_peers.Authority
    api_server: object
    # What `settings` was read from.
    flags: list[str]
    environment: dict[str, str]

    def told(self, *flags, **environment):
        """The settings with these flags and variables besides; a variable that is None is left out."""
        merged = {**self.environment, **environment}
        return settings.parse(
            [*self.flags, *flags], {name: value for name, value in merged.items() if value is not None}
        )

    @contextlib.contextmanager
    def process(self, *flags, **environment):
        """The program as it is deployed: a process with these flags and variables only."""
        argv = [sys.executable, "-m", "kci.provider.main", *flags]
        with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as program:
            try:
                yield program
            finally:
                program.terminate()

    @contextlib.asynccontextmanager
    async def running(self, settings=None):
        stop = asyncio.Event()
        async with tasks.Tasks() as group:
            program = group.spawn("virtual-kubelet", main.run(settings or self.settings, self.config, stop))
            try:
                yield
            finally:
                stop.set()
        assert program.result() == 0

    async def until(self, look, wanted):
        """Ask until the answer is as wanted; NotFound is the answer None."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    found = await look()
                except errors.NotFoundError:
                    found = None
                if wanted(found):
                    return found
                await asyncio.sleep(0.005)

    async def node(self):
        return await self.admin.get(resources.NODES, self.name)

    async def groups(self, count):
        return await self.until(self.service.alice.list_container_groups, lambda found: len(found) == count)

    async def until_running(self):
        await self.until(
            self.service.alice.list_container_groups,
            lambda found: [group.status for group in found] == ["Running"],
        )

    async def bind(self, namespace, name="web", annotations=None, **spec):
        container = {"name": "c", "image": "nginx:latest"}
        body = {
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"nodeName": self.name, "containers": [container], **spec},
        }
        return await self.admin.create(resources.PODS, body, namespace=namespace)

    def kubelet(self, config):
        context = transport.tls_context(config)
        context.load_verify_locations(cafile=str(self.authority.ca_file))
        return aiohttp.ClientSession(
            f"https://127.0.0.1:{self.settings.kubelet_port}", connector=aiohttp.TCPConnector(ssl=context)
        )


def is_ready(node):
    return node is not None and any(
        condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions
    )


@pytest.fixture
async def line(api_server, admin, tmp_path, request):
    name = f"vn-{time.time_ns()}"
    authority = kubelet_peers.Authority(tmp_path / "pki")
    certificate, key = authority.issue(name, "system:nodes", server_names=("127.0.0.1",), client=False)
    client_ca = tmp_path / "client-ca.crt"
    client_ca.write_text(api_server.ca_pem)
    async with service_world.running(pathlib.Path(tmp_path)) as service:
        flags = [
            f"--nodename={name}",
            "--cluster-dns=198.18.0.10",
            f"--client-ca-file={client_ca}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
        ]
        environment = {
            "VKUBELET_POD_IP": "127.0.0.1",
            "KUBELET_PORT": str(free_port()),
            "KCI_ACCESS_KEY": service_world.ALICE.access_key,
            "KCI_SECRET_KEY": service_world.ALICE.secret_key.reveal(),
            "KCI_REGION": service_world.REGION,
            "KCI_CLUSTER_ID": "c1",
            "KCI_SUBNET_ID": service_world.SUBNET_ID,
            "KCI_SECURITY_GROUP_IDS": service_world.SECURITY_GROUP_ID,
            "KCI_CLUSTER_SERVER": f"127.0.0.1:{api_server.port}",
            "KCI_ENDPOINT": f"http://{service.endpoint}",
            "KUBERNETES_SERVICE_HOST": "198.18.0.1",
        }
        found = settings.parse(flags, environment)
        yield Line(
            name,
            service,
            admin,
            found,
            api_server.node(name),
            authority,
            api_server,
            flags,
            environment,
        )
        with contextlib.suppress(errors.NotFoundError):
            await admin.delete(resources.NODES, name)
