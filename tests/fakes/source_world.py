"""An API server in memory, and the cluster sources in front of it."""

import asyncio
import contextlib
import datetime

import msgspec
from fakes import kube_api, machine_world

from kci.kit import clock, secret
from kci.kube import access, client, config, errors, resources
from kci.link import types as link
from kci.source import cluster

PENDING = {"phase": "Pending"}


class Client(kube_api.FakeApi):
    """A client as cluster sources use it."""

    def __init__(self):
        super().__init__()
        self.reads = []
        self.tokens = 0
        self.patches = []
        self.told = []
        # Raised by the next calls for a token, in order.
        self.token_failures = []
        # Kinds that may be read by name and not listed.
        self.unlisted = set()
        # What the server grants at most.
        self.life_s = 3600.0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def get(self, resource, name, *, namespace=""):
        self.reads.append(f"{resource.plural}/{name}")
        return await super().get(resource, name, namespace=namespace)

    async def list_all(self, resource, **selection):
        if resource.plural in self.unlisted:
            raise errors.ForbiddenError(f"cannot list {resource.plural}: forbidden", code=403)
        return await super().list_all(resource, **selection)

    async def patch(
        self, resource, name, patch, *, namespace="", subresource="", patch_type=None, field_manager=""
    ):
        if resource is resources.PODS:
            assert (subresource, patch_type) == ("status", client.PatchType.STRATEGIC)
            self.patches.append(patch)
        return await super().patch(resource, name, patch, namespace=namespace)

    async def create_token(self, pod, *, service_account, audience="", expiration_s=3600):
        if self.token_failures:
            raise self.token_failures.pop(0)
        self.tokens += 1
        life_s = min(expiration_s, self.life_s)
        return access.IssuedToken(
            token=secret.Secret(f"{service_account}-{self.tokens}"),
            expires_at=clock.SystemClock().now() + datetime.timedelta(seconds=life_s),
            life_s=life_s,
        )

    async def create(self, resource, body, *, namespace=""):
        if resource is resources.EVENTS:
            self.told.append(body)
        return await super().create(resource, body, namespace=namespace)

    async def put_config_map(self, name="a", **data):
        """Make it, or replace its data."""
        try:
            return await self.patch(resources.CONFIG_MAPS, name, {"data": data}, namespace="default")
        except errors.NotFoundError:
            body = {"metadata": {"name": name}, "data": data}
            return await self.create(resources.CONFIG_MAPS, body, namespace="default")

    async def add_pod(self, name="web"):
        body = {"metadata": {"name": name}, "spec": {"nodeName": "vn1"}, "status": PENDING}
        return await self.create(resources.PODS, body, namespace="default")


def kubeconfig(server="https://10.0.0.1:6443"):
    return config.render(config.ClusterConfig(server=server, token=secret.Secret("t")))


def group(pod_uid="", *, text=None, name="web"):
    wanted = machine_world.group(name, pod_uid)
    return msgspec.structs.replace(
        wanted, cluster=link.Cluster(cluster_id="c", kubeconfig=text or kubeconfig())
    )


async def new_api():
    made = Client()
    await made.create(resources.NODES, {
        "metadata": {"name": "vn1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    })  # fmt: skip
    return made


@contextlib.asynccontextmanager
async def sources_of(api, clock=None, within_s=10):
    connected = []

    def connect(found):
        connected.append(found.server)
        return api

    async with asyncio.timeout(within_s), cluster.ClusterSources(connect=connect, clock=clock) as sources:
        sources.connected = connected
        yield sources


async def until(holds, *, every_s=0.001):
    """`every_s` is for hours of virtual time."""
    while not holds():  # noqa: ASYNC110  (views tell no one when they change)
        await asyncio.sleep(every_s)
