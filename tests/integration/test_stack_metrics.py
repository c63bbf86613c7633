"""The cluster's side of metrics-server at a real API server."""

import base64

import pytest

from kci.kube import client as clients
from kci.kube import errors, resources
from kci.stack import metricsapi

pytestmark = pytest.mark.integration

GATEWAY, PORT = "10.88.0.1", 40443
WHERE = {"namespace": metricsapi.NAMESPACE}
MADE = (
    (resources.API_SERVICES, metricsapi.API_SERVICE, {}),
    (resources.ENDPOINT_SLICES, metricsapi.SLICE, WHERE),
    (resources.SERVICES, metricsapi.SERVICE, WHERE),
    (resources.CLUSTER_ROLE_BINDINGS, metricsapi.ROLE, {}),
    (resources.CLUSTER_ROLES, metricsapi.ROLE, {}),
    (resources.CLUSTER_ROLES, metricsapi.READER, {}),
)


@pytest.fixture
async def clean(api_server):
    """The API server is shared by all tests of a session."""
    yield
    await metricsapi.remove(api_server.admin)


async def left(admin):
    found = set()
    for resource, name, where in MADE:
        try:
            _ = await admin.get(resource, name, **where)
            found.add(resource.kind)
        except errors.NotFoundError:
            continue
    return found


@pytest.mark.usefixtures("clean")
async def test_it_is_found_at_the_gateway_of_now_with_an_authority_to_know_it_by(api_server, admin):
    for gateway in ("10.88.0.9", GATEWAY):
        await metricsapi.ensure(api_server.admin, gateway=gateway, port=PORT)
    found = await admin.get(resources.ENDPOINT_SLICES, metricsapi.SLICE, **WHERE)
    assert [one.addresses for one in found.endpoints] == [(GATEWAY,)]
    assert [one.port for one in found.ports] == [PORT]
    spec = (await admin.get(resources.API_SERVICES, metricsapi.API_SERVICE))["spec"]
    assert base64.b64decode(spec["caBundle"]).decode() == api_server.ca_pem
    assert not spec.get("insecureSkipTLSVerify")


@pytest.mark.usefixtures("clean")
async def test_it_may_read_nodes_and_pods_and_nothing_else(api_server):
    await metricsapi.ensure(api_server.admin, gateway=GATEWAY, port=PORT)
    async with clients.Client(api_server.user(metricsapi.USER)) as server:
        for readable in (resources.NODES, resources.PODS):
            _ = await server.list_all(readable)
        for hidden in (resources.SECRETS, resources.CONFIG_MAPS, resources.SERVICES):
            with pytest.raises(errors.ForbiddenError):
                _ = await server.list_all(hidden)


async def test_a_start_without_it_leaves_nothing_of_it(api_server, admin):
    await metricsapi.remove(api_server.admin)
    await metricsapi.ensure(api_server.admin, gateway=GATEWAY, port=PORT)
    assert await left(admin) == {resource.kind for resource, _, _ in MADE}
    await metricsapi.remove(api_server.admin)
    assert await left(admin) == set()


async def test_metrics_that_somebody_else_serves_are_left_as_they_are(api_server, admin):
    theirs = {
        "metadata": {"name": metricsapi.API_SERVICE},
        "spec": {
            "group": metricsapi.GROUP,
            "version": metricsapi.VERSION,
            "service": {"namespace": "monitoring", "name": "adapter", "port": 443},
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }
    _ = await admin.create(resources.API_SERVICES, theirs)
    try:
        await metricsapi.ensure(api_server.admin, gateway=GATEWAY, port=PORT)
        await metricsapi.remove(api_server.admin)
        spec = (await admin.get(resources.API_SERVICES, metricsapi.API_SERVICE))["spec"]
        assert spec["service"]["name"] == "adapter"
        assert await left(admin) == {"APIService"}
    finally:
        await admin.delete(resources.API_SERVICES, metricsapi.API_SERVICE)
