"""A whole service on loopback with the simulated kcilet behind it, wired as main.py does."""

import asyncio
import contextlib
import dataclasses
import ipaddress
import pathlib
import uuid

from fakes import link_server

from kci.client import client as clients
from kci.client import credentials as sources
from kci.contract import groups as api
from kci.contract import ids, packages, signing
from kci.kit import clock, entrance, observing, secret, tasks
from kci.service import instruments
from kci.service.app import (
    accounts,
    changes,
    credentials,
    groups,
    networks,
    replays,
    security_groups,
    starts,
    streams,
    usage,
)
from kci.service.domain import addresses
from kci.service.domain import groups as domain
from kci.service.domain import networks as networks_domain
from kci.service.engines import local
from kci.service.http import credentials as credential_actions
from kci.service.http import groups as group_actions
from kci.service.http import networks as network_actions
from kci.service.http import security_groups as security_group_actions
from kci.service.http import server, verification
from kci.service.http import streams as stream_actions
from kci.service.http import usage as usage_actions
from kci.service.reconcilers import groups as group_reconciler
from kci.service.reconcilers import reports
from kci.service.store import database, sealing

REGION = "cn-test-1"
KEY = bytes(range(32))
SUBNET_ID = "11111111-1111-4111-8111-111111111111"
SECURITY_GROUP_ID = "22222222-2222-4222-8222-222222222222"
RESERVED = ipaddress.IPv4Network("10.96.0.0/12")
PLACE = domain.Place(region=REGION, zone="cn-test-1a", reserved=(RESERVED,))
ALICE = accounts.Account(ids.TenantId("tenant-alice"), "AKALICE", secret.Secret("alice-secret"))
BOB = accounts.Account(ids.TenantId("tenant-bob"), "AKBOB", secret.Secret("bob-secret"))
SUBNET = addresses.Subnet(
    ids.SubnetId(SUBNET_ID), ipaddress.IPv4Network("10.9.0.0/24"), ipaddress.IPv4Address("10.9.0.1")
)
NETWORK = networks_domain.Configured(ALICE.tenant_id, SUBNET, (ids.SecurityGroupId(SECURITY_GROUP_ID),))
# Another tenant's, in the same service.
BOBS_SUBNET_ID = "44444444-4444-4444-8444-444444444444"
BOBS_SECURITY_GROUP_ID = "55555555-5555-4555-8555-555555555555"
BOBS_NETWORK = networks_domain.Configured(
    BOB.tenant_id,
    addresses.Subnet(
        ids.SubnetId(BOBS_SUBNET_ID),
        ipaddress.IPv4Network("10.10.0.0/24"),
        ipaddress.IPv4Address("10.10.0.1"),
    ),
    (ids.SecurityGroupId(BOBS_SECURITY_GROUP_ID),),
)
# What a create call of his says otherwise than one of hers.
OF_BOB = {"subnet_id": BOBS_SUBNET_ID, "security_group_id": (BOBS_SECURITY_GROUP_ID,)}
CANARY = "kubeconfig-canary-5f1d"


def create_request(
    *, pod: str = "web-0", pod_uid: str = "", cluster: str = "c1", **changes_
) -> api.CreateContainerGroup:
    uid = pod_uid or str(uuid.uuid4())
    given = {
        "container_group_name": f"default-{pod}-{uid}",
        "subnet_id": SUBNET_ID,
        "security_group_id": (SECURITY_GROUP_ID,),
        "kube_config": f"apiVersion: v1 # {CANARY}",
        "label": tuple(
            api.Label(key=key, value=value)
            for key, value in (
                ("cluster-id", cluster),
                ("namespace", "default"),
                ("pod-name", pod),
                ("node-name", "vk"),
                ("pod-uuid", uid),
            )
        ),
    }
    return api.CreateContainerGroup(**(given | changes_))


@dataclasses.dataclass
class World:
    """The running service, the kcilet behind it, and a client for each tenant."""

    port: int
    kcilet: link_server.LinkServer
    alice: clients.KciClient
    bob: clients.KciClient
    application: object
    service: groups.GroupService
    networks: networks.NetworkService
    security_groups: security_groups.SecurityGroupService
    # One entry for each time that security groups may have changed.
    told: list[None]
    accounts: accounts.KnownAccounts

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"


async def prepare(store: database.Database) -> None:
    """What a service that starts over this store does first: without a network there are no groups."""
    wall = clock.SystemClock()
    used = replays.Replays(store, wall, window_s=300)
    made = networks.NetworkService(store, PLACE, wall, used, on_change=lambda: None)
    for network in (BOBS_NETWORK, NETWORK):
        await made.bootstrap(network)


@contextlib.asynccontextmanager
async def running(
    folder: pathlib.Path,
    *,
    kcilet: link_server.LinkServer | None = None,
    skew_s: int = 300,
    stream_idle_s: float = 3600,
    table: packages.Table = packages.STANDARD,
    mtu: int = 0,
    measured: instruments.Instruments | None = None,
    tracer: observing.Tracer = observing.NO_TRACER,
    bounds: entrance.Bounds | None = None,
    silence_s: float = server.SILENCE_S,
):
    measured = measured or instruments.make()
    place = dataclasses.replace(PLACE, table=table, mtu=mtu)
    told: list[None] = []
    fake = kcilet or link_server.LinkServer()
    socket = str(folder / "kcilet.sock")
    feed = changes.Feed()
    wall = clock.SystemClock()
    known = accounts.KnownAccounts([ALICE, BOB], sealing.Sealer(KEY))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(fake.serve(socket))
        store = stack.enter_context(database.open_database(folder / "service.db", KEY))
        used = replays.Replays(store, wall, window_s=skew_s)
        network_service = networks.NetworkService(
            store, place, wall, used, on_change=lambda: told.append(None)
        )
        security_group_service = security_groups.SecurityGroupService(
            store, wall, used, on_change=lambda: told.append(None)
        )
        await prepare(store)
        await network_service.bootstrap(NETWORK)
        engine = await stack.enter_async_context(local.LocalEngine(socket))
        reconciler = group_reconciler.GroupReconciler(
            engine, on_taken=measured.queue_taken, on_worked=measured.queue_worked
        )
        service = groups.GroupService(
            store,
            place,
            feed,
            wall,
            used,
            on_work=reconciler.signal,
            known_starts=starts.Starts(tracer),
        )
        application = server.make_application(
            verification.Verifier(known, wall, region=REGION, skew_s=skew_s),
            group_actions.GroupActions(service),
            stream_actions.StreamActions(
                streams.StreamService(service, engine, replays=used), idle_s=stream_idle_s
            ),
            credential_actions.CredentialActions(credentials.CredentialService(known, wall, replays=used)),
            network_actions.NetworkActions(network_service),
            security_group_actions.SecurityGroupActions(security_group_service),
            usage_actions.UsageActions(usage.UsageService(service, engine)),
            version="test",
            on_call=measured.on_call,
            tracer=tracer,
        )
        _, port = await stack.enter_async_context(
            server.listening(
                application,
                "127.0.0.1",
                0,
                before_end=feed.close,
                bounds=bounds or entrance.Bounds(),
                silence_s=silence_s,
            )
        )
        await stack.enter_async_context(tasks.background("groups", reconciler.run(service)))
        reader = reports.ReportReader(engine, service, reconciler)
        await stack.enter_async_context(tasks.background("reports", reader.run()))
        alice, bob = [
            await stack.enter_async_context(client_of(f"127.0.0.1:{port}", who)) for who in (ALICE, BOB)
        ]
        yield World(
            port,
            fake,
            alice,
            bob,
            application,
            service,
            network_service,
            security_group_service,
            told,
            known,
        )


def client_of(endpoint: str, who: accounts.Account) -> clients.KciClient:
    return clients.KciClient(endpoint, region=REGION, credentials=sources.Static(keys_of(who)))


def keys_of(who: accounts.Account) -> signing.Credentials:
    return signing.Credentials(who.access_key, who.secret_key)


@contextlib.asynccontextmanager
async def watching(client):
    """A watch, for at most 20 s."""
    async with asyncio.timeout(20), contextlib.aclosing(client.watch_container_groups()) as watch:
        yield watch


async def until(watch, wanted):
    """Read a watch up to the first change that is wanted, and return it."""
    async for change in watch:
        if wanted(change):
            return change
    raise AssertionError("the watch ended")
