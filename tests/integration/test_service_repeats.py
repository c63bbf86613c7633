"""Calls that come twice, from captured bytes, from callers that retry, or from an earlier copy of a node."""

import asyncio
import contextlib
import dataclasses
import datetime
import io
import json

import aiohttp
import msgspec
import pytest
import service_process
import service_world
from fakes import link_server

from kci.client import errors
from kci.contract import credentials, ids, networks, operations, security_groups, signing, wire
from kci.contract import groups as api
from kci.kit import clock, tasks
from kci.link import types as link
from kci.service.app import accounts, changes, groups, replays
from kci.service.store import database

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


def fence(epoch, holder="c1/vk"):
    return api.Fence(holder=holder, epoch=epoch)


# ---- fences


async def stale(call):
    with pytest.raises(errors.ConflictError) as caught:
        await call
    return caught.value.code


@pytest.mark.requirement("R26")
async def test_an_older_epoch_neither_creates_nor_deletes(world):
    request = service_world.create_request(fence=fence(3))
    made = await world.alice.create_container_group(request)
    for write in (
        world.alice.create_container_group(service_world.create_request(fence=fence(2))),
        # Not even the answer to a create that was made.
        world.alice.create_container_group(msgspec.structs.replace(request, fence=fence(2))),
        world.alice.delete_container_group(made, fence=fence(2)),
    ):
        assert await stale(write) == "StaleEpoch"
    (listed,) = await world.alice.list_container_groups()
    assert listed.container_group_id == made

    # The next copy of the node asks for the same pod again, and may end it.
    assert await world.alice.create_container_group(msgspec.structs.replace(request, fence=fence(4))) == made
    await world.alice.delete_container_group(made, fence=fence(4))


@pytest.mark.requirement("R26")
async def test_epochs_are_those_of_one_tenants_one_holder(world):
    await world.alice.create_container_group(service_world.create_request(fence=fence(9)))
    await world.alice.create_container_group(service_world.create_request(fence=fence(1, "c1/other")))
    await world.bob.create_container_group(
        service_world.create_request(fence=fence(1), **service_world.OF_BOB)
    )
    # Without a fence, as other clients do it.
    made = await world.alice.create_container_group(service_world.create_request())
    await world.alice.delete_container_group(made)


@pytest.mark.requirement("R26")
async def test_the_epoch_is_known_after_a_restart(tmp_path):
    async with service_world.running(tmp_path) as world:
        await world.alice.create_container_group(service_world.create_request(fence=fence(3)))
    async with service_world.running(tmp_path) as world:
        late = world.alice.create_container_group(service_world.create_request(fence=fence(2)))
        assert await stale(late) == "StaleEpoch"


@pytest.mark.requirement("R26")
async def test_the_epoch_of_a_write_that_was_refused_for_another_reason_counts(world):
    made = await world.alice.create_container_group(service_world.create_request(fence=fence(3)))
    with pytest.raises(errors.NotFoundError):
        await world.alice.delete_container_group(ids.GroupId("kci-none"), fence=fence(4))
    assert await stale(world.alice.delete_container_group(made, fence=fence(3))) == "StaleEpoch"


async def test_a_fence_that_says_nothing_is_refused(world):
    for wrong in (fence(-1), fence(1, ""), fence(1, "a b")):
        with pytest.raises(errors.InvalidError):
            await world.alice.create_container_group(service_world.create_request(fence=wrong))


# ---- the same create


@pytest.mark.requirement("R13")
@pytest.mark.parametrize("by", ["uid", "token"])
async def test_a_hundred_equal_creates_at_once_make_one_group(world, by, runs):
    runs.count = 100
    request = service_world.create_request()
    if by == "token":
        request = msgspec.structs.replace(request, label=request.label[:4], client_token="token")
    answers = await tasks.wait_all(
        [world.alice.create_container_group(request) for _ in range(100)], name="create"
    )
    assert len(set(answers)) == 1
    assert len(await world.alice.list_container_groups()) == 1
    with pytest.raises(errors.ConflictError) as caught:
        await world.alice.create_container_group(msgspec.structs.replace(request, cpu=8))
    assert caught.value.code == "IdempotentParameterMismatch"
    # Another tenant's token and pod are its own.
    of_bob = msgspec.structs.replace(request, **service_world.OF_BOB)
    assert await world.bob.create_container_group(of_bob) != answers[0]


@pytest.mark.requirement("R13")
async def test_equal_creates_with_kills_between_make_one_group(tmp_path, runs):
    """Each caller repeats its call until it is answered, while the service dies at its writes."""
    points = ("service.insert_group.before", "store.commit.before", "store.commit.after")
    request = service_world.create_request(client_token="token")
    service = service_process.ServiceProcess(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(link_server.LinkServer().serve(str(tmp_path / "kcilet.sock")))
        await stack.enter_async_context(service_process.ended(service))
        client = await stack.enter_async_context(service.client())

        async def create():
            while True:
                try:
                    return await client.create_container_group(request)
                except (errors.UnreachableError, errors.TryLaterError):
                    await asyncio.sleep(0.01)

        await service.start(crash_at=f"{points[0]} 1")
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            callers = [group.create_task(create()) for _ in range(100)]
            for point in (*points[1:], ""):
                await service.process.wait()
                await service.start(crash_at=f"{point} 1" if point else "")
        runs.count = len(callers)
        assert len({caller.result() for caller in callers}) == 1
        assert len(await client.list_container_groups()) == 1


class SetClock:
    """Says what it is set to."""

    def __init__(self):
        self.moment = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)

    def now(self):
        return self.moment


@pytest.mark.requirement("R13")
async def test_a_token_is_known_for_a_day_after_its_groups_deletion(tmp_path):
    wall = SetClock()
    caller = accounts.Identity(
        service_world.ALICE.tenant_id, "AKALICE", "signature", datetime.datetime.now(datetime.UTC)
    )
    request = service_world.create_request(client_token="token")
    with database.open_database(tmp_path / "kci.db", service_world.KEY) as store:
        used = replays.Replays(store, wall, window_s=300)
        service = groups.GroupService(
            store, service_world.PLACE, changes.Feed(), wall, used, on_work=lambda _: None
        )
        await service_world.prepare(store)
        made = await service.create(caller, request)
        await service.delete(caller, made)
        await service.record(link.GroupReport(group_id=made, generation=0, phase=link.Phase.GONE))
        wall.moment += datetime.timedelta(hours=24)
        assert await service.remove_tombstones() == 0
        assert await service.create(caller, request) == made
        wall.moment += datetime.timedelta(seconds=1)
        assert await service.remove_tombstones() == 1
        assert await service.create(caller, request) != made


# ---- captured bytes


class Captured:
    """One signed request, to be sent again exactly as it is."""

    def __init__(self, endpoint, operation, parameters):
        pairs = [
            ("Action", operation.action),
            ("Version", operation.version),
            *wire.flatten(msgspec.to_builtins(parameters)),
        ]
        self._body = wire.encode_pairs(pairs).encode()
        self._endpoint = endpoint
        headers = [("host", endpoint), ("content-type", FORM)]
        self._headers = headers + signing.sign(
            signing.Request("POST", "/", [], headers, self._body),
            service_world.keys_of(service_world.ALICE),
            region=service_world.REGION,
            now=clock.SystemClock().now(),
            service=operation.service,
        )

    async def send(self, session):
        """The status, and the answer without what differs in each: the request's id."""
        headers = [*self._headers, ("accept", "application/json")]
        url = f"http://{self._endpoint}/"
        async with session.post(url, data=io.BytesIO(self._body), headers=headers) as answer:
            content = json.loads(await answer.read())
            content.pop("RequestId")
            return answer.status, content


@pytest.mark.requirement("R46")
async def test_captured_calls_have_no_second_effect_not_even_after_a_restart(tmp_path, runs):
    times = runs.scale(quick=25, faults=100, release=100)
    service = service_process.ServiceProcess(tmp_path)
    kcilet = link_server.LinkServer()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(kcilet.serve(str(tmp_path / "kcilet.sock")))
        await stack.enter_async_context(service_process.ended(service))
        client = await stack.enter_async_context(service.client())
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await service.start()
        other = await client.create_container_group(service_world.create_request())

        create = Captured(service.endpoint, operations.CREATE_CONTAINER_GROUP, service_world.create_request())
        first = await create.send(session)
        made = first[1]["ContainerGroupId"]
        command = Captured(
            service.endpoint,
            operations.EXEC_CONTAINER_COMMAND,
            api.ExecContainerCommand(container_group_id=other, container_name="web", command=("id",)),
        )
        assert (await command.send(session))[0] == 200
        delete = Captured(
            service.endpoint,
            operations.DELETE_CONTAINER_GROUP,
            api.DeleteContainerGroup(container_group_id=made),
        )
        async with service_world.watching(client) as watch:
            await service_world.until(watch, lambda change: change.synced)
            assert await delete.send(session) == (200, {})
            await service_world.until(watch, lambda change: change.group_id == made and change.absent)
        for restart in (False, True):
            if restart:
                await service.kill()
                await service.start()
            for _ in range(times):
                assert await create.send(session) == first
                assert await delete.send(session) == (200, {})
                status, content = await command.send(session)
                assert (status, content["Error"]["Code"]) == (403, "ReplayedRequest")
        (listed,) = await client.list_container_groups()
        assert listed.container_group_id == other
        # A delete that is signed anew is told the truth.
        with pytest.raises(errors.NotFoundError):
            await client.delete_container_group(made)


REPLAYED = (403, "ReplayedRequest")
# A call of each operation that changes something, by what there is, and what a second one is answered; None:
# as the first one.
CHANGES = {
    operations.CREATE_CONTAINER_GROUP: (lambda _: service_world.create_request(), None),
    operations.DELETE_CONTAINER_GROUP: (
        lambda there: api.DeleteContainerGroup(container_group_id=there.group),
        None,
    ),
    operations.EXEC_CONTAINER_COMMAND: (
        lambda there: api.ExecContainerCommand(
            container_group_id=there.group, container_name="web", command=("id",)
        ),
        REPLAYED,
    ),
    operations.ATTACH_CONTAINER: (
        lambda there: api.AttachContainer(container_group_id=there.group, container_name="web"),
        REPLAYED,
    ),
    operations.PORT_FORWARD_CONTAINER_GROUP: (
        lambda there: api.PortForwardContainerGroup(container_group_id=there.group, port=80),
        REPLAYED,
    ),
    operations.ISSUE_CREDENTIALS: (lambda _: credentials.IssueCredentials(), REPLAYED),
    operations.CREATE_VPC: (lambda _: networks.CreateVpc(cidr_block="10.30.0.0/16"), REPLAYED),
    operations.DELETE_VPC: (lambda there: networks.DeleteVpc(vpc_id=there.empty_vpc), REPLAYED),
    operations.CREATE_SUBNET: (
        lambda there: networks.CreateSubnet(vpc_id=there.vpc, cidr_block="10.20.1.0/24"),
        REPLAYED,
    ),
    operations.MODIFY_SUBNET: (
        lambda there: networks.ModifySubnet(subnet_id=there.subnet, subnet_name="web"),
        REPLAYED,
    ),
    operations.DELETE_SUBNET: (lambda there: networks.DeleteSubnet(subnet_id=there.subnet), REPLAYED),
    operations.CREATE_SECURITY_GROUP: (
        lambda there: security_groups.CreateSecurityGroup(vpc_id=there.vpc, security_group_name="web"),
        REPLAYED,
    ),
    operations.MODIFY_SECURITY_GROUP: (
        lambda there: security_groups.ModifySecurityGroup(
            security_group_id=there.security_group, security_group_name="db"
        ),
        REPLAYED,
    ),
    operations.DELETE_SECURITY_GROUP: (
        lambda there: security_groups.DeleteSecurityGroup(security_group_id=there.security_group),
        REPLAYED,
    ),
    operations.AUTHORIZE_SECURITY_GROUP_ENTRY: (lambda there: there.rule(443), REPLAYED),
    operations.REVOKE_SECURITY_GROUP_ENTRY: (
        lambda there: security_groups.RevokeSecurityGroupEntry(
            security_group_id=there.security_group, security_group_entry_id=there.rule_id
        ),
        REPLAYED,
    ),
}


@dataclasses.dataclass
class There:
    """Ids of what calls may name."""

    group: str
    vpc: str
    empty_vpc: str
    subnet: str
    security_group: str
    rule_id: str = ""

    def rule(self, port):
        return security_groups.AuthorizeSecurityGroupEntry(
            security_group_id=self.security_group,
            direction="in",
            protocol="tcp",
            port_range_from=port,
            port_range_to=port,
            cidr_block="192.0.2.0/24",
        )


async def _prepare(client):
    vpc, empty = [
        await client.vpc.create_vpc(networks.CreateVpc(cidr_block=cidr))
        for cidr in ("10.20.0.0/16", "10.21.0.0/16")
    ]
    subnet = await client.vpc.create_subnet(
        networks.CreateSubnet(vpc_id=vpc.vpc_id, cidr_block="10.20.0.0/24")
    )
    security_group = await client.vpc.create_security_group(
        security_groups.CreateSecurityGroup(vpc_id=vpc.vpc_id, security_group_name="web")
    )
    there = There(
        await client.create_container_group(service_world.create_request()),
        vpc.vpc_id,
        empty.vpc_id,
        subnet.subnet_id,
        security_group.security_group_id,
    )
    there.rule_id = await client.vpc.authorize_security_group_entry(there.rule(80))
    return there


async def _state(client):
    """Everything that calls change."""
    return (
        [group.container_group_id for group in await client.list_container_groups()],
        await client.vpc.list_vpcs(),
        await client.vpc.list_subnets(),
        await client.vpc.list_security_groups(),
    )


def test_each_operation_that_changes_something_is_tried():
    reads = ("Describe", "Stream", "Watch")
    changing = {action for action in operations.ALL if not action.startswith(reads)}
    assert {operation.action for operation in CHANGES} == changing


@pytest.mark.requirement("R46")
@pytest.mark.parametrize("operation", CHANGES, ids=lambda operation: operation.action)
async def test_a_captured_call_of_any_operation_has_its_effect_once(world, operation):
    parameters, second = CHANGES[operation]
    there = await _prepare(world.alice)
    captured = Captured(world.endpoint, operation, parameters(there))
    async with aiohttp.ClientSession() as session:
        first = await captured.send(session)
        assert first[0] == 200, first
        if operation is operations.DELETE_CONTAINER_GROUP:
            async with asyncio.timeout(10):
                await world.service.wait_deleted(there.group)
        after = await _state(world.alice)
        status, content = await captured.send(session)
    if second is None:
        assert (status, content) == first
    else:
        assert (status, content["Error"]["Code"]) == second
    assert await _state(world.alice) == after


@pytest.mark.requirement("R46")
async def test_a_captured_call_brings_back_no_rule_that_was_revoked_since(world):
    there = await _prepare(world.alice)
    captured = Captured(world.endpoint, operations.AUTHORIZE_SECURITY_GROUP_ENTRY, there.rule(443))
    before = await _state(world.alice)
    async with aiohttp.ClientSession() as session:
        _, content = await captured.send(session)
        (rule_id,) = content["SecurityGroupEntryIdSet"]
        await world.alice.vpc.revoke_security_group_entry(there.security_group, rule_id)
        assert await _state(world.alice) == before
        status, content = await captured.send(session)
    assert (status, content["Error"]["Code"]) == REPLAYED
    assert await _state(world.alice) == before


async def test_a_call_that_was_refused_may_come_again(world):
    there = await _prepare(world.alice)
    captured = Captured(world.endpoint, operations.DELETE_VPC, networks.DeleteVpc(vpc_id=there.vpc))
    async with aiohttp.ClientSession() as session:
        assert (await captured.send(session))[1]["Error"]["Code"] == "VpcInUse"
        await world.alice.vpc.delete_subnet(there.subnet)
        await world.alice.vpc.delete_security_group(there.security_group)
        assert (await captured.send(session))[0] == 200
