"""Services and EndpointSlices of a real API server, read as a node; and the right to read them."""

import asyncio
import contextlib

import pytest

from kci.kit import tasks
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import errors, resources
from kci.link import types as link
from kci.provider import service_access
from kci.source import cluster
from kci.stack import node as stack_node

pytestmark = [
    pytest.mark.integration,
    pytest.mark.requirement("R55"),
    pytest.mark.guide("env KCI_KUBE_PROXY", "annotation kci-kube-proxy-enabled"),
]


def group(node_config, node, number=0):
    return link.WantedGroup(
        group_id=f"g-{number}",
        generation=1,
        cluster=link.Cluster(cluster_id="c", kubeconfig=configs.render(node_config)),
        namespace="default",
        pod_name=f"p{number}",
        node_name=node,
        interface=link.Interface(
            address="10.0.0.9", prefix_length=24, gateway="10.0.0.1", mac_address="02:00:00:00:00:01"
        ),
    )


class Counted(clients.Client):
    """Counts the lists and watches that are begun."""

    begun = None

    async def list_all(self, resource, **selection):
        self.begun.append(("list", resource.plural))
        return await super().list_all(resource, **selection)

    def watch(self, resource, **selection):
        self.begun.append(("watch", resource.plural))
        return super().watch(resource, **selection)


@contextlib.asynccontextmanager
async def sources():
    begun = []

    def connect(config):
        made = Counted(config)
        made.begun = begun
        return made

    async with cluster.ClusterSources(connect=connect) as found:
        found.begun = begun
        yield found


@pytest.fixture
async def unbound(admin):
    """A node's name; what binds it is removed afterwards."""
    name = f"vn-{id(admin)}"
    yield name
    with contextlib.suppress(errors.NotFoundError):
        await admin.delete(resources.CLUSTER_ROLE_BINDINGS, f"kci-node-proxier-{name}")


async def until(holds, what, within_s=30):
    try:
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110  (what is looked at tells no one)
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s: {what}")


async def put(admin, namespace, name="web", *addresses):
    spec = {"ports": [{"port": 80}]}
    await admin.create(resources.SERVICES, {"metadata": {"name": name}, "spec": spec}, namespace=namespace)
    body = {
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one]} for one in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }
    await admin.create(resources.ENDPOINT_SLICES, body, namespace=namespace)


async def test_a_cluster_is_watched_once_for_all_its_pods_and_only_while_they_need_it(
    api_server, admin, namespace, unbound
):
    await admin.create(resources.CLUSTER_ROLE_BINDINGS, stack_node.services_binding(unbound))
    await put(admin, namespace, "web", "1.0.0.1")
    async with sources() as found:
        node = api_server.node(unbound)
        pods = [found.join(group(node, unbound, number), lambda: None) for number in range(20)]
        await asyncio.sleep(0)
        assert not {("list", "services"), ("list", "endpointslices")} & set(found.begun)
        for pod in pods:
            pod.services.hold(pod, lambda: None)
        services = pods[0].services
        await until(lambda: services.is_known, "services are known")
        await until(lambda: ("watch", "endpointslices") in found.begun, "slices are watched")
        for what in ("services", "endpointslices"):
            assert found.begun.count(("list", what)) == found.begun.count(("watch", what)) == 1
        (part,) = services.slices((namespace, "web"))
        assert part.endpoints[0].addresses == ("1.0.0.1",)
        assert services.services[namespace, "web"].spec.cluster_ip.startswith("198.18.0.")
        ready = {"endpoints": [{"addresses": ["1.0.0.2"], "conditions": {"ready": True}}]}
        await admin.patch(resources.ENDPOINT_SLICES, "web-1", ready, namespace=namespace)
        await until(
            lambda: (
                [one.addresses for part in services.slices((namespace, "web")) for one in part.endpoints]
                == [("1.0.0.2",)]
            ),
            "the change is seen",
        )


async def test_a_node_that_may_not_read_them_is_told_how_to_and_reads_them_once_it_may(
    api_server, admin, namespace, unbound
):
    await put(admin, namespace, "web", "1.0.0.1")
    async with sources() as found:
        services = found.join(group(api_server.node(unbound), unbound), lambda: None).services
        services.hold("somebody", lambda: None)
        await until(lambda: "endpointslices" in services.problem, "the refusal is known")
        remedy = (
            f"kubectl create clusterrolebinding kci-node-proxier-{unbound} "
            f"--clusterrole=system:node-proxier --user=system:node:{unbound}"
        )
        assert remedy in services.problem
        assert not services.is_known
        await admin.create(resources.CLUSTER_ROLE_BINDINGS, stack_node.services_binding(unbound))
        await until(lambda: services.is_known, "services are known")
        assert services.problem == ""


async def test_the_node_binds_what_it_hands_on_if_it_may(api_server, admin, unbound):
    handed_on = api_server.node(unbound)
    async with asyncio.timeout(30):
        await service_access.ensure(admin, handed_on, is_needed=True)
        bound = await admin.get(resources.CLUSTER_ROLE_BINDINGS, f"kci-node-proxier-{unbound}")
        assert bound["subjects"][0]["name"] == f"system:node:{unbound}"
        async with clients.Client(handed_on) as theirs:
            await until_allowed(theirs)
        # Again it finds nothing to do.
        await service_access.ensure(admin, handed_on, is_needed=True)


async def until_allowed(client):
    while True:
        with contextlib.suppress(errors.ForbiddenError):
            await client.list_all(resources.ENDPOINT_SLICES)
            return
        await asyncio.sleep(0.05)


async def test_a_node_that_may_not_bind_goes_on_and_says_what_helps(api_server, unbound, capsys):
    handed_on = api_server.node(unbound)
    async with asyncio.timeout(30), clients.Client(handed_on) as own:
        await service_access.ensure(own, handed_on, is_needed=True)
    told = capsys.readouterr().out
    assert "pods cannot reach ClusterIP services" in told
    assert f"--clusterrole=system:node-proxier --user=system:node:{unbound}" in told


async def test_what_was_known_last_stays_while_the_api_server_is_away(api_server, admin, namespace, unbound):
    await admin.create(resources.CLUSTER_ROLE_BINDINGS, stack_node.services_binding(unbound))
    await put(admin, namespace, "web", "1.0.0.1")
    async with sources() as found, tasks.Tasks():
        services = found.join(group(api_server.node(unbound), unbound), lambda: None).services
        services.hold("somebody", lambda: None)
        await until(lambda: services.is_known, "services are known")
        api_server.stop_api_server()
        try:
            tries = found.begun.count(("watch", "services"))
            await until(lambda: found.begun.count(("watch", "services")) > tries, "it is tried again")
            assert services.is_known
            assert (namespace, "web") in services.services
        finally:
            api_server.start_api_server()
            await asyncio.to_thread(api_server.await_ready)
        await put(admin, namespace, "later")
        await until(lambda: (namespace, "later") in services.services, "it is followed again")
