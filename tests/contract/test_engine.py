"""What every engine must keep to at the port: the one in memory, and the local one over its real protocol."""

import asyncio
import contextlib

import pytest
from fakes import engine as fakes
from fakes import link_server

from kci.contract import ids
from kci.kit import channels
from kci.link import types as link
from kci.service.engines import local, port

GROUP = ids.GroupId("11111111-1111-4111-8111-111111111111")
OTHER = ids.GroupId("22222222-2222-4222-8222-222222222222")


def wanted(group_id=GROUP, generation=1):
    return link.WantedGroup(
        group_id=group_id,
        generation=generation,
        cluster=link.Cluster(cluster_id="c", kubeconfig="k"),
        namespace="default",
        pod_name="web",
        interface=link.Interface(
            address="10.9.0.2", prefix_length=24, gateway="10.9.0.1", mac_address="0a:58:0a:09:00:02"
        ),
    )


@pytest.fixture(params=["memory", "local"])
async def parts(request, tmp_path):
    """The engine, and what stands for its machine (`wanted`, `logs`)."""
    if request.param == "memory":
        engine = fakes.MemoryEngine()
        yield engine, engine
        return
    machine = link_server.LinkServer()
    machine.phases = [link.Phase.RUNNING]
    socket = str(tmp_path / "kcilet.sock")
    async with machine.serve(socket), local.LocalEngine(socket) as engine:
        yield engine, machine


class TestEngine:
    async def test_nothing_is_accepted_before_it_is_in_step(self, parts):
        engine, machine = parts
        for attempt in (lambda: engine.ensure(wanted()), lambda: engine.remove(GROUP)):
            with pytest.raises(port.UnreachableError):
                await attempt()
        async with engine.observe():
            with pytest.raises(port.UnreachableError):
                await engine.ensure(wanted())
            await engine.sync([])
            await engine.ensure(wanted())
        assert set(machine.wanted) == {GROUP}
        with pytest.raises(port.UnreachableError):
            await engine.ensure(wanted())

    async def test_reports_tell_all_there_is_and_then_each_change(self, parts):
        engine, _ = parts
        async with asyncio.timeout(5):
            async with engine.observe() as reports:
                await engine.sync([wanted()])
                assert await anext(reports) == _report(link.Phase.RUNNING)
            async with engine.observe() as reports:
                await engine.sync([wanted()])
                assert await anext(reports) == _report(link.Phase.RUNNING)
                await engine.remove(GROUP)
                assert await anext(reports) == _report(link.Phase.GONE)

    async def test_what_is_not_in_the_wanted_set_goes(self, parts):
        engine, machine = parts
        async with engine.observe():
            await engine.sync([wanted(), wanted(OTHER)])
            await engine.sync([wanted(OTHER)])
        assert set(machine.wanted) == {OTHER}

    async def test_security_groups_come_with_the_wanted_set_and_whenever_they_change(self, parts):
        engine, machine = parts
        secured = [
            link.SecurityGroups(
                generation=number,
                security_groups=(
                    link.SecurityGroup(
                        security_group_id="web",
                        rules=(link.SecurityGroupRule(direction=link.Direction.IN, priority=number),),
                    ),
                ),
            )
            for number in (1, 2)
        ]
        with pytest.raises(port.UnreachableError):
            await engine.set_security_groups(secured[0])
        async with engine.observe():
            await engine.sync([wanted()], security_groups=secured[0])
            assert machine.security_groups == secured[0]
            await engine.set_security_groups(secured[1])
            assert machine.security_groups == secured[1]

    async def test_it_tells_what_groups_use_once_it_is_in_step(self, parts):
        engine, machine = parts
        usage = link.Usage(time_ns=5, cpu_core_ns=7, working_set_bytes=9)
        container = link.ContainerUsage(name="app", started_at_ns=3, usage=usage)
        machine.usages = link.Usages(
            groups=(
                link.GroupUsage(
                    group_id=GROUP,
                    started_at_ns=2,
                    usage=usage,
                    traffic=link.Traffic(sent_bytes=4),
                    containers=(container,),
                ),
            )
        )
        with pytest.raises(port.UnreachableError):
            await engine.read_usage()
        async with engine.observe():
            await engine.sync([wanted()])
            assert await engine.read_usage() == machine.usages

    async def test_wishes_may_be_repeated(self, parts):
        engine, machine = parts
        async with asyncio.timeout(5), engine.observe() as reports:
            await engine.sync([])
            for _ in range(2):
                await engine.ensure(wanted())
            assert machine.wanted == {GROUP: wanted()}
            for _ in range(2):
                await engine.remove(GROUP)
            # Nothing of it was ever there: it is gone all the same.
            await engine.remove(OTHER)
            async for report in reports:
                if report.group_id == OTHER:
                    assert report.phase is link.Phase.GONE
                    break

    async def test_a_log_is_there_or_missing(self, parts):
        engine, machine = parts
        machine.logs[GROUP, "web"] = b"hello\n"
        async with engine.observe():
            await engine.sync([wanted()])
            async with engine.open_log(GROUP, "web", link.LogOptions()) as chunks:
                assert b"".join([chunk async for chunk in chunks]) == b"hello\n"
            with pytest.raises(port.NotFoundError):
                async with engine.open_log(GROUP, "none", link.LogOptions()):
                    pass

    @pytest.mark.parametrize(
        "opened",
        [
            lambda engine, group: engine.open_exec(
                group, "web", link.ExecOptions(command=("cat",), stdin=True)
            ),
            lambda engine, group: engine.open_attach(group, "web", link.AttachOptions(stdin=True)),
            lambda engine, group: engine.open_port(group, 80),
        ],
    )
    async def test_streams_are_talked_to_in_v5(self, parts, opened):
        engine, _ = parts
        async with engine.observe(), contextlib.AsyncExitStack() as stack, asyncio.timeout(5):
            await engine.sync([wanted()])
            stream = await stack.enter_async_context(opened(engine, GROUP))
            await stream.send(channels.frame(channels.Channel.STDIN, b"hi"))
            assert await stream.receive() == channels.frame(channels.Channel.STDOUT, b"hi")
            await stream.send(channels.close_frame(channels.Channel.STDIN))
            last = []
            while (message := await stream.receive()) is not None:
                last.append(message)
            assert channels.parse_status(last[-1][1:]) == (0, "")
            with pytest.raises(port.NotFoundError):
                await stack.enter_async_context(opened(engine, OTHER))


def _report(phase):
    return _Matching(phase)


class _Matching:
    def __init__(self, phase):
        self.phase = phase

    def __eq__(self, report):
        return (report.group_id, report.generation, report.phase) == (GROUP, 1, self.phase)

    __hash__ = None


async def test_a_machine_that_is_away_is_unreachable(tmp_path):
    async with local.LocalEngine(str(tmp_path / "nobody.sock")) as engine:
        with pytest.raises(port.UnreachableError):
            async with engine.observe():
                pass
