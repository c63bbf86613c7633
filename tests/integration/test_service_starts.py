"""How groups start: the trace that a create call brings goes on to the engine, and its steps are told."""

import asyncio
import uuid

import pytest
import service_world
from fakes import link_server, tracer

from kci.client import errors
from kci.contract import capabilities
from kci.contract import starts as api
from kci.kit import observing
from kci.link import types as link

STEPS = (
    link.StartStep(step="sandbox", began_ms=1_700_000_000_100, ended_ms=1_700_000_000_300),
    link.StartStep(step="started", began_ms=1_700_000_000_300, ended_ms=1_700_000_000_400),
)


async def running_group(world):
    group_id = await world.alice.create_container_group(service_world.create_request())
    async with service_world.watching(world.alice) as watch:
        await service_world.until(watch, lambda one: one.group and one.group.status == "Running")
    return group_id


async def start_of(world, group_id):
    """Once the engine's report is taken in."""
    async with asyncio.timeout(10):
        while not (found := await world.alice.describe_container_group_start(group_id)).steps:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def test_the_steps_of_a_start_are_told_to_their_tenant_alone(tmp_path):
    async with service_world.running(tmp_path) as world:
        assert capabilities.GROUP_START in (await world.alice.describe_capabilities()).names
        group_id = await running_group(world)
        assert (await world.alice.describe_container_group_start(group_id)).steps == ()
        world.kcilet.report(group_id, link.Phase.RUNNING, start=STEPS)
        found = await start_of(world, group_id)
        assert found.steps == tuple(
            api.StartStep(step=one.step, began_at_ms=one.began_ms, ended_at_ms=one.ended_ms) for one in STEPS
        )
        assert found.stored_at_ms > 1_700_000_000_000
        with pytest.raises(errors.NotFoundError):
            await world.bob.describe_container_group_start(group_id)
        await world.alice.delete_container_group(group_id)
        await world.service.wait_deleted(group_id)
        assert world.service.starts.steps(group_id) == ()


async def test_a_service_that_is_started_anew_is_told_again(tmp_path):
    fake = link_server.LinkServer()
    async with service_world.running(tmp_path, kcilet=fake) as world:
        group_id = await running_group(world)
        fake.report(group_id, link.Phase.RUNNING, start=STEPS)
        first = await start_of(world, group_id)
    async with service_world.running(tmp_path, kcilet=fake) as world:
        assert await start_of(world, group_id) == first


async def test_a_trace_goes_on_from_the_call_to_the_engine(tmp_path):
    spans = tracer.Tracer()
    caller = spans.begin("caller")
    async with service_world.running(tmp_path, tracer=spans) as world:
        with observing.within(caller):
            group_id = await running_group(world)
        wanted = world.kcilet.wanted[group_id]
        (served,) = [one for one in spans.named("CreateContainerGroup") if one.kind is observing.Kind.SERVER]
        (sent,) = [one for one in spans.named("CreateContainerGroup") if one.kind is observing.Kind.CLIENT]
        assert served.parent == sent.traceparent
        assert sent.parent == caller.traceparent
        assert wanted.traceparent == served.traceparent
        for name in ("store group", "ensure group", "record report"):
            # The last try: the first may come before the kcilet is there.
            found = spans.named(name)[-1]
            assert (spans.parent_of(found), found.code) == ("CreateContainerGroup", observing.OK)
        # The start is over: what is done for the group later is no part of it.
        count = len(spans.spans)
        world.kcilet.report(group_id, link.Phase.RUNNING, reason="Later", start=STEPS)
        await start_of(world, group_id)
        assert len(spans.spans) == count
        assert world.service.starts.traceparent(group_id) == ""


async def test_a_service_that_does_not_trace_carries_the_callers_trace_on(tmp_path):
    caller = tracer.Tracer().begin("caller")
    async with service_world.running(tmp_path) as world:
        with observing.within(caller):
            group_id = await world.alice.create_container_group(service_world.create_request(pod="web-7"))
            async with service_world.watching(world.alice) as watch:
                await service_world.until(watch, lambda one: one.group and one.group.status == "Running")
        (sent,) = caller.tracer.named("CreateContainerGroup")
        assert world.kcilet.wanted[group_id].traceparent == sent.traceparent


async def test_a_call_that_is_refused_ends_its_span_with_the_code(tmp_path):
    spans = tracer.Tracer()
    async with service_world.running(tmp_path, tracer=spans) as world:
        with pytest.raises(errors.NotFoundError):
            await world.alice.create_container_group(
                service_world.create_request(subnet_id=str(uuid.uuid4()))
            )
    (served,) = spans.named("CreateContainerGroup")
    assert (served.parent, served.code) == ("", "SubnetNotFound")
