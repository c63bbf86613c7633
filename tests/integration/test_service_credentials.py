"""Temporary credentials, issued and checked by the service, and rotated under the calls of a client."""

import asyncio
import datetime
import io
import json

import aiohttp
import pytest
import service_world
from fakes import kube_api

from kci.client import client as clients
from kci.client import credentials as sources
from kci.client import errors
from kci.contract import signing
from kci.kit import clock, secret, tasks
from kci.kube import resources
from kci.provider import credentials
from kci.service.app import accounts
from kci.service.store import sealing

FORM = "application/x-www-form-urlencoded"
NAME = "user-temp-aksk"


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


def now():
    return clock.SystemClock().now()


def issue(world, life_s, *, of=service_world.ALICE):
    return world.accounts.issue(of.access_key, expires_at=now() + datetime.timedelta(seconds=life_s))


def client_with(world, source):
    return clients.KciClient(world.endpoint, region=service_world.REGION, credentials=source)


async def call_with(world, keys):
    async with client_with(world, sources.Static(keys)) as client:
        return await client.list_container_groups()


async def refusal(world, keys):
    with pytest.raises(errors.RefusedError) as caught:
        await call_with(world, keys)
    return caught.value.code


# ---- issued and checked


async def test_issued_credentials_have_their_tenants_rights_and_no_others(world):
    made = await world.alice.create_container_group(service_world.create_request())
    for of, seen in ((service_world.ALICE, [made]), (service_world.BOB, [])):
        found = await call_with(world, issue(world, 60, of=of).credentials)
        assert [group.container_group_id for group in found] == seen


async def test_they_are_issued_by_a_signed_call_and_end_when_it_says(world):
    issued = await world.alice.issue_credentials(900)
    end = datetime.datetime.fromisoformat(issued.expiration)
    assert abs(end - now() - datetime.timedelta(seconds=900)) < datetime.timedelta(seconds=30)
    keys = signing.Credentials(
        issued.access_key_id, secret.Secret(issued.secret_access_key), secret.Secret(issued.security_token)
    )
    assert await call_with(world, keys) == []
    for hidden in (issued.secret_access_key, issued.security_token):
        assert hidden not in repr(issued)
    # They could else be renewed for ever.
    async with client_with(world, sources.Static(keys)) as client:
        with pytest.raises(errors.RefusedError, match="permanent key"):
            await client.issue_credentials(900)
    for wrong in (59, 86_401):
        with pytest.raises(errors.InvalidError):
            await world.alice.issue_credentials(wrong)


@pytest.mark.requirement("R46")
async def test_a_captured_call_issues_no_second_pair(world):
    body = b"Action=IssueCredentials"
    headers = [("host", world.endpoint), ("content-type", FORM)]
    headers += signing.sign(
        signing.Request("POST", "/", [], headers, body),
        service_world.keys_of(service_world.ALICE),
        region=service_world.REGION,
        now=now(),
    )
    headers.append(("accept", "application/json"))
    codes = []
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(
                f"http://{world.endpoint}/", data=io.BytesIO(body), headers=headers
            ) as answer:
                codes.append(json.loads(await answer.read()).get("Error", {}).get("Code"))
    assert codes == [None, "ReplayedRequest"]


async def test_ended_foreign_and_damaged_tokens_are_refused_each_by_its_code(world):
    good, ended, other = (issue(world, life_s).credentials for life_s in (60, 0, 60))
    token = good.security_token.reveal()
    elsewhere = accounts.KnownAccounts([service_world.ALICE], sealing.Sealer(bytes(32)))
    forged = elsewhere.issue(service_world.ALICE.access_key, expires_at=now() + datetime.timedelta(hours=1))
    left = world.accounts.issue("AKGONE", expires_at=now() + datetime.timedelta(hours=1))
    cases = {
        "ended": (ended, "SecurityTokenExpired"),
        "another's token": (with_token(good, other.security_token.reveal()), "SecurityTokenInvalid"),
        "no token": (with_token(good, ""), "SecurityTokenInvalid"),
        "cut": (with_token(good, token[:-8]), "SecurityTokenInvalid"),
        "one letter changed": (
            with_token(good, token[:20] + ("A" if token[20] != "A" else "B") + token[21:]),
            "SecurityTokenInvalid",
        ),
        "no base64": (with_token(good, "é" * 20), "SecurityTokenInvalid"),
        "of another service": (forged.credentials, "SecurityTokenInvalid"),
        "its key was removed": (left.credentials, "SecurityTokenInvalid"),
        "another secret": (
            signing.Credentials(good.access_key, secret.Secret("guess"), good.security_token),
            "SignatureDoesNotMatch",
        ),
        # Who cannot sign does not learn that they ended.
        "ended, another secret": (
            signing.Credentials(ended.access_key, secret.Secret("guess"), ended.security_token),
            "SignatureDoesNotMatch",
        ),
    }
    for name, (keys, code) in cases.items():
        assert (name, await refusal(world, keys)) == (name, code)
    # A listed key needs no token, and one that is sent along harms nothing.
    assert await call_with(world, with_token(service_world.keys_of(service_world.ALICE), token)) == []


@pytest.mark.parametrize("how", ["signed", "added after signing"])
async def test_the_token_may_be_signed_or_not(world, how):
    """Kingsoft's own clients do either."""
    keys, body = issue(world, 60).credentials, b"Action=DescribeContainerGroup"
    headers = [("host", world.endpoint), ("content-type", FORM)]
    signed = keys if how == "signed" else with_token(keys, "")
    headers += signing.sign(
        signing.Request("POST", "/", [], headers, body), signed, region=service_world.REGION, now=now()
    )
    if how != "signed":
        headers.append(("X-Ksc-Security-Token", keys.security_token.reveal()))
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{world.endpoint}/", data=io.BytesIO(body), headers=headers) as answer,
    ):
        assert answer.status == 200


def with_token(keys, token):
    return signing.Credentials(keys.access_key, keys.secret_key, secret.Secret(token) if token else None)


# ---- rotated


class Cluster:
    """The ConfigMap of a cluster, into which somebody puts new keys from time to time."""

    def __init__(self, world):
        self.api = kube_api.FakeApi()
        self._world = world
        self._is_there = False

    async def put(self, issued):
        keys = issued.credentials
        data = {
            "ak": keys.access_key,
            "sk": keys.secret_key.reveal(),
            "securityToken": keys.security_token.reveal(),
            "expired_at": issued.expires_at.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        }
        if self._is_there:
            await self.api.patch(resources.CONFIG_MAPS, NAME, {"data": data}, namespace="kube-system")
            return
        self._is_there = True
        body = {"metadata": {"name": NAME}, "data": data}
        await self.api.create(resources.CONFIG_MAPS, body, namespace="kube-system")

    def source(self, **settings):
        return credentials.Cluster(
            self.api,
            [credentials.Reference(resources.CONFIG_MAPS, NAME)],
            cipher_key=secret.Secret(""),
            clock=clock.SystemClock(),
            **settings,
        )


class Load:
    """Creates and lists without a pause; what fails ends it."""

    def __init__(self, client):
        self._client = client
        self._stop = asyncio.Event()
        self.calls = 0

    async def run(self):
        # The same pod again and again, as a subnet has no addresses for new ones without an end.
        request = service_world.create_request()
        made = await self._client.create_container_group(request)
        while not self._stop.is_set():
            assert await self._client.create_container_group(request) == made
            assert len(await self._client.list_container_groups(ids=[made])) == 1
            self.calls += 2

    def stop(self):
        self._stop.set()


@pytest.mark.requirement("R58")
@pytest.mark.guide("env TEMP_AKSK_CM")
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "the watch hangs"])
async def test_keys_rotated_under_load_lose_no_call(world, runs, watched):
    """Each pair ends soon after the next one is there; without the watch, calls look for it themselves."""
    cluster, chance = Cluster(world), runs.random()
    await cluster.put(issue(world, 1.0))
    # As the lives of these keys to those of real ones, so a look's interval to the usual one.
    source = cluster.source(look_every_s=0.05)
    async with client_with(world, source) as client, asyncio.timeout(480):
        load = Load(client)
        async with tasks.Tasks() as group:
            watch = group.spawn("watch", source.run()) if watched else None
            for number in range(4):
                group.start(f"load {number}", load.run())
            for _ in range(runs.scale(quick=4, faults=60, release=300)):
                await asyncio.sleep(chance.uniform(0.3, 0.8))
                # What is there has 0.2 seconds left: a pair's end is told to nobody but by the pair itself.
                await cluster.put(issue(world, 1.0))
            load.stop()
            if watch is not None:
                watch.cancel()
    assert load.calls > 50


@pytest.mark.requirement("R58")
async def test_keys_that_the_service_ends_early_are_replaced_by_one_look_without_a_lost_call(world):
    """Clocks differ: the ConfigMap says an hour, the service ends them at once. The watch is late."""
    cluster = Cluster(world)
    early = issue(world, 0)
    told = accounts.Temporary(early.credentials, now() + datetime.timedelta(hours=1))
    await cluster.put(told)
    source = cluster.source()
    assert await source.get() == early.credentials
    await cluster.put(issue(world, 3600))
    async with client_with(world, source) as client:
        found = await tasks.wait_all([client.list_container_groups() for _ in range(30)], name="call")
    assert found == [[]] * 30
    assert source._looks == 2, "the first read, and one for all that were refused"
