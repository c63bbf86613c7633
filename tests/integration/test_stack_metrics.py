"""The cluster's side of metrics-server at a real API server."""

import base64

import pytest

from kci.kube import client as clients
from kci.kube import errors, resources
from kci.stack import metricsapi

pytestmark = pytest.mark.integration

GATEWAY, PORT = "10.88.0.1", 40443
WHERE = {"namespace": metricsapi.NAMESPACE}


@pytest.fixture
async def clean(api_server):
    """The API server is shared by all tests of a session."""
    yield
    await metricsapi.remove(api_server.admin)


async def left(admin):
    found = set()
    for one in metricsapi.OBJECTS:
        try:
            _ = await admin.get(one.resource, one.name, namespace=one.namespace)
            found.add(str(one))
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
    assert await left(admin) == set(map(str, metricsapi.OBJECTS))
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
        assert await left(admin) == {f"APIService {metricsapi.API_SERVICE}"}
    finally:
        await admin.delete(resources.API_SERVICES, metricsapi.API_SERVICE)


async def test_what_a_start_came_to_before_it_was_cut_off_goes_too(api_server, admin):
    await metricsapi.ensure(api_server.admin, gateway=GATEWAY, port=PORT)
    await admin.delete(resources.API_SERVICES, metricsapi.API_SERVICE)
    await metricsapi.remove(api_server.admin)
    assert await left(admin) == set()


async def test_a_service_of_that_name_which_somebody_made_is_neither_changed_nor_removed(api_server, admin):
    theirs = {"metadata": {"name": metricsapi.SERVICE}, "spec": {"ports": [{"port": 4443}]}}
    _ = await admin.create(resources.SERVICES, theirs, namespace=metricsapi.NAMESPACE)
    try:
        await metricsapi.ensure(api_server.admin, gateway=GATEWAY, port=PORT)
        await metricsapi.remove(api_server.admin)
        assert await left(admin) == {f"Service {metricsapi.SERVICE}"}
        found = await admin.get(resources.SERVICES, metricsapi.SERVICE, **WHERE)
        assert [one.port for one in found.spec.ports] == [4443]
    finally:
        await admin.delete(resources.SERVICES, metricsapi.SERVICE, **WHERE)
