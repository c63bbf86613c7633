"""Who gets what from the node's port: each path, method and upgrade, for each kind of caller."""

import asyncio
import itertools

import pytest
import structlog
import yarl
from fakes import kubelet_api, kubelet_peers, spdy_peers, virtual_time

from kci.kit import channels
from kci.kube import access
from kci.vnode import auth

PATHS = [
    "/healthz",
    "/pods",
    "/runningpods/",
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/resource",
    "/stats/summary",
    "/configz",
    "/checkpoint/default/web/c",
    "/logs/",
    "/debug/pprof/",
    "/containerLogs/default/web/c",
    "/exec/default/web/c?command=sh&input=1&output=1",
    "/exec/default/web/u/c?command=sh&output=1",
    "/attach/default/web/c?output=1",
    "/attach/default/web/u/c?output=1",
    "/run/default/web/c?cmd=sh",
    "/run/default/web/u/c?cmd=sh",
    "/portForward/default/web?port=80",
    "/portForward/default/web/u?port=80",
    # Spelled otherwise.
    "/%65xec/default/web/c?command=sh&output=1",
    "/exec//default/web/c?command=sh&output=1",
    "//exec/default/web/c?command=sh&output=1",
    "/healthz/../exec/default/web/c?command=sh&output=1",
    "/EXEC/default/web/c?command=sh&output=1",
    "/",
    "/nowhere",
    "/exec",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
UPGRADES = {
    "none": {},
    "WebSocket": {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "v5.channel.k8s.io, v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io",
    },
    "SPDY": {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"},
}
NOBODY = {
    "no credentials": {},
    "a bad token": {"Authorization": "Bearer bad"},
    "an empty token": {"Authorization": "Bearer "},
    "a password": {"Authorization": "Basic YWRtaW46YWRtaW4="},
    "a name in a header": {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"},
}
COMBINATIONS = list(itertools.product(PATHS, METHODS, UPGRADES))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return kubelet_peers.Authority(tmp_path_factory.mktemp("pki"))


async def ask(session, url, path, method, upgrade, headers=None):
    """The status of the answer; for an upgrade, of the head alone."""
    async with session.request(
        method,
        yarl.URL(url + path, encoded=True),
        headers={**UPGRADES[upgrade], **(headers or {})},
        allow_redirects=False,
    ) as answer:
        return answer.status


@pytest.mark.requirement("R50")
@pytest.mark.parametrize("who", NOBODY)
async def test_nobody_gets_anything_but_401(authority, who, runs):
    runs.count = len(COMBINATIONS)
    async with kubelet_api.running(authority) as api, api.session() as session:
        for path, method, upgrade in COMBINATIONS:
            status = await ask(session, api.url, path, method, upgrade, NOBODY[who])
            assert status == 401, (path, method, upgrade)
        assert api.streams.execs == api.streams.ports == []


@pytest.mark.requirement("R50")
@pytest.mark.parametrize("how", ["certificate", "token"])
async def test_somebody_without_rights_gets_403_on_everything(authority, how, runs):
    runs.count = len(COMBINATIONS)
    by = {"user": "stranger", "group": "system:nodes"} if how == "certificate" else {"token": "stranger"}
    async with kubelet_api.running(authority) as api, api.session(**by) as session:
        for path, method, upgrade in COMBINATIONS:
            assert await ask(session, api.url, path, method, upgrade) == 403, (path, method, upgrade)
        assert api.streams.execs == api.streams.ports == []


@pytest.mark.requirement("R50")
async def test_who_may_only_get_opens_no_stream_whatever_the_method_and_upgrade(authority, runs):
    runs.count = len(COMBINATIONS)
    headed = {"/healthz", "/pods"}
    served = {*headed, "/containerLogs/default/web/c"}
    async with kubelet_api.running(authority) as api, api.session(token="good") as session:
        for path, method, upgrade in COMBINATIONS:
            status = await ask(session, api.url, path, method, upgrade)
            is_read = (method == "GET" and path in served) or (method == "HEAD" and path in headed)
            assert status == 200 if is_read else status in {403, 404, 405}, (path, method, upgrade, status)
        assert api.streams.execs == api.streams.ports == []


@pytest.mark.requirement("R50")
async def test_who_may_create_opens_streams_by_the_two_methods_that_open_them_only(authority, runs):
    runs.count = len(COMBINATIONS)
    opened = set()
    async with kubelet_api.running(authority) as api, api.session(user="creator") as session:
        api.reviewer.allowed.add(("creator", "create", "proxy"))
        for path, method, upgrade in COMBINATIONS:
            status = await ask(session, api.url, path, method, upgrade)
            assert status not in {200, 401, 500}, (path, method, upgrade)
            if status == 101:
                opened.add((path.split("/")[1], method, upgrade))
    kinds = {"exec", "attach", "portForward"}
    assert {kind.replace("%65", "e") for kind, _, _ in opened} == kinds
    # A WebSocket is a GET; aiohttp upgrades a POST as well, and the caller may do both.
    assert {method for _, method, _ in opened} <= {"GET", "POST"}


@pytest.mark.requirement("R50")
@pytest.mark.parametrize(
    ("verb", "path", "kept_s"),
    [("get", "/containerLogs/default/web/c", 300), ("create", "/exec/default/web/c?output=1", 30)],
)
def test_an_allowed_answer_is_kept_for_so_long_and_no_longer(verb, path, kept_s):
    demand = auth.demand_of("GET", path.partition("?")[0])
    assert demand.verb == verb

    async def ask_again():
        reviewer = kubelet_peers.Reviewer()
        gate = auth.Gate(reviewer, node_name="vn")
        user = access.User(name="admin")
        await gate.authorize(user, demand)
        reviewer.away = True
        await asyncio.sleep(kept_s - 1)
        await gate.authorize(user, demand)
        await asyncio.sleep(2)
        with pytest.raises(auth.CannotDecideError):
            await gate.authorize(user, demand)

    with asyncio.Runner(loop_factory=virtual_time.VirtualLoop) as runner:
        runner.run(ask_again())


@pytest.mark.requirement("R50")
async def test_each_stream_leaves_its_line_with_who_what_and_where(authority):
    with structlog.testing.capture_logs() as lines:
        async with kubelet_api.running(authority) as api, api.admin() as session:
            async with session.ws_connect(
                "/exec/default/web/u/c?command=sh&output=1", protocols=(channels.V5,)
            ):
                pass
            async with session.get("/containerLogs/default/web/c"):
                pass
            async with spdy_peers.tunnelled(session, "/portForward/default/web") as peer:
                headers = {"port": "80", "requestID": "1"}
                for kind in ("error", "data"):
                    stream = await peer.open(streamType=kind, **headers)
                    await stream.end()
                _ = await stream.read()
    audit = [
        (line["event"], line["stream"], line["user"], line["remote"], line["pod"], line["pod_uid"])
        for line in lines
        if line["event"].startswith("stream ")
    ]
    who = ("admin", "127.0.0.1", "default/web", "u")
    for kind in ("exec", "logs", "portForward", "port"):
        assert [line[0] for line in audit if line[1:] == (kind, *who)] == ["stream opened", "stream closed"]
