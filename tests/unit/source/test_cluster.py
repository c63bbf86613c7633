"""Cluster sources on an API server in memory."""

import asyncio
import base64
import json

import msgspec
import pytest
from fakes import source_world
from fakes.source_world import group, kubeconfig, sources_of, until

from kci.kit import secret
from kci.kube import client, config, errors, resources
from kci.source import cluster, identity, port
from kci.source import errors as source_errors


@pytest.fixture
async def api():
    return await source_world.new_api()


async def test_groups_of_a_node_share_one_watch_and_see_their_pods(api):
    one, two = await api.add_pod("one"), await api.add_pod("two")
    changes = []
    async with sources_of(api) as sources:
        first = sources.join(group(one.uid, name="one"), lambda: changes.append("one"))
        second = sources.join(group(two.uid, name="two"), lambda: changes.append("two"))
        await until(lambda: first.view.pod and second.view.pod and first.host_ip)
        assert (api.lists, sources.connected) == (1, ["https://10.0.0.1:6443"])
        assert (first.endpoint, first.host_ip) == (port.Endpoint("10.0.0.1", 6443), "192.168.0.1")
        changes.clear()
        await api.patch(resources.PODS, "one", {"status": {"phase": "Running"}}, namespace="default",
                        subresource="status", patch_type=client.PatchType.STRATEGIC)  # fmt: skip
        await until(lambda: changes)
        assert changes == ["one"]
        await api.delete(resources.PODS, "one", namespace="default")
        await until(lambda: first.view.sight is port.Sight.ABSENT)
        assert second.view.sight is port.Sight.PRESENT


async def test_a_pod_that_a_list_lacks_is_looked_at_before_it_counts_as_absent(api):
    pod = await api.add_pod()
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        api.forget()
        await api.delete(resources.PODS, "web", namespace="default")
        api.forget()
        await until(lambda: found.view.sight is port.Sight.UNKNOWN)
        assert (await found.confirm()).sight is port.Sight.ABSENT
        assert found.view.sight is port.Sight.ABSENT


async def test_a_pod_of_another_uid_under_the_name_is_not_ours(api):
    old = await api.add_pod()
    async with sources_of(api) as sources:
        found = sources.join(group(), lambda: None)
        await until(lambda: found.view.pod)
        await api.delete(resources.PODS, "web", namespace="default")
        new = await api.add_pod()
        await until(lambda: found.view.sight is port.Sight.ABSENT)
        assert (await found.confirm()).sight is port.Sight.ABSENT
        with pytest.raises(source_errors.GoneError):
            await found.patch_status(old, {"metadata": {"uid": old.uid}, "status": {"phase": "Failed"}})
        assert (await api.get(resources.PODS, "web", namespace="default")).status == new.status


async def test_a_pod_that_a_status_finds_gone_is_absent_though_no_watch_tells(api):
    pod = await api.add_pod()
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        # The watch breaks and stays away.
        api.failures = [errors.UnreachableError("cannot reach it")] * 100
        api.cut()
        await until(lambda: len(api.failures) < 100)
        await api.delete(resources.PODS, "web", namespace="default")
        assert found.view.sight is port.Sight.PRESENT
        with pytest.raises(source_errors.GoneError):
            await found.patch_status(pod, {"metadata": {"uid": pod.uid}, "status": {"phase": "Running"}})
        assert found.view.sight is port.Sight.ABSENT


async def test_a_pod_that_cannot_be_read_is_not_absent_and_hides_no_other(api):
    def spoil():
        api.change(resources.PODS, "bad", namespace="default", spec={"containers": "none"})

    bad = await api.add_pod("bad")
    async with sources_of(api) as sources:
        found = sources.join(group(bad.uid, name="bad"), lambda: None)
        await until(lambda: found.view.pod)
        spoil()
        other = await api.add_pod("other")
        second = sources.join(group(other.uid, name="other"), lambda: None)
        await until(lambda: second.view.pod)
        # A new list does not change that.
        api.forget()
        spoil()
        api.forget()
        await until(lambda: api.lists == 2)
        assert found.view == port.View(port.Sight.PRESENT, bad)
        # A watch that begins anew has never been able to read it: then it is looked at directly.
        renewed = kubeconfig("https://10.0.0.2:6443")
        _ = sources.join(group(other.uid, text=renewed, name="other"), lambda: None)
        await until(lambda: found.view.sight is port.Sight.UNKNOWN)
        await until(lambda: second.host_ip)
        with pytest.raises(source_errors.SourceError, match="default/bad"):
            await found.confirm()
        assert found.view.sight is port.Sight.UNKNOWN
        await api.delete(resources.PODS, "bad", namespace="default")
        assert (await found.confirm()).sight is port.Sight.ABSENT


async def test_a_failed_look_says_nothing(api):
    async with sources_of(api) as sources:
        found = sources.join(group("uid-9"), lambda: None)
        await asyncio.sleep(0)
        api.failures = [errors.UnreachableError("cannot reach it"), errors.ForbiddenError("no", code=403)]
        for _ in range(2):
            with pytest.raises(source_errors.SourceError):
                await found.confirm()
        assert found.view.sight is port.Sight.UNKNOWN


async def test_a_written_status_is_seen_at_once_and_never_goes_back(api):
    pod = await api.add_pod()
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        await found.patch_status(pod, {"metadata": {"uid": pod.uid}, "status": {"phase": "Running"}})
        assert found.view.pod.status.phase == "Running"
        sources_cluster = found._cluster
        sources_cluster.note(pod)
        assert found.view.pod.status.phase == "Running"


async def test_a_newer_kubeconfig_serves_all_groups(api):
    pod = await api.add_pod()
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        renewed = kubeconfig("https://10.0.0.2:6443")
        _ = sources.join(group("uid-2", text=renewed, name="other"), lambda: None)
        await until(lambda: len(sources.connected) == 2)
        assert found.endpoint.host == "10.0.0.2"
        assert found.view.sight is port.Sight.PRESENT
        await until(lambda: api.lists == 2)


async def test_tenants_share_nothing_though_their_clusters_and_nodes_have_the_same_names(api):
    pod, other, connected = await api.add_pod(), await source_world.new_api(), []
    apis = {"https://10.0.0.1:6443": api, "https://10.0.0.2:6443": other}

    def connect(access):
        connected.append(access.server)
        return apis[access.server]

    ours = msgspec.structs.replace(group(pod.uid), tenant_id="a/c")
    renewed = kubeconfig("https://10.0.0.2:6443")
    theirs = msgspec.structs.replace(group("uid-2", text=renewed, name="other"), tenant_id="b/c")
    async with asyncio.timeout(10), cluster.ClusterSources(connect=connect) as sources:
        found = sources.join(ours, lambda: None)
        await until(lambda: found.view.pod)
        stranger = sources.join(theirs, lambda: None)
        assert (await stranger.confirm()).sight is port.Sight.ABSENT
        await found.patch_status(pod, {"metadata": {"uid": pod.uid}, "status": {"phase": "Running"}})
        assert found.view.sight is port.Sight.PRESENT
        assert (found.endpoint.host, stranger.endpoint.host) == ("10.0.0.1", "10.0.0.2")
        assert found.services.outlook != stranger.services.outlook
    assert connected == ["https://10.0.0.1:6443", "https://10.0.0.2:6443"]
    assert "pods/web" not in other.reads
    assert not other.patches


async def test_answers_are_asked_for_once(api):
    pod = await api.add_pod()
    await api.create(
        resources.CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"k": "v"}}, namespace="default"
    )
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        assert (await found.config_map("a")).data == {"k": "v"}
        assert (await found.config_map("a")).data == {"k": "v"}
        assert await found.config_map("none") is None
        assert await found.secret("none") is None
        assert api.reads.count("configmaps/a") == 1
        for _ in range(2):
            token = await found.token(pod, audience="", expiration_s=3600)
            assert token.reveal() == "default-1"
        other = await found.token(pod, audience="other", expiration_s=600)
        assert other.reveal() == "default-2"


async def test_a_services_address_is_asked_for_once_and_told_by_its_name(api):
    pod = await api.add_pod()
    await api.create(
        resources.SERVICES,
        {"metadata": {"name": "kube-dns"}, "spec": {"clusterIP": "10.96.0.10"}},
        namespace="kube-system",
    )
    told = []
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        lists = api.lists
        for _ in range(3):
            found.name_service("192.0.2.53", told.append)
            found.name_service("10.96.0.10", told.append)
        await until(lambda: len(told) == 3)
        assert told == ["kube-system/kube-dns"] * 3
        assert api.lists - lists == 2


async def test_a_service_that_is_not_found_out_is_not_told(api):
    told = []
    async with sources_of(api) as sources:
        found = sources.join(group("uid-9"), lambda: None)
        await asyncio.sleep(0)
        api.failures = [errors.ForbiddenError("no", code=403)]
        found.name_service("10.96.0.10", told.append)
        await until(lambda: not api.failures)
        found.name_service("10.96.0.10", told.append)
        await asyncio.sleep(0.01)
    assert told == []


async def test_a_kubeconfig_that_cannot_be_used_is_refused(api):
    async with sources_of(api) as sources:
        for text in ("nonsense", "a: b"):
            with pytest.raises(source_errors.RefusedError, match="kubeconfig"):
                sources.join(group("u", text=text), lambda: None)
        nameless = msgspec.structs.replace(group("u"), node_name="")
        with pytest.raises(source_errors.RefusedError, match="node"):
            sources.join(nameless, lambda: None)


async def test_events_name_the_container(api):
    pod = await api.add_pod()
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        found.record_event(pod, container="app", kind="Normal", reason="Pulled", message="it is there")
        await until(lambda: api.told)
        assert api.told[0]["involvedObject"]["fieldPath"] == "spec.containers{app}"
        assert api.told[0]["source"] == {"component": "kcilet", "host": "vn1"}
        assert api.told[0]["reason"] == "Pulled"


def test_of_two_kubeconfigs_the_one_issued_later_counts():
    def token(issued_at):
        body = base64.urlsafe_b64encode(json.dumps({"sub": "sa", "iat": issued_at}).encode()).decode()
        rendered = config.ClusterConfig(server="https://a:1", token=secret.Secret(f"h.{body.rstrip('=')}.s"))
        return identity.read(config.render(rendered))

    old, new = token(100), token(200)
    assert (old.user, new.user) == ("sa", "sa")
    assert new.is_newer_than(old)
    assert not old.is_newer_than(new)
    assert not new.is_newer_than(new)


async def test_an_answer_that_comes_after_the_deletion_brings_no_pod_back(api):
    pod = await api.add_pod()
    async with sources_of(api) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
        await api.delete(resources.PODS, "web", namespace="default")
        await until(lambda: found.view.sight is port.Sight.ABSENT)
        found._cluster.note(pod)
        assert found.view.sight is port.Sight.ABSENT


async def test_a_cluster_whose_certificates_are_none_harms_no_other(api):
    bad = config.render(config.ClusterConfig(server="https://10.0.0.1:6443", ca_pem="no PEM"))
    with pytest.raises(source_errors.RefusedError, match="certificates"):
        identity.read(bad)
    with pytest.raises(source_errors.RefusedError, match="kubeconfig"):
        identity.read(kubeconfig("https://10.0.0.1:99999"))
    pod, calls = await api.add_pod(), []

    def connect(_):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("nobody thought of this")
        return api

    async with asyncio.timeout(10), cluster.ClusterSources(connect=connect) as sources:
        found = sources.join(group(pod.uid), lambda: None)
        await until(lambda: found.view.pod)
