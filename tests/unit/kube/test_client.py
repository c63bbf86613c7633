"""The client against servers that misbehave; how it behaves with a real one is an integration test."""

import asyncio
import contextlib
import dataclasses
import json

import pytest
from aiohttp import web
from structlog import testing

from kci.kit import secret
from kci.kube import client as clients
from kci.kube import config, errors, models, resources, transport


@contextlib.asynccontextmanager
async def serving(handler, **options):
    """A client of a server that answers everything with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        known = config.ClusterConfig(server=f"http://127.0.0.1:{port}", token=secret.Secret("T"))
        async with clients.Client(known, **options) as client:
            yield client
    finally:
        await runner.cleanup()


def status(code, reason, **details):
    body = {"kind": "Status", "code": code, "reason": reason, "message": "why", "details": details}
    return web.json_response(body, status=code)


async def get(client):
    return await client.get(resources.CONFIG_MAPS, "a", namespace="ns")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: status(404, "NotFound"), errors.NotFoundError),
        (lambda: web.Response(status=404, text="404 page not found"), errors.UnreachableError),
        (lambda: web.Response(status=404, text="<html>", content_type="text/html"), errors.UnreachableError),
        (lambda: status(409, "Conflict"), errors.ConflictError),
        (lambda: status(409, "AlreadyExists"), errors.AlreadyExistsError),
        (lambda: status(410, "Expired"), errors.GoneError),
        (lambda: status(422, "Invalid"), errors.InvalidError),
        (lambda: status(422, "Invalid", causes=[{"field": "metadata.uid"}]), errors.ConflictError),
        (lambda: web.Response(status=401), errors.UnauthorizedError),
        (lambda: status(403, "Forbidden"), errors.ForbiddenError),
        (lambda: status(500, "InternalError"), errors.TryLaterError),
        (lambda: web.Response(status=502, text="bad gateway"), errors.TryLaterError),
        (lambda: web.Response(status=302, headers={"Location": "/elsewhere"}), errors.UnreachableError),
        (lambda: web.Response(status=200, text="<html>"), errors.UnreachableError),
        (lambda: web.json_response({"metadata": []}), errors.UnreachableError),
    ],
)
async def test_each_answer_has_its_error(answer, error):
    calls = []

    async def handler(request):
        calls.append(request.path)
        return answer()

    async with serving(handler) as client:
        with pytest.raises(error, match="cannot get configmaps ns/a"):
            await get(client)
    assert calls == ["/api/v1/namespaces/ns/configmaps/a"], "nothing is retried, no redirect followed"


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (lambda: web.Response(status=429, headers={"Retry-After": "7"}), 7),
        (lambda: status(429, "TooManyRequests", retryAfterSeconds=3), 3),
        (lambda: status(504, "Timeout"), 0),
        (lambda: web.Response(status=503, headers={"Retry-After": "99999999"}), 600),
        (lambda: web.Response(status=503, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), 0),
    ],
)
async def test_the_server_says_when_to_come_again(answer, seconds):
    async def handler(request):
        return answer()

    async with serving(handler) as client:
        with pytest.raises(errors.TryLaterError) as raised:
            await get(client)
    assert raised.value.retry_after_s == seconds


async def test_a_silent_server_is_given_up():
    async def handler(request):
        await asyncio.sleep(60)

    async with serving(handler, timeout_s=0.05) as client:
        with pytest.raises(errors.UnreachableError, match="in time"):
            await get(client)


async def test_a_half_answer_is_none():
    async def handler(request):
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"metadata":')
        request.transport.close()
        return response

    async with serving(handler) as client:
        with pytest.raises(errors.UnreachableError):
            await get(client)


@pytest.mark.requirement("R06")
async def test_a_failed_page_makes_no_list():
    pages = [
        web.json_response(
            {"metadata": {"continue": "next", "resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}}]}
        ),
        status(410, "Expired"),
    ]

    async def handler(request):
        return pages.pop(0)

    async with serving(handler) as client:
        with pytest.raises(errors.GoneError):
            await client.list_all(resources.CONFIG_MAPS)


@pytest.mark.requirement("R06")
@pytest.mark.parametrize(
    ("page", "asked"),
    [
        # Without a version it is no list of an API server; taken for an empty one it would read as deletions.
        ({"metadata": {}}, 1),
        # The same page for ever.
        ({"metadata": {"continue": "next", "resourceVersion": "5"}, "items": []}, 2),
    ],
)
async def test_a_list_that_cannot_be_whole_is_none(page, asked):
    calls = []

    async def handler(request):
        calls.append(request)
        return web.json_response(page)

    async with serving(handler) as client:
        with pytest.raises(errors.UnreachableError, match="cannot list configmaps"):
            async with asyncio.timeout(5):
                await client.list_all(resources.CONFIG_MAPS)
    assert len(calls) == asked


def config_map(uid, data):
    return {"metadata": {"name": uid, "namespace": "ns", "uid": uid, "resourceVersion": "4"}, "data": data}


UNREADABLE = config_map("bad", "no map")
IDENTITY = models.ObjectMeta(name="bad", namespace="ns", uid="bad", resource_version="4")


@pytest.mark.requirement("R06")
async def test_an_object_of_a_list_that_cannot_be_read_is_named_and_hides_no_other():
    items = [config_map("a", {"k": "v"}), UNREADABLE, config_map("b", {})]

    async def handler(request):
        if "continue" in request.query:
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": [config_map("c", {})]})
        return web.json_response({"metadata": {"resourceVersion": "5", "continue": "x"}, "items": items})

    async with serving(handler) as client:
        with testing.capture_logs() as logs:
            listing = await client.list_all(resources.CONFIG_MAPS)
    assert [one.metadata.uid for one in listing.items] == ["a", "b", "c"]
    assert listing.items[0].data == {"k": "v"}
    assert listing.unreadable == (IDENTITY,)
    with pytest.raises(errors.UnreachableError, match="ns/bad"):
        listing.require_readable()
    [told] = [entry for entry in logs if entry["log_level"] == "error"]
    assert (told["namespace"], told["name"], told["uid"]) == ("ns", "bad", "bad")


async def test_an_event_of_an_object_that_cannot_be_read_does_not_end_the_watch():
    frames = [{"type": "MODIFIED", "object": one} for one in (UNREADABLE, config_map("b", {}))]
    async with serving(lines(*frames)) as client:
        first, second = await watched(client)
    assert first == clients.Unreadable(clients.EventKind.MODIFIED, IDENTITY)
    assert second.object.metadata.uid == "b"


@pytest.mark.parametrize("item", [5, {"metadata": {}, "data": 5}, {"metadata": "none"}])
async def test_what_is_no_object_at_all_makes_no_list_and_no_watch(item):
    page = {"metadata": {"resourceVersion": "5"}, "items": [item]}

    async def handler(request):
        return web.json_response(page)

    async with serving(handler) as client:
        with pytest.raises(errors.UnreachableError, match="cannot list configmaps: the answer is not"):
            await client.list_all(resources.CONFIG_MAPS)
    async with serving(lines({"type": "ADDED", "object": item})) as client:
        with pytest.raises(errors.UnreachableError, match="cannot watch configmaps: the answer is not"):
            await watched(client)


def lines(*frames, then="end"):
    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        data = b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)
        # In pieces that end anywhere.
        for start in range(0, len(data), 7):
            await response.write(data[start : start + 7])
        if then == "silence":
            await asyncio.sleep(60)
        return response

    return handler


async def watched(client):
    watch = client.watch(resources.CONFIG_MAPS, resource_version="1")
    async with contextlib.aclosing(watch) as events:
        return [event async for event in events]


async def test_a_watch_reads_events_and_bookmarks_until_the_server_ends_it():
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}, "items": 5}}
    added = {"type": "ADDED", "object": {"metadata": {"name": "é", "uid": "u"}}}
    async with serving(lines(added, bookmark, added)) as client:
        first, second, third = await watched(client)
    assert (first.object.metadata.name, second) == ("é", clients.Bookmark("9"))
    assert first == third


async def test_gone_as_an_event_is_the_same_error():
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    async with serving(lines(gone)) as client:
        with pytest.raises(errors.GoneError):
            await watched(client)


@pytest.mark.requirement("R17")
async def test_a_watch_without_even_bookmarks_is_given_up():
    assert transport.WATCH_STALL_S <= 75
    async with serving(lines(then="silence"), watch_stall_s=0.05) as client:
        with pytest.raises(errors.SilentError, match="silent for too long"):
            await watched(client)


@pytest.mark.requirement("R17")
async def test_a_watch_that_was_never_answered_has_failed():
    async def handler(_request):
        await asyncio.sleep(60)

    async with serving(handler, watch_stall_s=0.05) as client:
        with pytest.raises(errors.UnreachableError, match="in time") as caught:
            await watched(client)
        assert not isinstance(caught.value, errors.SilentError)


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_no_name_can_mean_something_else(name):
    async with serving(lines()) as client:
        with pytest.raises(errors.InvalidError):
            await client.delete(resources.NODES, name)
        with pytest.raises(errors.InvalidError, match="without a namespace"):
            await client.delete(resources.PODS, "a")


async def test_a_name_with_a_slash_stays_one_segment():
    seen = []

    async def handler(request):
        seen.append(request.raw_path)
        return status(404, "NotFound")

    async with serving(handler) as client:
        with pytest.raises(errors.NotFoundError):
            await client.get(resources.PODS, "../../secrets/x?a=b", namespace="ns")
    assert seen == ["/api/v1/namespaces/ns/pods/..%2F..%2Fsecrets%2Fx%3Fa%3Db"]


async def test_a_token_file_is_read_again(tmp_path):
    file = tmp_path / "token"
    file.write_text("T1")
    seen = []

    async def handler(request):
        seen.append(request.headers["Authorization"])
        return status(404, "NotFound")

    async with serving(handler) as client:
        known = config.ClusterConfig(server=client.config.server, token_file=file)
        for token in ("T1", "T2"):
            file.write_text(token)
            async with clients.Client(known) as fresh:
                with pytest.raises(errors.NotFoundError):
                    await get(fresh)
    assert seen == ["Bearer T1", "Bearer T2"]


async def test_certificates_that_are_none_are_said_so():
    broken = config.ClusterConfig(server="https://127.0.0.1:1", client_certificate_pem="CERT")
    with pytest.raises(errors.KubeconfigError, match="cannot use the certificates"):
        async with clients.Client(broken):
            pass


# ---- another identity ------------------------------------------------------------------------------


async def test_calls_of_a_new_identity_go_on_connections_of_their_own_and_a_watch_ends_as_it_began():
    seen, more = [], asyncio.Event()

    async def handler(request):
        seen.append((request.headers["Authorization"], request.transport))
        if "watch" not in request.query:
            return web.json_response({"metadata": {"name": "a", "uid": "u"}})
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2):
            await response.write(b'{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u"}}}\n')
            await more.wait()
        return response

    async with asyncio.timeout(10), serving(handler) as client:
        await get(client)
        watch = client.watch(resources.CONFIG_MAPS, resource_version="1")
        async with contextlib.aclosing(watch) as events:
            await anext(events)
            await client.become(dataclasses.replace(client.config, token=secret.Secret("new")))
            await get(client)
            more.set()
            await anext(events)
        assert [token for token, _ in seen] == ["Bearer T", "Bearer T", "Bearer new"]
        before, watched, after = (transport for _, transport in seen)
        assert after is not watched
        while not (before.is_closing() and watched.is_closing()):  # noqa: ASYNC110  (the server's own loop sees it)
            await asyncio.sleep(0)
        assert not after.is_closing()


async def test_an_identity_that_is_none_changes_nothing():
    async def handler(request):
        return web.json_response({"metadata": {"name": request.headers["Authorization"], "uid": "u"}})

    async with serving(handler) as client:
        with pytest.raises(errors.KubeconfigError):
            await client.become(dataclasses.replace(client.config, client_certificate_pem="none"))
        assert (await get(client)).metadata.name == "Bearer T"
