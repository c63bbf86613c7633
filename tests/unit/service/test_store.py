"""The database file: what it survives, what it refuses, and that it never starts empty over a damaged one."""

import asyncio
import contextlib
import dataclasses
import datetime
import ipaddress
import pathlib
import shutil
import sqlite3
import tempfile
import threading

import hypothesis
import pytest
import service_world
import sqlalchemy as sa
from alembic import autogenerate, migration
from hypothesis import strategies as st

from kci.kit import secret
from kci.service.domain import groups as domain
from kci.service.domain import sizes, states
from kci.service.store import addresses, database, errors, kubeconfigs, schema, sealing
from kci.service.store import groups as table

KEY = service_world.KEY


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "kci.db"
    database.open_database(path, KEY).close()
    return path


@pytest.mark.requirement("R03")
async def test_a_new_database_is_kept_and_private(made):
    assert made.stat().st_mode & 0o077 == 0
    with database.open_database(made, KEY) as store:
        settings = await store.run(
            lambda session: [
                session.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        )
    assert settings == ["wal", 2, 1]


async def test_the_migrations_lead_to_the_schema_in_code(made):
    with database.open_database(made, KEY) as store:
        differences = await store.run(
            lambda session: autogenerate.compare_metadata(
                migration.MigrationContext.configure(session.connection), schema.metadata
            )
        )
        indexes = await store.run(
            lambda session: {index["name"] for index in sa.inspect(session.connection).get_indexes("groups")}
        )
    assert differences == []
    assert {"one_group_per_pod", "one_group_per_token"} <= indexes


# Each after those that lead to it.
OF_0005 = ("node_kubeconfigs",)
OF_0004 = (*OF_0005, "security_group_rules", "security_groups", "subnets", "vpcs", "retained_addresses")


async def test_a_database_of_the_first_schema_is_brought_up_to_date_with_its_groups(made):
    with database.open_database(made, KEY) as store:
        group = await store.run(_insert_group)
    with contextlib.closing(sqlite3.connect(made)) as connection:
        for step in (
            *(f"DROP TABLE {name}" for name in OF_0004),
            "DROP TABLE fences",
            "DROP TABLE signatures",
            "ALTER TABLE groups DROP COLUMN checksum",
            "DELETE FROM facts WHERE name <> 'key-check'",
            "UPDATE alembic_version SET version_num = '0001'",
        ):
            connection.execute(step)
        connection.commit()
    made.with_name(f"{made.name}.lock").write_bytes(b"made\n")
    for _ in range(2):
        with database.open_database(made, KEY) as store:
            assert await store.run(lambda session: table.get_group(session, group.group_id)) == group


async def test_a_database_of_the_version_before_networks_keeps_its_groups_and_gets_the_configured_place(made):
    with database.open_database(made, KEY) as store:
        group = await store.run(_insert_group)
    with contextlib.closing(sqlite3.connect(made)) as connection:
        for name in OF_0004:
            connection.execute(f"DROP TABLE {name}")
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
        connection.commit()
    for _ in range(2):
        with database.open_database(made, KEY) as store:
            read = await store.run(lambda session: table.get_group(session, group.group_id))
            if read.subnet.vpc_id:
                break
            assert read == group
            await service_world.prepare(store)
    assert read.subnet.vpc_id == service_world.NETWORK.vpc_id
    assert dataclasses.replace(read, subnet=group.subnet) == group


async def test_a_database_of_the_version_before_nodes_kubeconfigs_gives_each_group_its_own(made):
    with database.open_database(made, KEY) as store:
        group = await store.run(_insert_group)
    with contextlib.closing(sqlite3.connect(made)) as connection:
        for name in OF_0005:
            connection.execute(f"DROP TABLE {name}")
        connection.execute("UPDATE alembic_version SET version_num = '0004'")
        connection.commit()
    with database.open_database(made, KEY) as store:
        assert not await store.run(lambda session: kubeconfigs.get_newest(session, group))
        assert (
            await store.run(lambda session: table.get_kubeconfig(session, group))
        ).reveal() == "kubeconfig"


@pytest.mark.requirement("R04")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vpcs", "cidr = '10.0.0.0/8'"),
        ("subnets", "gateway = '10.9.0.7'"),
        ("security_groups", "tenant_id = 'bob'"),
        ("security_group_rules", "is_allowed = 0"),
    ],
)
async def test_a_changed_value_of_a_network_is_seen_though_sqlite_does_not(made, name, change):
    with database.open_database(made, KEY) as store:
        await service_world.prepare(store)
    with contextlib.closing(sqlite3.connect(made)) as connection:
        connection.execute(f"UPDATE {name} SET {change}")
        connection.commit()
    assert "not as they were written" in _refused(made)


@pytest.mark.requirement("R04")
async def test_a_changed_fingerprint_of_a_nodes_kubeconfig_is_seen_though_sqlite_does_not(made):
    with database.open_database(made, KEY) as store:
        group = await store.run(_insert_group)
        await store.run(lambda session: _give(session, group, "newer"))
    with contextlib.closing(sqlite3.connect(made)) as connection:
        connection.execute("UPDATE node_kubeconfigs SET fingerprint = ''")
        connection.commit()
    assert "kubeconfigs of nodes are not as they were written" in _refused(made)


async def test_a_nodes_kubeconfig_is_written_when_it_is_another_and_goes_with_its_last_group(made):
    def work(session):
        group = _insert_group(session)
        written = [_give(session, group, text) for text in ("first", "first", "second", "second", "first")]
        newest = kubeconfigs.get_newest(session, group).reveal()
        stored = session.connection.scalar(sa.select(schema.node_kubeconfigs.c.kubeconfig_sealed))
        kubeconfigs.remove_unused(session)
        while_used = kubeconfigs.get_newest(session, group).reveal()
        deleted = dataclasses.replace(group, lifecycle=states.Lifecycle.DELETED)
        table.update_group(session, deleted, now=NOW)
        kubeconfigs.remove_unused(session)
        return written, newest, stored, while_used, kubeconfigs.get_newest(session, group).reveal()

    with database.open_database(made, KEY) as store:
        written, newest, stored, while_used, after = await store.run(work)
    assert written == [True, False, True, False, True]
    assert (newest, while_used, after) == ("first", "first", "")
    assert b"first" not in stored


async def test_of_two_calls_of_a_node_the_one_that_was_signed_last_counts_however_late_the_other_comes(made):
    def work(session):
        group = _insert_group(session)
        given = [("first", 0), ("second", 60), ("first", 0), ("first", 59), ("third", 60)]
        return [
            _give(session, group, text, after_s=after_s) and kubeconfigs.get_newest(session, group).reveal()
            for text, after_s in given
        ]

    with database.open_database(made, KEY) as store:
        assert await store.run(work) == ["first", "second", False, False, "third"]


async def test_a_group_that_names_no_node_shares_no_kubeconfig(made):
    def work(session):
        group = _insert_group(session, label=())
        return _give(session, group, "newer"), kubeconfigs.get_newest(session, group)

    with database.open_database(made, KEY) as store:
        assert await store.run(work) == (False, secret.Secret(""))


def _give(session, group, text, *, after_s=0):
    given_at = NOW + datetime.timedelta(seconds=after_s)
    return kubeconfigs.update_newest(session, group, secret.Secret(text), given_at=given_at)


def _insert_group(session, **asked):
    request = service_world.create_request(**asked)
    interface = domain.Interface(
        "i", service_world.SUBNET_ID, "10.9.0.2", 24, "10.9.0.1", "0a:58:0a:09:00:02"
    )
    group = domain.Group(
        group_id="g1",
        tenant_id="alice",
        request=domain.to_stored(request),
        size=sizes.choose_size(request),
        interface=interface,
        created_at=datetime.datetime(2026, 11, 23, 10, 0, 0, 123000, tzinfo=datetime.UTC),
    )
    table.insert_group(session, group, secret.Secret("kubeconfig"))
    return group


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_truncated_database_is_refused(made, cut):
    content = made.read_bytes()
    made.write_bytes(content[:cut])
    _refused(made)
    assert made.read_bytes() == content[:cut]


def test_a_lost_database_is_not_started_anew(made):
    made.unlink()
    _refused(made)
    assert not made.exists()


def test_another_key_is_refused(made):
    _refused(made, key=bytes(32))


def test_a_newer_schema_is_refused(made):
    with sqlite3.connect(made) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert "newer" in _refused(made)


def test_somebody_elses_database_is_refused(tmp_path):
    path = tmp_path / "kci.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    _refused(path)


def test_a_second_service_is_kept_away(made):
    with database.open_database(made, KEY):
        assert "another" in _refused(made)
    database.open_database(made, KEY).close()


def _refused(path, *, key=KEY):
    with pytest.raises(errors.UnusableStoreError) as caught:
        database.open_database(path, key)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_the_loop_goes_on_while_the_database_works(made):
    release = threading.Event()
    with database.open_database(made, KEY) as store:
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(store.run(lambda _session: release.wait(10)))
            await asyncio.sleep(0)
            assert not slow.done()
            release.set()
    assert slow.result()


async def test_a_failed_transaction_leaves_nothing(made):
    def work(session):
        session.connection.execute(schema.facts.insert().values(name="x", value=b""))
        raise KeyError

    def count(session):
        return session.connection.scalar(sa.select(sa.func.count()).select_from(schema.facts))

    with database.open_database(made, KEY) as store:
        before = await store.run(count)
        with pytest.raises(KeyError):
            await store.run(work)
        with pytest.raises(errors.StoreError, match="constraint"):
            await store.run(
                lambda session: [
                    session.connection.execute(schema.facts.insert().values(name="x", value=b""))
                    for _ in range(2)
                ]
            )
        assert await store.run(count) == before


NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


def claim(session, subnet, group_id, *, name="", now=NOW):
    cluster, _, name = name.rpartition("/")
    return addresses.claim_address(
        session,
        subnet,
        group_id,
        tenant_id="alice",
        cluster_id=cluster,
        name=name or group_id,
        now=now,
    )


async def test_an_address_comes_back_last(made):
    subnet = service_world.SUBNET
    with database.open_database(made, KEY) as store:
        first = await store.run(lambda session: claim(session, subnet, "g1"))
        await store.run(
            lambda session: session.connection.execute(
                schema.addresses.update().values(group_id=None, released_at_ms=1)
            )
        )
        taken = [await store.run(lambda session, n=n: claim(session, subnet, f"g{n}")) for n in range(2, 256)]
    assert taken[-2:] == [first, None]
    assert len(set(taken)) == len(taken)


async def test_no_address_of_an_earlier_range_or_the_gateway_is_given(made):
    """The same subnet after its range, and then its gateway, were changed in the settings."""
    old = service_world.SUBNET
    new = dataclasses.replace(
        old, network=ipaddress.IPv4Network("10.8.0.0/29"), gateway=ipaddress.IPv4Address("10.8.0.1")
    )
    moved = dataclasses.replace(new, gateway=ipaddress.IPv4Address("10.8.0.2"))
    with database.open_database(made, KEY) as store:

        async def take(subnet, group_id):
            return await store.run(lambda session: claim(session, subnet, group_id))

        await take(old, "old")
        await store.run(
            lambda session: session.connection.execute(
                schema.addresses.update().values(group_id=None, released_at_ms=1)
            )
        )
        assert [str(await take(new, f"n{n}")) for n in range(6)] == [
            *(f"10.8.0.{part}" for part in range(2, 7)),
            "None",
        ]
        await store.run(
            lambda session: session.connection.execute(
                schema.addresses.update().values(group_id=None, released_at_ms=1)
            )
        )
        assert str(await take(moved, "last")) == "10.8.0.3"


class Addresses:
    """A subnet's addresses in a real database, and what must be true of them by a model in memory."""

    def __init__(self, session):
        self._session = session
        self._now = NOW
        self._count = 0
        self.subnet = dataclasses.replace(
            service_world.SUBNET, network=ipaddress.IPv4Network("10.9.0.0/29"), first=None
        )
        # By group: its cluster and name, its address, how long that is retained.
        self.held = {}
        # By cluster and name: an address and its end.
        self.retained = {}

    def take(self, name, hours):
        self._count += 1
        group_id = f"g{self._count}"
        address = claim(self._session, self.subnet, group_id, name=name, now=self._now)
        usable = set(self.subnet.network.hosts()) - {self.subnet.gateway}
        taken = {held for _, held, _ in self.held.values()}
        kept = {name: one for name, (one, end) in self.retained.items() if end > self._now}
        if address is None:
            assert taken == usable
            return
        assert address in usable - taken, "an address is given twice"
        if name in kept:
            assert address == kept[name], "its own address was free"
        elif usable - taken - set(kept.values()):
            assert address not in kept.values(), "another name's address was given without need"
        self.retained = {name: one for name, one in self.retained.items() if one[0] != address}
        self.held[group_id] = name, address, hours

    def give_back(self, number):
        if not self.held:
            return
        group_id = sorted(self.held)[number % len(self.held)]
        name, address, hours = self.held.pop(group_id)
        cluster, _, short = name.partition("/")
        request = service_world.create_request(
            cluster=cluster, container_group_name=short, retain_ip=hours > 0, retain_ip_hours=hours
        )
        interface = domain.Interface("i", self.subnet.subnet_id, str(address), 29, "10.9.0.1", "")
        group = domain.Group(group_id, "alice", request, sizes.choose_size(request), interface, NOW)
        addresses.release_address(self._session, group, now=self._now)
        if hours:
            self.retained[name] = address, self._now + datetime.timedelta(hours=hours)

    def wait(self, hours):
        self._now += datetime.timedelta(hours=hours)
        if hours % 2:
            addresses.remove_ended(self._session, now=self._now)


_STEPS = st.one_of(
    st.tuples(st.just("take"), st.sampled_from(("c1/a", "c1/b", "c2/a", "c2/c")), st.integers(0, 3)),
    st.tuples(st.just("give_back"), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.integers(1, 4)),
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(_STEPS, max_size=40))
def test_no_address_is_given_twice_and_a_retained_one_comes_back_to_its_name(steps):
    with tempfile.TemporaryDirectory() as folder, TEMPLATE.copied(folder) as store:

        def work(session):
            model = Addresses(session)
            for name, *arguments in steps:
                getattr(model, name)(*arguments)

        asyncio.run(store.run(work))


class Template:
    """An empty database is made once, and copied: making one takes longer than using it."""

    def __init__(self):
        self._folder = None

    def copied(self, folder):
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
            database.open_database(pathlib.Path(self._folder.name, "kci.db"), KEY).close()
        shutil.copytree(self._folder.name, folder, dirs_exist_ok=True)
        return database.open_database(pathlib.Path(folder, "kci.db"), KEY)


TEMPLATE = Template()


def test_a_sealed_value_opens_for_its_owner_only():
    sealer = sealing.Sealer(KEY)
    sealed = sealer.seal(secret.Secret("kubeconfig"), owner="alice/1")
    assert sealer.open(sealed, owner="alice/1").reveal() == "kubeconfig"
    assert b"kubeconfig" not in sealed
    fingerprint = sealer.fingerprint(secret.Secret("kubeconfig"), owner="alice/1")
    assert fingerprint == sealing.Sealer(KEY).fingerprint(secret.Secret("kubeconfig"), owner="alice/1")
    assert fingerprint != sealer.fingerprint(secret.Secret("kubeconfig"), owner="bob/1")
    assert fingerprint != sealing.Sealer(bytes(32)).fingerprint(secret.Secret("kubeconfig"), owner="alice/1")
    for wrong, owner in (
        (sealed, "bob/1"),
        (sealed[:-1], "alice/1"),
        (b"\x02" + sealed[1:], "alice/1"),
        (b"", "alice/1"),
    ):
        with pytest.raises(sealing.SealError):
            sealer.open(wrong, owner=owner)
