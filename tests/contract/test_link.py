"""The link as both sides know it: the service's engine against the kcilet's own server, on a fake machine."""

import asyncio
import contextlib
import stat

import msgspec
import pytest
from fakes import machine_world

from kci.kcilet import ports, server
from kci.kcilet.workers import agent, machine
from kci.kit import channels, tasks
from kci.link import types as link
from kci.service.engines import local, port


class Line:
    def __init__(self, engine, socket):
        self.engine = engine
        self.socket = socket
        self.runtime = machine_world.FakeRuntime()
        self.cluster = machine_world.FakeCluster()
        self.drivers = machine_world.drivers(self.runtime)
        self.served = machine_world.FakeServed()
        self.cluster.put(machine_world.pod())

    @contextlib.asynccontextmanager
    async def restarted(self):
        """A kcilet of its own that knows nothing yet, on the machine as it is."""
        with contextlib.suppress(_End):
            async with tasks.Tasks() as group:
                ours = machine.Machine(self.drivers, clock=machine_world.LoopClock())
                hired = agent.Agent(ours, self.cluster, group)
                group.run_forever("agent", hired.run())
                async with server.Server(hired, self.drivers, self.served).listen(self.socket):
                    yield
                    raise _End


@pytest.fixture
async def line(tmp_path):
    """The engine, connected to a kcilet."""
    socket = tmp_path / "run" / "kcilet.sock"
    async with asyncio.timeout(20), local.LocalEngine(str(socket)) as engine:
        it = Line(engine, socket)
        async with it.restarted():
            yield it
        it.runtime.close()


class _End(Exception):  # noqa: N818  (no error: leaves the group of tasks)
    pass


async def until(reports, phase):
    async for report in reports:
        if report.phase is phase:
            return report
    raise AssertionError("the reports ended")


def secured(generation, **said):
    rule = link.SecurityGroupRule(direction=link.Direction.IN, **said)
    return link.SecurityGroups(
        generation=generation,
        security_groups=(link.SecurityGroup(security_group_id="web", rules=(rule,)),),
    )


async def test_changed_security_groups_are_the_machines_at_once_and_older_ones_never(line):
    group = msgspec.structs.replace(machine_world.group(), security_group_ids=("web",))

    async def until_port(number):
        async for firewall in line.drivers.network.guarded.changes():
            policy = firewall.policies.get("web", ports.Policy())
            if [rule.first_port for rule in policy.incoming] == [number]:
                return firewall
        raise AssertionError

    async with line.engine.observe():
        tcp = {"protocol": link.Protocol.TCP}
        await line.engine.sync([group], security_groups=secured(2, first_port=80, **tcp))
        firewall = await until_port(80)
        assert firewall.is_whole
        (pod,) = firewall.pods
        assert (pod.pod_uid, pod.policy) == ("uid-1", "web")
        await line.engine.set_security_groups(secured(3, first_port=443, **tcp))
        await until_port(443)
        await line.engine.set_security_groups(secured(2, first_port=80, **tcp))
        await line.engine.set_security_groups(secured(4, first_port=8080, **tcp))
        await until_port(8080)
        await line.engine.remove("g-1")
        async for firewall in line.drivers.network.guarded.changes():
            if not firewall.pods:
                break


async def test_a_group_runs_and_goes_and_each_change_is_reported(line):
    async with line.engine.observe() as reports:
        await line.engine.sync([])
        await line.engine.ensure(machine_world.group())
        report = await until(reports, link.Phase.RUNNING)
        assert (report.address, report.pod_uid, report.generation) == ("10.0.0.9", "uid-1", 1)
        await line.engine.remove("g-1")
        await until(reports, link.Phase.GONE)
        await line.engine.remove("g-1")
        await line.engine.remove("unknown")
        assert (await until(reports, link.Phase.GONE)).group_id == "unknown"
    async with line.engine.observe() as reports:
        assert {(await anext(reports)).group_id for _ in range(2)} == {"g-1", "unknown"}


async def test_an_older_generation_is_ignored(line):
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group(generation=5)])
        await until(reports, link.Phase.RUNNING)
        await line.engine.ensure(machine_world.group(generation=4))
        await line.engine.ensure(machine_world.group(generation=6))
        # One more of the fifth may tell how its start went.
        generation = 5
        while generation == 5:
            generation = (await anext(reports)).generation
        assert generation == 6


async def test_logs_and_commands_reach_their_container(line):
    line.drivers.streams.logs["app"] = [b"one\n", b"two\n"]
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
        async with line.engine.open_log("g-1", "app", link.LogOptions(tail_lines=2, follow=True)) as parts:
            assert b"".join([part async for part in parts]) == b"one\ntwo\n"
        options = link.ExecOptions(command=("sh", "-c", "echo a b"), stdin=True)
        async with line.engine.open_exec("g-1", "app", options) as stream:
            await stream.send(channels.frame(channels.Channel.STDIN, b"hello"))
            assert channels.parse(await stream.receive()) == (channels.Channel.STDIN, b"hello")
        for container in ("other", "app"):
            with pytest.raises(port.NotFoundError):
                async with line.engine.open_log("none", container, link.LogOptions()):
                    pass
        with pytest.raises(port.NotFoundError):
            async with line.engine.open_exec("g-1", "other", options):
                pass
        with pytest.raises(port.InvalidError):
            async with line.engine.open_exec("g-1", "app", link.ExecOptions()):
                pass


async def test_why_a_driver_cannot_is_told_and_stands_in_the_log(line, capfd):
    line.drivers.streams.error = ports.DriverError(
        "cannot read the log of container 'app': Input/output error"
    )
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
        with pytest.raises(port.UnreachableError, match="Input/output error"):
            async with line.engine.open_log("g-1", "app", link.LogOptions()):
                pass
    assert "Input/output error" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "%" * 65536),
        tuple(f"argument {number}" for number in range(500)),
        ("\u00fc" * (1 << 19),),
    ],
    ids=["a long argument", "many arguments", "all that the API takes"],
)
async def test_commands_of_any_length_arrive_whole(line, command):
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
        async with line.engine.open_exec("g-1", "app", link.ExecOptions(command=command)) as stream:
            await stream.send(channels.frame(channels.Channel.STDIN, b"hello"))
            await stream.receive()
        (what, _, options) = line.drivers.streams.opened[-1]
        assert (what, options.command) == ("exec", command)


async def test_usage_is_that_of_what_runs_and_many_who_ask_cost_one_read(line):
    async with line.engine.observe() as reports:
        await line.engine.sync([])
        assert await line.engine.read_usage() == link.Usages()
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
        (sandbox,) = line.runtime.sandboxes.values()
        while not (found := (await line.engine.read_usage()).groups):  # noqa: ASYNC110  (it is kept)
            await asyncio.sleep(0.05)
        (group,) = found
        (container,) = group.containers
        assert (group.group_id, group.started_at_ns) == ("g-1", sandbox.created_at_ns)
        assert (container.name, container.usage.working_set_bytes) == ("app", 1024)
        assert group.traffic == link.Traffic(received_bytes=7)
        asked = len(line.drivers.stats.asked)
        for _ in range(5):
            assert (await line.engine.read_usage()).groups == found
        assert len(line.drivers.stats.asked) <= asked + 1


async def test_accounts_that_cannot_be_read_are_told_as_such(line):
    line.drivers.stats.error = ports.DriverError("cannot read what pods use: no such thing")
    async with line.engine.observe():
        await line.engine.sync([])
        with pytest.raises(port.UnreachableError, match="cannot read what pods use"):
            await line.engine.read_usage()


async def test_attachments_and_ports_reach_their_pod(line):
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
        options = link.AttachOptions(stdin=True)
        for opened in (line.engine.open_attach("g-1", "app", options), line.engine.open_port("g-1", 8080)):
            async with opened as stream:
                await stream.send(channels.frame(channels.Channel.STDIN, b"hello"))
                assert channels.parse(await stream.receive()) == (channels.Channel.STDIN, b"hello")
        attached, forwarded = line.drivers.streams.opened
        assert (attached[0], attached[2]) == ("attach", options)
        assert (forwarded[0], forwarded[2]) == ("forward", 8080)
        for opened in (line.engine.open_attach("g-1", "other", options), line.engine.open_port("none", 80)):
            with pytest.raises(port.NotFoundError):
                async with opened:
                    pass
        for number in (0, 65536):
            with pytest.raises(port.InvalidError):
                async with line.engine.open_port("g-1", number):
                    pass


async def test_a_container_keeps_the_terminal_that_it_was_made_with(line):
    made = machine_world.pod()
    (container,) = made.spec.containers
    spec = msgspec.structs.replace(made.spec, containers=(msgspec.structs.replace(container, tty=True),))
    line.cluster.put(msgspec.structs.replace(made, spec=spec))
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
        async with line.engine.open_attach("g-1", "app", link.AttachOptions()):
            ((_, _, options),) = line.drivers.streams.opened
        assert options.tty


async def test_what_runs_is_reached_while_the_cluster_is_away_after_a_restart(line):
    line.drivers.streams.logs["app"] = [b"one\n"]
    async with line.engine.observe() as reports:
        await line.engine.sync([machine_world.group()])
        await until(reports, link.Phase.RUNNING)
    line.cluster.is_away = True
    line.cluster.is_synced = False
    async with line.restarted(), line.engine.observe():
        await line.engine.sync([machine_world.group()])
        options = link.ExecOptions(command=("true",))
        async with contextlib.AsyncExitStack() as stack:
            while True:
                with contextlib.suppress(port.NotFoundError):
                    await stack.enter_async_context(line.engine.open_exec("g-1", "app", options))
                    break
            await stack.enter_async_context(line.engine.open_port("g-1", 80))
        async with line.engine.open_log("g-1", "app", link.LogOptions()) as parts:
            assert b"".join([part async for part in parts]) == b"one\n"


async def test_the_socket_is_its_owners_alone(line):
    assert stat.S_IMODE(line.socket.stat().st_mode) == 0o600


async def test_a_request_that_makes_no_sense_is_refused_without_its_content(line):
    async with line.engine.observe():
        await line.engine.sync([])
        with pytest.raises(port.InvalidError) as caught:
            await line.engine._put("v1/groups/g-1", link.LogOptions(), 5.0)  # no group at all
        assert "kubeconfig" not in str(caught.value)
        with pytest.raises(port.InvalidError):
            await line.engine._put("v1/groups/other", machine_world.group(), 5.0)
