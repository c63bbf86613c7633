"""The checks of probes against real servers, in a network namespace that nothing leads to from outside."""

import asyncio
import contextlib
import functools
import resource
import socket
import ssl
import subprocess
import sys
import time
import uuid
import weakref

import netns_loop
import pytest
from aiohttp import web
from fakes import health_program

from kci.kcilet import ports
from kci.kcilet.drivers.probes import driver
from kci.kit import netns

pytestmark = [pytest.mark.integration, pytest.mark.guide("limit probes")]
BOX = ports.SandboxId("box")
HOST = "127.0.0.1"
LOOPS_TO_TAKE_A_CONNECTION = 3


@pytest.fixture(scope="module")
def namespace():
    """A network namespace with its loopback alone, and a loop that lives in it."""
    name = f"kci-probes-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        with netns_loop.NetnsLoop(name) as inside:
            yield name, inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def inside(namespace):
    return namespace[1]


@pytest.fixture
def probes(namespace):
    opened, held = [], weakref.WeakSet()

    async def open_network(sandbox_id):
        opened.append(sandbox_id)
        if sandbox_id != BOX:
            raise ports.NotFoundError(f"cannot find the network of sandbox {sandbox_id}")
        held.add(found := netns.Namespace(f"/run/netns/{namespace[0]}"))
        return found

    async def run_command(container_id, command, *, timeout_s):
        if command == ("sleep",):
            raise TimeoutError
        return ports.CommandResult(len(command) - 1, b"what it said")

    it = driver.MachineProbes(run_command=run_command, open_network=open_network)
    it.opened, it.held = opened, held
    return it


async def handle(seen, request):
    seen.append(request)
    match request.path:
        case "/ok":
            return web.Response(text="fine")
        case "/status":
            return web.Response(status=int(request.query["is"]), text="secret")
        case "/to":
            raise web.HTTPFound(request.query["place"])
        case "/around":
            raise web.HTTPFound("/around")
        case "/big":
            return web.Response(body=b"x" * (1 << 20))
        case "/slow":
            await asyncio.sleep(0.8)
        case "/half":
            answer = web.StreamResponse(headers={"Content-Length": "100"})
            await answer.prepare(request)
            await answer.write(b"half")
            await asyncio.sleep(0.8)
    return web.Response(status=404)


@contextlib.contextmanager
def serving(inside, tls=None):
    async def stop():
        # A connection that waits is taken first: asyncio's servers (3.11) lose its socket when they are
        # closed between taking it and serving it.
        for _ in range(LOOPS_TO_TAKE_A_CONNECTION):
            await asyncio.sleep(0)
        await runner.cleanup()

    async def start():
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", functools.partial(handle, seen))
        runner = web.AppRunner(app, shutdown_timeout=3)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0, ssl_context=tls)
        await site.start()
        return runner, runner.addresses[0][1]

    seen = []
    runner, port = inside.call(start())
    try:
        yield seen, port
    finally:
        inside.call(stop())


@pytest.fixture
def server(inside):
    with serving(inside) as (seen, port):
        yield seen, port


def get(port, target, **changes):
    return ports.HttpCheck(BOX, **{"scheme": "http", "host": HOST, "port": port, "target": target, **changes})


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/ok", ports.CheckResult(True)),
        ("/big", ports.CheckResult(True)),
        ("/status?is=204", ports.CheckResult(True)),
        ("/status?is=400", ports.CheckResult(False, "HTTP probe failed with statuscode: 400")),
        ("/status?is=503", ports.CheckResult(False, "HTTP probe failed with statuscode: 503")),
        ("/to?place=/ok", ports.CheckResult(True)),
        ("/to?place=/status%3Fis=500", ports.CheckResult(False, "HTTP probe failed with statuscode: 500")),
        (
            "/to?place=http://elsewhere/ok",
            ports.CheckResult(True, "Probe terminated redirects, Response body: 302: Found"),
        ),
        (
            "/status?is=304",
            ports.CheckResult(True, "Probe terminated redirects, Response body: "),
        ),
    ],
)
async def test_an_answer_of_two_or_three_hundred_is_a_success(server, probes, target, expected):
    assert await probes.check(get(server[1], target), timeout_s=5) == expected


async def test_redirects_end_after_ten(server, probes):
    seen, port = server
    result = await probes.check(get(port, "/around"), timeout_s=5)
    assert result == ports.CheckResult(
        False, f'Get "http://{HOST}:{port}/around": stopped after 10 redirects'
    )
    assert len(seen) == 10


async def test_what_is_sent(server, probes):
    seen, port = server
    result = await probes.check(
        get(port, "/ok?a=%20b", headers=(("X", "1"), ("X", "2"), ("Host", "name.example"))), timeout_s=5
    )
    assert result.succeeded
    request = seen[0]
    assert request.raw_path == "/ok?a=%20b"
    assert request.headers.getall("X") == ["1", "2"]
    assert request.headers["Host"] == "name.example"
    assert request.headers["User-Agent"] == "kube-probe/1.36"
    assert request.headers["Accept"] == "*/*"
    assert request.headers["Connection"] == "close"
    assert "Accept-Encoding" not in request.headers
    given = (("User-Agent", "mine"), ("Accept", ""))
    assert (await probes.check(get(port, "/ok", headers=given), timeout_s=5)).succeeded
    assert seen[1].headers["User-Agent"] == "mine"
    assert "Accept" not in seen[1].headers
    # Without a name of its own, the address that was dialled.
    assert seen[1].headers["Host"] == f"{HOST}:{port}"


async def test_the_server_sees_the_pods_own_address(server, probes):
    seen, port = server
    assert (await probes.check(get(port, "/ok"), timeout_s=5)).succeeded
    assert seen[0].remote == HOST
    # And here, outside of the namespace, nobody listens.
    with pytest.raises(ConnectionRefusedError), socket.create_connection((HOST, port), timeout=1):
        pass


@pytest.mark.parametrize("target", ["/slow", "/half"])
async def test_no_answer_in_time_is_a_failure(server, probes, target):
    began_s = time.monotonic()
    result = await probes.check(get(server[1], target), timeout_s=0.3)
    assert time.monotonic() - began_s < 3
    assert not result.succeeded
    assert f'Get "http://{HOST}:{server[1]}{target}": context deadline exceeded' in result.output


@pytest.fixture
def tls(tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=nobody", "-days", "1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_certificate_is_not_looked_at(inside, probes, tls):
    with serving(inside, tls) as (_, port):
        assert await probes.check(get(port, "/ok", scheme="https"), timeout_s=5) == ports.CheckResult(True)
        plain = await probes.check(get(port, "/ok"), timeout_s=5)
        assert not plain.succeeded
    wrong = await probes.check(get(port, "/ok", scheme="https"), timeout_s=5)
    assert wrong.output.endswith("connect: connection refused")


def closed_port():
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


async def test_a_connection_is_enough(server, probes):
    port = server[1]
    assert await probes.check(ports.TcpCheck(BOX, HOST, port), timeout_s=5) == ports.CheckResult(True)
    named = await probes.check(ports.TcpCheck(BOX, "localhost", port), timeout_s=5)
    assert named == ports.CheckResult(True)


async def test_a_refusal_is_told_as_a_kubelet_does(probes):
    port = closed_port()
    expected = f"dial tcp {HOST}:{port}: connect: connection refused"
    assert await probes.check(ports.TcpCheck(BOX, HOST, port), timeout_s=5) == ports.CheckResult(
        False, expected
    )
    http = await probes.check(get(port, "/ok"), timeout_s=5)
    assert http == ports.CheckResult(False, f'Get "http://{HOST}:{port}/ok": {expected}')
    grpc_result = await probes.check(ports.GrpcCheck(BOX, HOST, port), timeout_s=5)
    text = f'error: failed to connect service at "{HOST}:{port}": {expected}'
    assert grpc_result == ports.CheckResult(False, text)
    away = await probes.check(ports.TcpCheck(BOX, "192.0.2.1", 80), timeout_s=5)
    assert away == ports.CheckResult(False, "dial tcp 192.0.2.1:80: connect: network is unreachable")
    nowhere = await probes.check(ports.TcpCheck(BOX, "no-such-host.invalid", 80), timeout_s=5)
    assert nowhere == ports.CheckResult(False, "dial tcp: lookup no-such-host.invalid: no such host")


async def test_a_connection_that_is_not_taken_is_too_late(inside, probes):
    """With a backlog that is full the kernel answers nothing."""

    async def listen():
        one = socket.socket()
        one.bind((HOST, 0))
        one.listen(0)
        port = one.getsockname()[1]
        taken = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((HOST, port))
            taken.append(client)
        return one, taken, port

    one, taken, port = inside.call(listen())
    result = await probes.check(ports.TcpCheck(BOX, HOST, port), timeout_s=0.3)
    assert result == ports.CheckResult(False, f"dial tcp {HOST}:{port}: i/o timeout")
    for client in (one, *taken):
        client.close()


async def test_a_sandbox_without_a_network_says_nothing_of_its_containers(probes):
    with pytest.raises(ports.NotFoundError):
        await probes.check(ports.TcpCheck(ports.SandboxId("gone"), HOST, 80), timeout_s=5)


async def test_a_namespace_is_opened_once_and_let_go_of_when_it_is_left(server, probes):
    for _ in range(3):
        assert (await probes.check(ports.TcpCheck(BOX, HOST, server[1]), timeout_s=5)).succeeded
    assert probes.opened == [BOX]
    assert len(probes.held) == 1
    probes.leave(BOX)
    # The thread that makes sockets may not have let go of it yet.
    async with asyncio.timeout(5):
        while probes.held:  # noqa: ASYNC110  (nobody tells of it)
            await asyncio.sleep(0.01)
    assert (await probes.check(ports.TcpCheck(BOX, HOST, server[1]), timeout_s=5)).succeeded
    assert probes.opened == [BOX, BOX]


@pytest.mark.parametrize(
    "make", [lambda port: ports.TcpCheck(BOX, HOST, port), lambda port: get(port, "/ok")]
)
async def test_when_we_have_no_files_left_the_container_is_not_to_blame(server, probes, make):
    check = make(server[1])
    assert (await probes.check(check, timeout_s=5)).succeeded
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(ports.DriverError, match="cannot make a socket: Too many open files"):
            await probes.check(check, timeout_s=5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (await probes.check(check, timeout_s=5)).succeeded


@contextlib.contextmanager
def health_server(namespace, *answers, delay_s=0, method="grpc.health.v1.Health/Check"):
    command = [sys.executable, health_program.__file__, method, str(delay_s), *answers]
    with subprocess.Popen(
        ["ip", "netns", "exec", namespace[0], *command], stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            yield program.stdout, int(program.stdout.readline())
        finally:
            program.kill()


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("", ports.CheckResult(True)),
        ("up", ports.CheckResult(True)),
        ("down", ports.CheckResult(False, 'service unhealthy (responded with "NOT_SERVING")')),
        ("odd", ports.CheckResult(False, 'service unhealthy (responded with "7")')),
        ("none", ports.CheckResult(False, "error: health rpc probe failed: unknown service")),
    ],
)
async def test_a_service_that_serves_is_healthy(namespace, probes, service, expected):
    with health_server(namespace, "=1", "up=1", "down=2", "odd=7") as (asked, port):
        assert await probes.check(ports.GrpcCheck(BOX, HOST, port, service), timeout_s=5) == expected
        assert asked.readline().startswith(f"{service!r} kube-probe/1.36 ")


async def test_a_server_without_health_or_without_an_answer_is_unhealthy(namespace, probes):
    with health_server(namespace, "=1", method="other.Service/Check") as (_, port):
        result = await probes.check(ports.GrpcCheck(BOX, HOST, port), timeout_s=5)
        text = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
        assert result.output.startswith(text)
        assert not result.succeeded
    with health_server(namespace, "=1", delay_s=3) as (_, port):
        result = await probes.check(ports.GrpcCheck(BOX, HOST, port), timeout_s=0.5)
        assert result == ports.CheckResult(False, "timeout: health rpc did not complete within 0.5s")


async def test_a_command_succeeds_by_its_exit_code(probes):
    container = ports.ContainerId("c")
    ok = await probes.check(ports.ExecCheck(container, ("true",)), timeout_s=1)
    assert ok == ports.CheckResult(True)
    failed = await probes.check(ports.ExecCheck(container, ("false", "x")), timeout_s=1)
    assert failed == ports.CheckResult(False, "what it said")
    late = await probes.check(ports.ExecCheck(container, ("sleep",)), timeout_s=2)
    assert late == ports.CheckResult(False, 'command timed out: "sleep" timed out after 2s')
