"""The cluster's side of its DNS at a real API server."""

import contextlib
import ipaddress

import apiserver_fixture
import pytest

from kci.kube import client as clients
from kci.kube import errors, resources
from kci.stack import clusterdns

pytestmark = pytest.mark.integration

SERVICES = ipaddress.IPv4Network(apiserver_fixture.SERVICE_RANGE)
GATEWAY = "10.88.0.1"
WHERE = {"namespace": clusterdns.NAMESPACE}


@pytest.fixture
async def clean(admin):
    """The API server is shared by all tests of a session."""
    yield
    for resource, name, where in (
        (resources.SERVICES, clusterdns.SERVICE, WHERE),
        (resources.ENDPOINT_SLICES, clusterdns.SLICE, WHERE),
        (resources.CLUSTER_ROLE_BINDINGS, clusterdns.ROLE, {}),
        (resources.CLUSTER_ROLES, clusterdns.ROLE, {}),
    ):
        with contextlib.suppress(errors.NotFoundError):
            await admin.delete(resource, name, **where)


@pytest.mark.usefixtures("clean")
async def test_coredns_gets_its_rights_and_the_usual_service_as_often_as_it_is_asked_for(api_server, admin):
    assert await clusterdns.find(api_server.admin) == ""
    for gateway in ("10.88.0.9", GATEWAY):
        await clusterdns.ensure(api_server.admin, services=SERVICES, gateway=gateway)
    found = await admin.get(resources.ENDPOINT_SLICES, clusterdns.SLICE, **WHERE)
    assert [one.addresses for one in found.endpoints] == [(GATEWAY,)]
    assert await clusterdns.find(api_server.admin) == str(SERVICES.network_address + clusterdns.NUMBER)

    async with clients.Client(api_server.user(clusterdns.USER)) as coredns:
        for readable in (resources.SERVICES, resources.ENDPOINT_SLICES, resources.PODS):
            _ = await coredns.list_all(readable)
        with pytest.raises(errors.ForbiddenError):
            _ = await coredns.list_all(resources.SECRETS)
        with pytest.raises(errors.ForbiddenError):
            _ = await coredns.get(resources.SERVICES, clusterdns.SERVICE, **WHERE)


@pytest.mark.usefixtures("clean")
async def test_a_node_may_ask_whose_an_address_is(api_server):
    await clusterdns.ensure(api_server.admin, services=SERVICES, gateway=GATEWAY)
    address = await clusterdns.find(api_server.admin)
    async with clients.Client(api_server.node("asks-for-dns")) as node:

        async def names(of):
            listed = await node.list_all(resources.SERVICES, field_selector=f"spec.clusterIP={of}")
            return [one.metadata.name for one in listed.items]

        assert await names(address) == [clusterdns.SERVICE]
        assert await names("192.0.2.53") == []


@pytest.mark.usefixtures("clean")
async def test_a_service_that_somebody_else_made_is_left_as_it_is(api_server, admin):
    theirs = {
        "metadata": {"name": clusterdns.SERVICE},
        "spec": {"selector": {"app": "their-dns"}, "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
    }
    before = await admin.create(resources.SERVICES, theirs, **WHERE)
    await clusterdns.ensure(api_server.admin, services=SERVICES, gateway=GATEWAY)
    after = await admin.get(resources.SERVICES, clusterdns.SERVICE, **WHERE)
    assert after.metadata.resource_version == before.metadata.resource_version
    with pytest.raises(errors.NotFoundError):
        _ = await admin.get(resources.ENDPOINT_SLICES, clusterdns.SLICE, **WHERE)
