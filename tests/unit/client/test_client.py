"""The client against an endpoint that misbehaves."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web

from kci.client import client as clients
from kci.client import credentials, errors
from kci.contract import groups, signing
from kci.kit import secret

KEYS = credentials.Static(signing.Credentials("AK", secret.Secret("SK")))
REQUEST = groups.CreateContainerGroup(container_group_name="a")


@contextlib.asynccontextmanager
async def endpoint(answer, *, timeout_s=5.0):
    """A client of a server that answers by `answer(form, number of the call)`; yields it and the forms."""
    forms = []

    async def handle(request):
        forms.append(dict(await request.post()))
        return await answer(request, len(forms))

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with clients.KciClient(
            f"{host}:{port}", region="r", credentials=KEYS, timeout_s=timeout_s
        ) as client:
            yield client, forms
    finally:
        await runner.cleanup()


def page(ids, *, marker=0, total):
    listed = [{"ContainerGroupId": name} for name in ids]
    return web.json_response(
        {"RequestId": "r", "Marker": marker, "TotalCount": total, "ContainerGroups": listed}
    )


async def test_a_create_is_sent_once_whatever_happens():
    async def fail(_request, _count):
        return web.json_response(
            {"RequestId": "r", "Error": {"Code": "InternalError", "Message": ""}}, status=500
        )

    async def cut(request, _count):
        request.transport.abort()
        return web.Response()

    async def hang(_request, _count):
        await asyncio.sleep(30)

    for answer in (fail, cut, hang):
        async with endpoint(answer, timeout_s=0.3) as (client, forms):
            with pytest.raises(errors.UnreachableError) as caught:
                await client.create_container_group(REQUEST)
            assert caught.value.reached is None
            assert len(forms) == 1


async def test_a_create_that_never_left_is_known_to_be_undone():
    async with clients.KciClient("127.0.0.1:1", region="r", credentials=KEYS) as client:
        with pytest.raises(errors.UnreachableError) as caught:
            await client.create_container_group(REQUEST)
    assert caught.value.reached is False


async def test_a_read_is_tried_again():
    async def answer(_request, count):
        return page(["a"], total=1) if count == 3 else web.Response(status=502)

    async with endpoint(answer) as (client, forms):
        assert len(await client.list_container_groups()) == 1
    assert [form["Action"] for form in forms] == ["DescribeContainerGroup"] * 3


async def test_a_redirect_is_not_followed():
    async def answer(_request, _count):
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with endpoint(answer) as (client, forms):
        with pytest.raises(errors.UnreachableError):
            await client.create_container_group(REQUEST)
        with pytest.raises(errors.UnreachableError, match="redirect"):
            await client.open_exec(f"ws://{client._url.authority}/stream?token=t")
        assert len(forms) == 2


async def test_an_endless_answer_is_cut_off():
    async def answer(request, _count):
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                await response.write(b" " * 65536)
        return response

    async with endpoint(answer) as (client, _):
        with pytest.raises(errors.UnreachableError, match="bytes"):
            await client.create_container_group(REQUEST)


@pytest.mark.requirement("R06")
@pytest.mark.parametrize(
    "pages",
    [
        # one group short, a group twice, a marker that goes back, a total that changes
        lambda marker: page(["a"], total=2),
        lambda marker: page(["a", "a"], total=2),
        lambda marker: page([f"g{marker}"], marker=1, total=5),
        lambda marker: page([f"g{marker}"], marker=marker + 1, total=marker + 2),
    ],
)
async def test_pages_that_do_not_fit_together_give_no_list(pages):
    async def answer(request, _count):
        return pages(int((await request.post()).get("Marker", "0")))

    async with endpoint(answer) as (client, _), asyncio.timeout(10):
        with pytest.raises(errors.UnreachableError, match="fit together"):
            await client.list_container_groups()


async def test_a_list_that_changed_while_it_was_read_is_read_again():
    async def answer(_request, count):
        return page(["a"], marker=1, total=2) if count == 1 else page(["b"], total=1)

    async with endpoint(answer) as (client, _):
        assert [group.container_group_id for group in await client.list_container_groups()] == ["b"]


async def test_of_a_service_that_lists_in_order_a_list_that_changes_is_read_at_once():
    before = [f"g{number}" for number in range(120)]
    after = before[5:]

    async def answer(request, _count):
        asked = await request.post()
        if asked["Action"] == "DescribeCapabilities":
            return web.json_response({"RequestId": "r", "Capabilities": ["list.ordered"], "Version": "1"})
        if asked.get("Marker", "0") == "0":
            return page(before[:100], marker=100, total=120)
        return page(after[int(asked["Marker"]) :], total=115)

    async with endpoint(answer) as (client, forms):
        await client.describe_capabilities()
        found = [group.container_group_id for group in await client.list_container_groups()]
        assert set(after) <= set(found)
        assert [form.get("Marker", "0") for form in forms[1:]] == ["0", "80"]


async def test_a_service_without_extensions_has_none():
    async def answer(_request, _count):
        body = {"RequestId": "r", "Error": {"Code": "InvalidAction", "Message": "no"}}
        return web.Response(status=400, text=json.dumps(body))

    async with endpoint(answer) as (client, _):
        assert (await client.describe_capabilities()).names == frozenset()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://kci.api.ksyun.com", "https://kci.api.ksyun.com/"),
        ("kci.api.ksyun.com", "https://kci.api.ksyun.com/"),
        ("127.0.0.1:7480", "http://127.0.0.1:7480/"),
        ("localhost:7480", "http://localhost:7480/"),
        ("http://10.0.0.1:7480/", "http://10.0.0.1:7480/"),
        ("[::1]:7480", "http://[::1]:7480/"),
    ],
)
def test_an_endpoint_is_read(text, url):
    assert str(clients.KciClient(text, region="r", credentials=KEYS)._url) == url


@pytest.mark.parametrize("text", ["", "ftp://a", "http://", "http://a/path"])
def test_a_wrong_endpoint_is_refused(text):
    with pytest.raises(ValueError, match="cannot use the endpoint"):
        clients.KciClient(text, region="r", credentials=KEYS)
