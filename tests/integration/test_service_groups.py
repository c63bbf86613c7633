"""Groups from the signed call to the (simulated) machine and back."""

import asyncio
import contextlib

import msgspec
import pytest
import service_world
from fakes import link_server

from kci.client import errors
from kci.contract import capabilities, packages
from kci.contract import groups as api
from kci.kit import clock, tasks
from kci.link import types as link
from kci.service.app import changes, groups, replays
from kci.service.engines import local
from kci.service.reconcilers import groups as group_reconciler
from kci.service.reconcilers import reports
from kci.service.store import database

MACHINE_DNS = api.MachineDnsConfig(
    name_server=("192.0.2.53",),
    search=("corp.example",),
    option=(api.DnsOption(name="timeout", value="1"), api.DnsOption(name="rotate")),
)


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


def _is(group_id, *, status="", absent=False):
    def wanted(change):
        if change.group_id != group_id:
            return False
        return change.absent if absent else change.group is not None and change.group.status == status

    return wanted


async def test_a_group_runs_is_described_and_ends(world):
    async with service_world.watching(world.alice) as watch:
        assert (await anext(watch)).synced
        group_id = await world.alice.create_container_group(
            service_world.create_request(
                cpu=0.5, memory=7.8, cluster_dns="10.0.0.10", machine_dns_config=MACHINE_DNS
            )
        )
        running = await service_world.until(watch, _is(group_id, status="Running"))

        (listed,) = await world.alice.list_container_groups(ids=(group_id,))
        assert listed == running.group
        assert listed.private_address == "10.9.0.2"
        # Rounded up to a size that there is.
        assert (listed.cpu, listed.memory) == (2, 8)
        assert listed.label("pod-name") == "web-0"
        wanted = world.kcilet.wanted[group_id]
        assert wanted.interface == link.Interface(
            address="10.9.0.2", prefix_length=24, gateway="10.9.0.1", mac_address="0a:58:0a:09:00:02"
        )
        assert service_world.CANARY in wanted.cluster.kubeconfig
        assert (wanted.cpu_milli, wanted.memory_mib) == (2000, 8192)
        assert wanted.security_group_ids == (service_world.SECURITY_GROUP_ID,)
        assert wanted.tenant_id
        assert wanted.cluster_dns == ("10.0.0.10",)
        assert (wanted.machine_dns, wanted.machine_searches) == (("192.0.2.53",), ("corp.example",))
        assert wanted.machine_options == ("timeout:1", "rotate")

        await world.alice.delete_container_group(group_id)
        await service_world.until(watch, _is(group_id, absent=True))
        assert await world.alice.list_container_groups() == []
        with pytest.raises(errors.NotFoundError):
            await world.alice.delete_container_group(group_id)


async def test_the_same_pod_gets_the_same_group_even_from_many_calls_at_once(world):
    request = service_world.create_request()
    made = await asyncio.wait_for(_all(world.alice.create_container_group(request) for _ in range(50)), 20)
    assert len(set(made)) == 1
    assert len(await world.alice.list_container_groups()) == 1

    renewed = msgspec.structs.replace(request, kube_config="renewed")
    assert await world.alice.create_container_group(renewed) == made[0]
    with pytest.raises(errors.ConflictError) as caught:
        await world.alice.create_container_group(msgspec.structs.replace(request, cpu=8))
    assert caught.value.code == "IdempotentParameterMismatch"


async def test_the_kubeconfig_that_a_node_gave_last_serves_its_other_groups_past_a_restart(tmp_path):
    async with service_world.running(tmp_path) as world:
        stays = await world.alice.create_container_group(service_world.create_request(kube_config="first"))
        other = await world.alice.create_container_group(
            service_world.create_request(cluster="c2", kube_config="of another cluster")
        )
        goes = await world.alice.create_container_group(service_world.create_request(kube_config="second"))
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, _is(goes, status="Running"))
            await world.alice.delete_container_group(goes)
            await service_world.until(watch, _is(goes, absent=True))
        await world.service.remove_tombstones()

    reborn = link_server.LinkServer()
    async with service_world.running(tmp_path, kcilet=reborn), asyncio.timeout(10):
        while not reborn.wanted:  # noqa: ASYNC110  (another program's state)
            await asyncio.sleep(0.01)
        assert reborn.calls == ["GET /v1/reports", "PUT /v1/groups"]
        assert {group_id: wanted.cluster.kubeconfig for group_id, wanted in reborn.wanted.items()} == {
            stays: "second",
            other: "of another cluster",
        }


async def test_a_repeated_create_brings_the_machine_its_newer_kubeconfig(world):
    request = service_world.create_request(kube_config="first")
    group_id = await world.alice.create_container_group(request)
    renewed = msgspec.structs.replace(request, kube_config="renewed")
    assert await world.alice.create_container_group(renewed) == group_id
    async with asyncio.timeout(10):
        while world.kcilet.wanted[group_id].cluster.kubeconfig != "renewed":  # noqa: ASYNC110  (as above)
            await asyncio.sleep(0.01)
    (wanted,), _ = await world.service.wanted()
    assert wanted.cluster.kubeconfig == "renewed"


async def test_a_repeated_create_after_the_deletion_makes_no_second_group(world):
    request = service_world.create_request()
    group_id = await world.alice.create_container_group(request)
    async with service_world.watching(world.alice) as watch:
        await service_world.until(watch, _is(group_id, status="Running"))
        await world.alice.delete_container_group(group_id)
        await service_world.until(watch, _is(group_id, absent=True))
    assert await world.alice.create_container_group(request) == group_id
    assert await world.alice.list_container_groups() == []


async def test_a_client_token_is_the_tenants_own(world):
    request = service_world.create_request(client_token="t-1", label=service_world.create_request().label[:4])
    assert await world.alice.create_container_group(request) == await world.alice.create_container_group(
        request
    )
    of_bob = msgspec.structs.replace(request, **service_world.OF_BOB)
    assert await world.bob.create_container_group(of_bob) not in {
        group.container_group_id for group in await world.alice.list_container_groups()
    }


async def test_a_foreign_group_looks_missing(world):
    group_id = await world.alice.create_container_group(service_world.create_request())
    missing = "99999999-9999-4999-8999-999999999999"
    assert await world.bob.list_container_groups(ids=(group_id,)) == []
    for call in (
        world.bob.delete_container_group,
        lambda value: world.bob.describe_container_log(value, "web", 10),
        lambda value: world.bob.exec_container_command(value, "web", ["id"]),
        lambda value: anext(world.bob.stream_container_log(value, "web")),
    ):
        answers = []
        for value in (group_id, missing):
            with pytest.raises(errors.NotFoundError) as caught:
                await call(value)
            answers.append((str(caught.value), caught.value.code))
        assert answers[0] == answers[1]
    assert [group.container_group_id for group in await world.alice.list_container_groups()] == [group_id]


async def test_groups_are_listed_in_pages_and_by_filter(world):
    made = [
        await world.alice.create_container_group(service_world.create_request(pod=f"p-{n}"))
        for n in range(103)
    ]
    for _ in range(2):
        listed = await world.alice.list_container_groups()
        assert [group.container_group_id for group in listed] == made
        # Asked for them, the client knows that the order may be relied on.
        assert (await world.alice.describe_capabilities()).has(capabilities.ORDERED_LIST)
    assert len({group.private_address for group in listed}) == 103
    assert await world.alice.list_container_groups(filters={"status": ["Failed"]}) == []
    assert (
        len(await world.alice.list_container_groups(filters={"subnet-id": [service_world.SUBNET_ID]})) == 103
    )
    with pytest.raises(errors.InvalidError):
        await world.alice.list_container_groups(filters={"colour": ["red"]})


async def test_a_watch_is_narrowed_to_a_node(world):
    await world.alice.create_container_group(service_world.create_request())
    async with asyncio.timeout(5):
        for node, first_is_mark in (("vk", False), ("other", True)):
            watch = world.alice.watch_container_groups(cluster_id="c1", node_name=node)
            async with contextlib.aclosing(watch):
                assert (await anext(watch)).synced is first_is_mark


@pytest.mark.guide("limit sizes")
async def test_the_sizes_that_there_are_are_told_and_larger_ones_refused(world):
    offered = await world.alice.describe_kci_packages()
    assert offered == packages.STANDARD
    with pytest.raises(errors.InvalidError, match="the largest is 64 cores and 512 GiB"):
        await world.alice.create_container_group(service_world.create_request(cpu=65, memory=1))


@pytest.mark.guide("limit sizes")
async def test_a_file_says_which_sizes_there_are(tmp_path):
    file = tmp_path / "sizes.json"
    file.write_text('{"Packages": [{"Cpu": 3, "Mem": [7.5, 5]}]}')
    async with service_world.running(tmp_path, table=packages.read_table(file.read_bytes(), str(file))) as it:
        (package,) = (await it.alice.describe_kci_packages()).packages
        assert (package.cpu, package.mem) == (3, (5, 7.5))
        group_id = await it.alice.create_container_group(service_world.create_request(cpu=1, memory=6))
        (listed,) = await it.alice.list_container_groups(ids=(group_id,))
        assert (listed.cpu, listed.memory) == (3, 7.5)


async def test_what_the_service_can_do_is_told(world):
    assert (await world.alice.describe_capabilities()).names == frozenset(capabilities.ALL)


async def test_reports_of_another_generation_change_nothing(world):
    group_id = await world.alice.create_container_group(service_world.create_request())
    async with service_world.watching(world.alice) as watch:
        await service_world.until(watch, _is(group_id, status="Running"))
        world.kcilet.report(group_id, link.Phase.FAILED, generation=7)
        world.kcilet.report(group_id, link.Phase.SUCCEEDED, reason="Completed")
        change = await service_world.until(watch, lambda change: change.group_id == group_id)
        assert (change.group.status, change.group.status_reason) == ("Succeeded", "Completed")


async def test_a_group_that_went_by_itself_stays_listed_until_its_deletion_is_asked_for(world):
    group_id = await world.alice.create_container_group(service_world.create_request())
    async with service_world.watching(world.alice) as watch:
        await service_world.until(watch, _is(group_id, status="Running"))
        world.kcilet.report(group_id, link.Phase.GONE)
        await service_world.until(watch, _is(group_id, status="Unknown"))
        await world.alice.delete_container_group(group_id)
        await service_world.until(watch, _is(group_id, absent=True))
    assert f"DELETE /v1/groups/{group_id}" not in world.kcilet.calls


async def test_a_group_that_went_is_not_begun_anew_by_a_kcilet_that_forgot_it(tmp_path):
    kcilet = link_server.LinkServer()
    async with service_world.running(tmp_path, kcilet=kcilet) as world:
        went = await world.alice.create_container_group(service_world.create_request())
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, _is(went, status="Running"))
            kcilet.report(went, link.Phase.GONE)
            await service_world.until(watch, _is(went, status="Unknown"))

    reborn = link_server.LinkServer()
    async with service_world.running(tmp_path, kcilet=reborn) as world:
        stays = await world.alice.create_container_group(service_world.create_request())
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, _is(stays, status="Running"))
        assert set(reborn.wanted) == {stays}


async def test_an_engine_that_is_away_is_told_of_in_one_readable_line(tmp_path, capfd):
    socket = tmp_path / "kcilet.sock"
    with database.open_database(tmp_path / "service.db", service_world.KEY) as store:
        async with local.LocalEngine(str(socket)) as engine:
            reconciler = group_reconciler.GroupReconciler(engine)
            wall = clock.SystemClock()
            used = replays.Replays(store, wall, window_s=300)
            service = groups.GroupService(
                store, service_world.PLACE, changes.Feed(), wall, used, on_work=reconciler.signal
            )
            fake = link_server.LinkServer()
            async with (
                tasks.background("reports", reports.ReportReader(engine, service, reconciler).run()),
                asyncio.timeout(20),
            ):
                printed = ""
                while "engine is away" not in printed:
                    printed += "".join(capfd.readouterr())
                    await asyncio.sleep(0.05)
                async with fake.serve(str(socket)):
                    while "engine is in step" not in printed:
                        printed += "".join(capfd.readouterr())
                        await asyncio.sleep(0.05)
    away = [line for line in printed.splitlines() if "warning" in line and "cannot reach" in line]
    assert len(away) == 1
    assert f"cannot reach the kcilet at {socket}: No such file or directory" in away[0]
    assert "ConnectionKey" not in printed


async def test_wishes_wait_for_an_engine_that_is_away_and_go_down_whole_when_it_comes(tmp_path):
    kcilet = link_server.LinkServer()
    kcilet.ends_at_once = False
    async with service_world.running(tmp_path, kcilet=kcilet) as world:
        stays = await world.alice.create_container_group(service_world.create_request())
        goes = await world.alice.create_container_group(service_world.create_request())
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, _is(goes, status="Running"))
        await world.alice.delete_container_group(goes)
        (first,) = {call for call in kcilet.calls if call.startswith("PUT /v1/groups") and len(call) < 20}
        assert kcilet.calls.index("GET /v1/reports") < kcilet.calls.index(first)

    reborn = link_server.LinkServer()
    async with service_world.running(tmp_path, kcilet=reborn) as world, asyncio.timeout(10):
        async with contextlib.aclosing(world.alice.watch_container_groups()) as watch:
            # The new kcilet knows nothing of it: that is evidence enough.
            await service_world.until(watch, lambda change: change.group_id == goes and change.absent)
        assert reborn.calls[:2] == ["GET /v1/reports", "PUT /v1/groups"]
        assert set(reborn.wanted) == {stays}


async def _all(work):
    async with asyncio.TaskGroup() as group:
        started = [group.create_task(step) for step in work]
    return [task.result() for task in started]
