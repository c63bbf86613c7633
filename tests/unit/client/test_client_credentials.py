"""Credentials that the service calls expired: one look for others, and the call once more."""

import contextlib
import re

import pytest
from aiohttp import web

from kci.client import client as clients
from kci.client import errors
from kci.contract import groups, signing
from kci.kit import secret

REQUEST = groups.CreateContainerGroup(container_group_name="a")


def keys(name):
    return signing.Credentials(name, secret.Secret("SK"), secret.Secret(f"token of {name}"))


class Source:
    """Has these one after another; counts how often others were looked for."""

    def __init__(self, *names):
        self._names = list(names)
        self.looks = 0

    async def get(self):
        return keys(self._names[0])

    async def replace(self, refused):
        self.looks += 1
        assert refused == keys(self._names[0])
        if len(self._names) > 1:
            del self._names[0]
        return keys(self._names[0])


@contextlib.asynccontextmanager
async def endpoint(source, *, expired=(), code="SecurityTokenExpired", status=400):
    """A service for which the keys of these names have ended; yields a client and who called."""
    callers = []

    async def handle(request):
        name = re.search(r"Credential=([^/]*)/", request.headers["Authorization"]).group(1)
        assert request.headers["X-Ksc-Security-Token"] == f"token of {name}"
        callers.append(name)
        if name in expired:
            body = {"RequestId": "r", "Error": {"Code": code, "Message": "no"}}
            return web.json_response(body, status=status)
        action = (await request.post())["Action"]
        if action == "WatchContainerGroups":
            return web.Response(text='{"Synced": true}\n')
        return web.json_response({"RequestId": "r", "ContainerGroupId": "g", "ContainerGroups": []})

    application = web.Application()
    application.router.add_post("/", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with clients.KciClient(f"{host}:{port}", region="r", credentials=source) as client:
            yield client, callers
    finally:
        await runner.cleanup()


async def watch_once(client):
    async with contextlib.aclosing(client.watch_container_groups()) as changes:
        return await anext(changes)


CALLS = {
    "a create": lambda client: client.create_container_group(REQUEST),
    "a list": lambda client: client.list_container_groups(),
    "a stream": watch_once,
}


@pytest.mark.requirement("R58")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_keys_that_ended_cause_one_look_and_one_more_call(call):
    source = Source("old", "new")
    async with endpoint(source, expired={"old"}) as (client, callers):
        await call(client)
        assert (callers, source.looks) == (["old", "new"], 1)
        await call(client)
        assert (callers, source.looks) == (["old", "new", "new"], 1)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_keys_that_ended_too_are_not_tried_a_third_time(call):
    source = Source("old", "new", "newest")
    async with endpoint(source, expired={"old", "new"}) as (client, callers):
        with pytest.raises(errors.RefusedError) as caught:
            await call(client)
    assert caught.value.code == "SecurityTokenExpired"
    assert (callers, source.looks) == (["old", "new"], 1)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_without_others_the_refusal_stands(call):
    source = Source("old")
    async with endpoint(source, expired={"old"}) as (client, callers):
        with pytest.raises(errors.RefusedError):
            await call(client)
    assert (callers, source.looks) == (["old"], 1)


@pytest.mark.parametrize(
    ("code", "status"),
    [("SignatureDoesNotMatch", 403), ("SecurityTokenInvalid", 403), ("AccessDenied", 403), ("Other", 400)],
)
async def test_no_other_refusal_causes_a_look(code, status):
    source = Source("old", "new")
    async with endpoint(source, expired={"old"}, code=code, status=status) as (client, callers):
        with pytest.raises(errors.KciError):
            await client.create_container_group(REQUEST)
    assert (callers, source.looks) == (["old"], 0)


async def test_without_credentials_nothing_is_sent():
    class Nothing:
        async def get(self):
            raise errors.MissingCredentialsError("cannot sign")

    async with endpoint(Nothing()) as (client, callers):
        for call in CALLS.values():
            with pytest.raises(errors.RefusedError, match="cannot sign"):
                await call(client)
    assert callers == []
