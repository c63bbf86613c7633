"""Pods that reach ClusterIP services, and pods that do not, on fakes."""

import msgspec
import pytest
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.link import types as link

pytestmark = pytest.mark.guide("env KCI_KUBE_PROXY", "annotation kci-kube-proxy-enabled")
on_virtual_time = kcilet_world.on_virtual_time


def proxied():
    return msgspec.structs.replace(machine_world.group(), kube_proxy=True)


@on_virtual_time
async def test_a_pod_reaches_services_while_it_runs_and_lets_go_of_them_with_its_end():
    async with kcilet_world.world() as it:
        services = it.cluster.proxied
        services.is_known = True
        services.put("1.0.0.1")
        await it.start(proxied())
        await it.until_phase(link.Phase.RUNNING)
        network = it.drivers.network
        assert network.outlooks["uid-1"] == services.outlook
        assert network.members[services.outlook] == {"uid-1"}
        assert network.services[services.outlook]
        # A restarted kcilet takes them up again.
        await it.kill()
        services.holders.clear()
        network.members.clear()
        await it.start(proxied())
        await it.until(lambda: network.members.get(services.outlook) == {"uid-1"})
        it.cluster.delete("uid-1", 0)
        await it.until_phase(link.Phase.GONE)
        await it.until(lambda: not network.services)
        assert not services.holders
        assert "ServicesNotKnown" not in it.cluster.reasons()


@on_virtual_time
async def test_a_pod_without_kube_proxy_reaches_none_and_nothing_is_watched_for_it():
    async with kcilet_world.world() as it:
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.RUNNING)
        assert it.drivers.network.outlooks["uid-1"] == ""
        assert not it.cluster.proxied.holders
        assert not it.drivers.network.changes


@on_virtual_time
async def test_a_pod_starts_without_services_that_cannot_be_known_and_is_told():
    async with kcilet_world.world() as it:
        it.cluster.proxied.problem = "cannot list endpointslices: forbidden"
        await it.start(proxied())
        await it.until_phase(link.Phase.RUNNING)
        assert it.cluster.reasons().count("ServicesNotKnown") == 1
        it.cluster.proxied.is_known = True
        it.cluster.proxied.put("1.0.0.1")
        await it.until(lambda: bool(it.drivers.network.services))


@on_virtual_time
async def test_a_pod_starts_before_a_cluster_that_is_slow_has_listed_its_services():
    async with kcilet_world.world() as it:
        await it.start(proxied())
        await it.until_phase(link.Phase.RUNNING)
        assert it.cluster.reasons().count("ServicesNotKnown") == 1


@on_virtual_time
@pytest.mark.requirement("R55")
async def test_a_pod_whose_rules_the_kernel_refuses_is_told_of_no_services():
    async with kcilet_world.world() as it:
        services, network = it.cluster.proxied, it.drivers.network
        services.is_known = True
        services.put("1.0.0.1", name="kubernetes", address="10.96.0.1")
        network.fail_next = [ports.DriverError("cannot change the rules for Services: refused")] * 1000
        await it.start(proxied())
        await it.until_phase(link.Phase.RUNNING)
        assert not network.services
        assert it.runtime.environments[-1].get("KUBERNETES_SERVICE_HOST") != "10.96.0.1"
        # With the rules there, the next one is.
        network.fail_next.clear()
        await it.until(lambda: bool(network.services))
        it.runtime.kill_sandbox("uid-1")
        await it.until(lambda: it.runtime.names().count("run_sandbox") == 2)
        await it.until(lambda: it.runtime.environments[-1].get("KUBERNETES_SERVICE_HOST") == "10.96.0.1")


@on_virtual_time
async def test_a_pod_whose_new_kubeconfig_is_refused_reaches_its_services_until_it_has_ended():
    async with kcilet_world.world() as it:
        it.cluster.proxied.is_known = True
        it.cluster.proxied.put("1.0.0.1")
        await it.start(proxied())
        await it.until_phase(link.Phase.RUNNING)
        assert it.cluster.proxied.holders
        it.cluster.refusal = "its kubeconfig makes no sense"
        another = link.Cluster(cluster_id="c-1", kubeconfig="another")
        it.agent.want(msgspec.structs.replace(proxied(), generation=2, cluster=another))
        await it.until(lambda: it.agent.reports.get("g-1").generation == 2)
        assert it.cluster.proxied.holders
        it.agent.drop("g-1")
        await it.until_phase(link.Phase.GONE)
        assert not it.cluster.proxied.holders


@on_virtual_time
@pytest.mark.requirement("R54")
@pytest.mark.requirement("R55")
async def test_rules_that_somebody_took_away_are_brought_back_at_once():
    async with kcilet_world.world() as it:
        services, network = it.cluster.proxied, it.drivers.network
        services.is_known = True
        services.put("1.0.0.1")
        await it.start(proxied())
        await it.until_phase(link.Phase.RUNNING)
        await it.until(lambda: bool(network.services) and bool(network.guarded.value.pods))
        network.services.clear()
        network.guarded.set(ports.Firewall())
        network.meddled.set()
        await it.until(lambda: bool(network.services) and bool(network.guarded.value.pods), within_s=1)
