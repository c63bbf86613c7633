"""The edge with raw requests: default deny, one reading of the parameters, answers in JSON and XML."""

import asyncio
import io
import json
import xml.etree.ElementTree as ET

import aiohttp
import pytest
import service_world
import yarl

from kci.client import errors
from kci.contract import signing
from kci.kit import clock, entrance
from kci.service.http import server

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


@pytest.fixture
async def session():
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as made:
        yield made


async def send(
    session, world, *, method="POST", path="/", query=(), body=b"", kind=FORM, accept="application/json",
    extra=(), who=service_world.ALICE,
):  # fmt: skip
    """A request signed over exactly these parts; returns status, headers and body."""
    headers = [("host", world.endpoint), *([("content-type", kind)] if kind else [])]
    parts = signing.Request(method, path, list(query), headers, body)
    headers += signing.sign(
        parts, service_world.keys_of(who), region=service_world.REGION, now=clock.SystemClock().now()
    )
    headers += [*([("accept", accept)] if accept else []), *extra]
    url = f"http://{world.endpoint}{path}"
    async with session.request(
        method, url, params=list(query), data=io.BytesIO(body) if body else None, headers=headers
    ) as answer:
        return answer.status, answer.headers, await answer.read()


def code_of(body):
    return json.loads(body)["Error"]["Code"]


@pytest.mark.requirement("R44")
async def test_every_route_but_the_public_ones_wants_a_signature(world, session):
    routes = {(route.method, route.resource.canonical) for route in world.application.router.routes()}
    assert routes == {("GET", "/"), ("POST", "/"), ("GET", "/healthz"), ("GET", "/stream")}
    for method, path in [
        *routes,
        ("GET", "/nowhere"),
        ("DELETE", "/"),
        ("GET", "//healthz"),
        ("GET", "/stream/"),
    ]:
        if path in server.PUBLIC_PATHS:
            continue
        async with session.request(method, f"http://{world.endpoint}{path}", data=b"Action=x") as answer:
            assert (answer.status, path) == (403, path)
            assert b"MissingAuthenticationToken" in await answer.read()
    async with session.get(f"http://{world.endpoint}/stream?token=guess") as answer:
        assert answer.status == 400
    async with session.get(f"http://{world.endpoint}/healthz") as answer:
        assert await answer.text() == "ok\n"


@pytest.mark.requirement("R44")
@pytest.mark.parametrize("left_out", [1, 2, 3, 5])
async def test_a_credential_alone_opens_no_route(world, session, left_out):
    """Parts of a signature in the query, none in the header, on each path and method."""
    now = clock.SystemClock().now()
    pairs = [
        ("X-Amz-Credential", f"AKALICE/{now:%Y%m%d}/{service_world.REGION}/kci/aws4_request"),
        ("X-Amz-Algorithm", signing.ALGORITHM),
        ("X-Amz-Date", f"{now:%Y%m%dT%H%M%SZ}"),
        ("X-Amz-SignedHeaders", "host"),
        ("X-Amz-Signature", "0" * 64),
    ]
    # With all five there is a signature, and a wrong one.
    kept = [*pairs[:left_out], *pairs[left_out + 1 :]]
    for method, path in (("GET", "/"), ("POST", "/"), ("GET", "/nowhere"), ("PUT", "/")):
        query = [("Action", "DescribeContainerGroup"), *kept]
        async with session.request(method, f"http://{world.endpoint}{path}", params=query) as answer:
            body = await answer.read()
            assert answer.status in {400, 403}, (method, path)
            assert b"IncompleteSignature" in body or b"SignatureDoesNotMatch" in body, body


@pytest.mark.requirement("R44")
async def test_a_plus_in_the_query_is_signed_as_a_space(world, session):
    """As browsers and the Python SDK write it; the raw text goes over the wire as it is here."""
    meant = [("Action", "DescribeContainerGroup"), ("Search", "a b+c")]
    headers = [("host", world.endpoint)]
    headers += signing.sign(
        signing.Request("GET", "/", meant, headers),
        service_world.keys_of(service_world.ALICE),
        region=service_world.REGION,
        now=clock.SystemClock().now(),
    )
    for text, status in (("a+b%2Bc", 200), ("a%20b%2Bc", 200), ("a%2Bb%2Bc", 403), ("a+b+c", 403)):
        url = f"http://{world.endpoint}/?Action=DescribeContainerGroup&Search={text}"
        async with session.get(yarl.URL(url, encoded=True), headers=headers) as answer:
            assert (answer.status, text) == (status, text)


async def test_what_is_not_there_is_said_to_those_who_signed(world, session):
    assert (await send(session, world, path="/nowhere"))[0] == 404
    assert (await send(session, world, method="DELETE"))[0] == 405


@pytest.mark.parametrize(
    ("query", "body", "kind", "code"),
    [
        ([], b"", FORM, "MissingParameter"),
        ([], b"Action=Nothing", FORM, "InvalidAction"),
        ([("Action", "DescribeContainerGroup")], b"Action=DeleteContainerGroup", FORM, "MalformedRequest"),
        ([], b"Action=DescribeContainerGroup&Action=DescribeContainerGroup", FORM, "MalformedRequest"),
        ([], b"Action=DescribeContainerGroup&Version=2019-01-01", FORM, "InvalidParameterValue"),
        ([], b"Action=DescribeContainerGroup&Service=kec", FORM, "InvalidParameterValue"),
        ([], b"Action=DescribeContainerGroup&Region=elsewhere", FORM, "InvalidParameterValue"),
        ([], b"Action=DescribeContainerGroup&Accesskey=AKBOB", FORM, "InvalidParameterValue"),
        ([], b"Action=DescribeContainerGroup&AccountId=tenant-bob", FORM, "InvalidParameterValue"),
        ([], b"Action=DescribeContainerGroup&MaxResults=101", FORM, "InvalidParameterValue"),
        ([], b"Action=DescribeContainerGroup&Marker=-1", FORM, "InvalidParameterValue"),
        ([], b"Action.1=DescribeContainerGroup", FORM, "InvalidParameterValue"),
        ([], b"Action=DescribeContainerGroup", "text/plain", "MalformedRequest"),
        ([], b'{"Action":"DescribeContainerGroup","Action":"x"}', "application/json", "MalformedRequest"),
        ([], b"Action=%ff", FORM, "MalformedRequest"),
        ([], b"Action=DeleteContainerGroup", FORM, "MissingParameter"),
        ([], b"Action=CreateContainerGroup&DryRun=true", FORM, "UnsupportedOperation"),
    ],
)
async def test_a_request_that_can_be_read_in_two_ways_or_none_is_refused(
    world, session, query, body, kind, code
):
    status, headers, answer = await send(session, world, query=query, body=body, kind=kind)
    assert (status, code_of(answer)) == (400, code)
    assert headers["X-Ksc-Request-Id"] == json.loads(answer)["RequestId"]


@pytest.mark.parametrize(
    "parts",
    [
        {"query": [("Action", "DescribeContainerGroup"), ("Search", "a b+c")], "kind": ""},
        {"method": "GET", "query": [("Action", "DescribeContainerGroup"), ("Marker", "0")], "kind": ""},
        {"body": b"Action=DescribeContainerGroup&Language=zh-CN&SdkVersion=x"},
        {"body": b'{"Action":"DescribeContainerGroup","Filter":[{"Name":"status","Value":["Running"]}]}',
         "kind": "application/json"},
        {"query": [("Action", "DescribeContainerGroup")], "body": b"Action=DescribeContainerGroup"},
    ],
)  # fmt: skip
async def test_parameters_come_by_url_form_and_json(world, session, parts):
    status, _, answer = await send(session, world, **parts)
    assert status == 200
    assert json.loads(answer)["ContainerGroups"] == []


async def test_without_accept_json_the_answer_is_xml(world, session):
    await world.alice.create_container_group(service_world.create_request())
    _, headers, answer = await send(session, world, body=b"Action=DescribeContainerGroup", accept="")
    root = ET.fromstring(answer)
    assert headers["Content-Type"].startswith("text/xml")
    assert root.tag == "DescribeContainerGroupResponse"
    assert root.findtext("ContainerGroups/item/KciMode") == "Cluster"
    _, _, answer = await send(session, world, body=b"Action=Nothing", accept="")
    assert ET.fromstring(answer).findtext("Error/Code") == "InvalidAction"


async def test_missing_and_foreign_groups_answer_byte_for_byte_alike(world, session):
    group_id = await world.alice.create_container_group(service_world.create_request())
    for action in (
        "DeleteContainerGroup",
        "DescribeContainerLog",
        "ExecContainerCommand",
        "StreamContainerLog",
        "DescribeContainerGroup",
    ):
        bodies = []
        for value in (group_id, "99999999-9999-4999-8999-999999999999"):
            name = "ContainerGroupId.0" if action == "DescribeContainerGroup" else "ContainerGroupId"
            body = f"Action={action}&{name}={value}&ContainerName=web&Command.0=id".encode()
            status, _, answer = await send(session, world, body=body, who=service_world.BOB)
            request_id = json.loads(answer)["RequestId"].encode()
            bodies.append((status, answer.replace(request_id, b"")))
        assert bodies[0] == bodies[1]


async def test_too_large_and_compressed_bodies_are_refused_unread(world, session):
    status, _, answer = await send(session, world, body=b"A=" + b"x" * (1024 * 1024))
    assert (status, code_of(answer)) == (413, "RequestTooLarge")
    status, _, answer = await send(session, world, body=b"Action=x", extra=[("content-encoding", "gzip")])
    assert (status, code_of(answer)) == (400, "MalformedRequest")


async def test_a_captured_exec_call_gives_no_second_token(world, session):
    group_id = await world.alice.create_container_group(service_world.create_request())
    body = f"Action=ExecContainerCommand&ContainerGroupId={group_id}&ContainerName=web&Command.0=id".encode()
    headers = [("host", world.endpoint), ("content-type", FORM)]
    parts = signing.Request("POST", "/", [], headers, body)
    headers += signing.sign(
        parts,
        service_world.keys_of(service_world.ALICE),
        region=service_world.REGION,
        now=clock.SystemClock().now(),
    )
    statuses = []
    for _ in range(3):
        async with session.post(f"http://{world.endpoint}/", data=body, headers=headers) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 403, 403]


async def test_a_secret_is_in_no_answer_and_no_log(world, session, capfd):
    with pytest.raises(errors.InvalidError) as caught:
        await world.alice.create_container_group(service_world.create_request(cluster_dns="no address"))
    assert service_world.CANARY not in repr(caught.value)
    await world.alice.create_container_group(service_world.create_request())
    _, _, answer = await send(session, world, body=b"Action=DescribeContainerGroup")
    assert service_world.CANARY.encode() not in answer
    out, err = capfd.readouterr()
    assert "group created" in out + err
    for canary in (service_world.CANARY, "alice-secret"):
        assert canary not in out + err


async def test_requests_that_proxies_and_we_might_read_differently_are_refused(world):
    for head in (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    ):
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(head)
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
        assert line.split()[1:2] in ([b"400"], [b"403"]), (head, line)


@pytest.mark.parametrize(
    "head", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: ", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_who_does_not_say_what_they_want_is_cut_off_and_holds_up_nobody(tmp_path, head):
    """Nothing, half a head, and nothing after a whole call; a watch is quiet for as long as it likes."""
    async with (
        asyncio.timeout(10),
        service_world.running(tmp_path, silence_s=0.3) as world,
        service_world.watching(world.alice) as watch,
    ):
        await service_world.until(watch, lambda change: change.synced)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(head)
        assert await world.alice.list_container_groups() == []
        assert b"400" not in (await reader.read()).partition(b"\r\n")[0]
        writer.close()
        await writer.wait_closed()
        # Her connection of before is idle as well, and may be cut just when it would be used.
        async with service_world.client_of(world.endpoint, service_world.ALICE) as alice:
            made = await alice.create_container_group(service_world.create_request())
        await service_world.until(watch, lambda change: change.group_id == made)


async def test_more_connections_than_the_bound_are_cut_off_and_the_others_served(tmp_path):
    bounds = entrance.Bounds(of_peer=2, in_all=9)
    async with asyncio.timeout(10), service_world.running(tmp_path, bounds=bounds) as world:
        assert await world.alice.list_container_groups() == []
        _, writer = await asyncio.open_connection("127.0.0.1", world.port)
        with pytest.raises(errors.UnreachableError):
            await world.bob.list_container_groups()
        assert await world.alice.list_container_groups() == []
        writer.close()
        await writer.wait_closed()


async def test_a_caller_who_leaves_in_the_middle_of_a_body_is_no_fault_of_ours(world, capfd):
    now = clock.SystemClock().now()
    head = (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n"
        f"X-Amz-Date: {now:%Y%m%dT%H%M%SZ}\r\n"
        f"Authorization: AWS4-HMAC-SHA256 Credential=AK/{now:%Y%m%d}/{service_world.REGION}/kci/aws4_request,"
        f" SignedHeaders=host;x-amz-date, Signature={'0' * 64}\r\n\r\nAction"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(head.encode())
    await writer.drain()
    writer.write_eof()
    writer.close()
    await writer.wait_closed()
    printed = ""
    async with asyncio.timeout(5):
        while "request failed" not in printed and "request refused" not in printed:
            printed += "".join(capfd.readouterr())
            await asyncio.sleep(0.02)
    assert "request failed" not in printed
