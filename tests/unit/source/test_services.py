"""Services and EndpointSlices of a cluster: one watch each, for all pods that reach ClusterIPs."""

import itertools

import pytest
from fakes import source_world
from fakes.source_world import group, sources_of, until

from kci.kube import errors, resources

pytestmark = pytest.mark.requirement("R55")
ON_SERVICES, ON_SLICES = ("services", ""), ("endpointslices", "")


@pytest.fixture
async def api():
    return await source_world.new_api()


class Holder:
    """Holds the Services of a pod's cluster; `told` counts what it heard."""

    def __init__(self, sources, pod):
        self.told = 0
        self.services = sources.join(group(pod.uid, name=pod.metadata.name), lambda: None).services
        self.services.hold(self, self._note)

    def _note(self):
        self.told += 1


async def put_service(api, name, address="10.96.0.10"):
    spec = {"type": "ClusterIP", "clusterIP": address, "ports": [{"port": 80}]}
    await api.create(resources.SERVICES, {"metadata": {"name": name}, "spec": spec}, namespace="default")


async def put_slice(api, name, service, *addresses):
    body = {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one]} for one in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }
    return await api.create(resources.ENDPOINT_SLICES, body, namespace="default")


def addresses(services, name="web"):
    slices = services.slices(("default", name))
    return sorted(one.addresses[0] for part in slices for one in part.endpoints)


async def test_fifty_pods_share_one_list_and_one_watch_of_each(api):
    await put_service(api, "web")
    await put_slice(api, "web-1", "web", "1.0.0.1")
    async with sources_of(api) as sources:
        assert not {ON_SERVICES, ON_SLICES} & set(api.watching)
        holders = [Holder(sources, await api.add_pod(f"p{number}")) for number in range(50)]
        services = holders[0].services
        await until(lambda: services.is_known and {ON_SERVICES, ON_SLICES} <= set(api.watching))
        assert all(holder.services is services for holder in holders)
        assert api.watching.count(ON_SLICES) == api.watching.count(ON_SERVICES) == 1
        assert addresses(services) == ["1.0.0.1"]
        assert services.take_changed() == {("default", "web")}
        assert services.take_changed() == set()
        assert all(holder.told for holder in holders)


async def test_what_changes_is_named_and_told(api):
    await put_service(api, "web")
    await put_slice(api, "web-1", "web", "1.0.0.1")
    async with sources_of(api) as sources:
        holder = Holder(sources, await api.add_pod("p"))
        services = holder.services
        await until(lambda: services.is_known and {ON_SERVICES, ON_SLICES} <= set(api.watching))
        services.take_changed()
        told = itertools.count(holder.told + 1)

        async def changed():
            number = next(told)
            await until(lambda: holder.told >= number)
            holder.told = number
            return services.take_changed()

        await put_slice(api, "web-2", "web", "1.0.0.2")
        assert await changed() == {("default", "web")}
        assert addresses(services) == ["1.0.0.1", "1.0.0.2"]
        await api.delete(resources.ENDPOINT_SLICES, "web-1", namespace="default")
        assert await changed() == {("default", "web")}
        assert addresses(services) == ["1.0.0.2"]
        # A slice becomes another Service's.
        labels = {"metadata": {"labels": {"kubernetes.io/service-name": "other"}}}
        await api.patch(resources.ENDPOINT_SLICES, "web-2", labels, namespace="default")
        await until(lambda: addresses(services, "other") == ["1.0.0.2"])
        assert addresses(services) == []
        assert services.take_changed() == {("default", "web"), ("default", "other")}
        await api.delete(resources.SERVICES, "web", namespace="default")
        await until(lambda: ("default", "web") not in services.services)


async def test_a_service_that_cannot_be_read_is_not_gone_and_hides_no_other(api):
    await put_service(api, "web")
    async with sources_of(api) as sources:
        services = Holder(sources, await api.add_pod("p")).services
        await until(lambda: services.is_known)
        api.change(resources.SERVICES, "web", namespace="default", spec={"ports": "none"})
        await put_service(api, "other", "10.96.0.11")
        await until(lambda: ("default", "other") in services.services)
        assert ("default", "web") in services.services


async def test_a_refusal_is_told_with_its_remedy_until_it_is_lifted(api):
    await put_service(api, "web")
    async with sources_of(api) as sources:
        pod = await api.add_pod("p")
        source = sources.join(group(pod.uid, name="p"), lambda: None)
        await until(lambda: source.view.pod is not None and source.host_ip)
        refused = errors.ForbiddenError("cannot list endpointslices: forbidden", code=403)
        # Of Services, and of EndpointSlices.
        api.failures = [refused, refused]
        told = []
        services = source.services
        services.hold("somebody", lambda: told.append(services.problem))
        await until(lambda: services.problem)
        assert not services.is_known
        assert "system:node-proxier" in services.problem
        assert "kubectl create clusterrolebinding" in services.problem
        await until(lambda: services.is_known)
        assert services.problem == ""
        assert told[-1] == ""
        assert ("default", "web") in services.services


async def test_an_api_server_that_is_away_is_no_problem_of_pods_once_services_are_known(api):
    await put_service(api, "web")
    async with sources_of(api) as sources:
        holder = Holder(sources, await api.add_pod("p"))
        services = holder.services
        await until(lambda: services.is_known)
        services.note_failure(resources.SERVICES, errors.UnreachableError("cannot list: no answer"))
        assert services.problem == ""
        services.note_failure(resources.SERVICES, errors.ForbiddenError("cannot list: forbidden", code=403))
        assert "system:node-proxier" in services.problem
        assert ("default", "web") in services.services


async def test_the_last_one_who_leaves_ends_the_watches_after_a_while(api):
    async with sources_of(api) as sources:
        holder = Holder(sources, await api.add_pod("p"))
        services = holder.services
        await until(lambda: services.is_known and ON_SLICES in api.watching)
        services.release(holder)
        assert ON_SLICES in api.watching
        # Somebody came in time.
        services.hold(holder, lambda: None)
        services.release(holder)
        services.close()
        await until(lambda: ON_SLICES not in api.watching and ON_SERVICES not in api.watching)
        assert not services.is_known
        services.hold(holder, lambda: None)
        await until(lambda: services.is_known)
