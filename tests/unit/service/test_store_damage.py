"""A damaged database is read whole or refused in one line: never empty, never with fewer or other groups.

What the store does not want any more ends at the machine, so a group that is read wrongly is one deleted.
"""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import tempfile

import pytest
import service_world

from kci.contract import groups as api
from kci.contract import ids
from kci.kit import clock
from kci.service.app import accounts, changes, groups, replays
from kci.service.domain import states
from kci.service.store import database, errors, fences, schema
from kci.service.store import groups as table

KEY = service_world.KEY
GROUPS = 12
FENCE = api.Fence(holder="c1/vk", epoch=7)
NOW = clock.SystemClock().now()
CALLER = accounts.Identity(service_world.ALICE.tenant_id, "AKALICE", "signature", NOW)
NAMES = ("kci.db", "kci.db-wal", "kci.db.lock")


@pytest.fixture(params=["stopped", "killed"])
async def store(request, tmp_path):
    """The folder of a store with groups in it: with all in one file, or with the last changes in its log."""
    made, copied = tmp_path / "made", tmp_path / "copied"
    made.mkdir()
    with database.open_database(made / "kci.db", KEY) as opened:
        await _fill(opened)
        # A copy of a database that is at work is what a killed service leaves.
        shutil.copytree(made, copied)
    return made if request.param == "stopped" else copied


async def _fill(opened):
    used = replays.Replays(opened, clock.SystemClock(), window_s=300)
    service = groups.GroupService(
        opened, service_world.PLACE, changes.Feed(), clock.SystemClock(), used, on_work=lambda _: None
    )
    await service_world.prepare(opened)
    made = [
        await service.create(CALLER, service_world.create_request(pod=f"web-{n}", fence=FENCE))
        for n in range(GROUPS)
    ]
    await service.delete(CALLER, made[0])


async def _content(path):
    """Everything that is acted on."""

    def work(session):
        found = table.list_groups(session, lifecycles=list(states.Lifecycle))
        return found, fences.get_epoch(session, CALLER.tenant_id, FENCE.holder)

    with database.open_database(path, KEY) as opened:
        return await opened.run(work)


async def _damage_each(store, tmp_path, damages):
    """How many were refused; all others must read as before."""
    whole = await _content(_copy(store, tmp_path / "whole"))
    assert len(whole[0]) == GROUPS
    refused: list[str] = []
    for name, damage in damages:
        path = _copy(store, tmp_path / "damaged")
        file = path.with_name(name)
        content = damage(file.read_bytes())
        file.write_bytes(content)
        try:
            assert await _content(path) == whole
        except errors.UnusableStoreError as error:
            refused.append(str(error))
            # Untouched, so that it can still be saved.
            assert path.exists()
    assert all(text.startswith("cannot ") and "\n" not in text for text in refused)
    return len(refused)


def _copy(store, target):
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in NAMES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(store / name, target / name)
    return target / "kci.db"


def _files(store):
    """Those that hold something, with their size; the mark of the lock file is not the store."""
    return [
        (name, (store / name).stat().st_size) for name in ("kci.db", "kci.db-wal") if (store / name).exists()
    ]


def _cut(place):
    return lambda content: content[:place]


def _flip(place, bits):
    def damage(content):
        return content[:place] + bytes((content[place] ^ bits,)) + content[place + 1 :]

    return damage


@pytest.mark.requirement("R04")
async def test_a_truncated_store_is_read_whole_or_refused(store, tmp_path, runs):
    count = runs.scale(quick=60, faults=500, release=2000)
    chance = runs.random()
    chosen = [chance.choice(_files(store)) for _ in range(count)]
    damages = [(name, _cut(chance.randrange(size))) for name, size in chosen]
    assert await _damage_each(store, tmp_path, damages) > count // 2


@pytest.mark.requirement("R04")
async def test_a_store_with_a_flipped_byte_is_read_whole_or_refused(store, tmp_path, runs):
    count = runs.scale(quick=60, faults=500, release=2000)
    chance = runs.random()
    chosen = [chance.choice(_files(store)) for _ in range(count)]
    damages = [(name, _flip(chance.randrange(size), chance.randint(1, 255))) for name, size in chosen]
    assert await _damage_each(store, tmp_path, damages) > 0


@pytest.mark.requirement("R04")
async def test_a_changed_value_is_seen_though_sqlite_does_not(store, tmp_path):
    """Each of these would end a pod, or start one anew."""
    for column in ("gone", "generation", "message", "address", "fingerprint"):
        path = _copy(store, tmp_path / "damaged")
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(f"UPDATE groups SET {column} = 5 WHERE name LIKE 'default-web-3%'")
            connection.commit()
        with pytest.raises(errors.UnusableStoreError, match="not as they were written"):
            await _content(path)


@pytest.mark.requirement("R04")
async def test_a_store_without_its_log_or_from_an_older_copy_is_refused(tmp_path):
    working = tmp_path / "working"
    working.mkdir()
    with database.open_database(working / "kci.db", KEY) as opened:
        older = _copy(working, tmp_path / "older")
        await _fill(opened)
        logless = _copy(working, tmp_path / "logless")
    shutil.copy(working / "kci.db.lock", older.with_name("kci.db.lock"))
    logless.with_name("kci.db-wal").unlink()
    for path in (older, logless):
        with pytest.raises(errors.UnusableStoreError, match="changes are lost"):
            await _content(path)
    # To go on with what is left is somebody's decision.
    older.with_name("kci.db.lock").unlink()
    assert (await _content(older))[0] == []


@pytest.mark.requirement("R04")
async def test_a_file_and_a_log_of_different_times_are_refused_and_left_as_they_are(tmp_path):
    """By itself SQLite would take them together, and a group would be there as it was at either time."""
    working, other = tmp_path / "working", api.Fence(holder="c1/other", epoch=1)
    working.mkdir()
    with database.open_database(working / "kci.db", KEY) as opened:
        await _fill(opened)
        early = _copy(working, tmp_path / "early")
    # Stopped as it should be, so the file is whole by itself.
    backup = _copy(working, tmp_path / "backup")
    assert not (working / "kci.db-wal").exists()
    with database.open_database(working / "kci.db", KEY) as opened:
        await opened.run(lambda session: fences.raise_epoch(session, CALLER.tenant_id, other, now=NOW))
        killed = _copy(working, tmp_path / "killed")
    for file, log in ((backup, killed), (killed, early)):
        path = _copy(killed.parent, tmp_path / "mixed")
        shutil.copy(file, path)
        shutil.copy(log.with_name("kci.db-wal"), path.with_name("kci.db-wal"))
        before = {name: path.with_name(name).read_bytes() for name in NAMES[:2]}
        with pytest.raises(errors.UnusableStoreError, match="not the log of this file"):
            await _content(path)
        assert {name: path.with_name(name).read_bytes() for name in before} == before
    # The file with its own log, and the backup by itself as the how-to has it.
    assert len((await _content(killed))[0]) == GROUPS
    path = _copy(backup.parent, tmp_path / "back")
    assert len((await _content(path))[0]) == GROUPS


@pytest.mark.requirement("R04")
def test_a_store_that_may_not_be_read_is_refused_and_not_made_anew():
    """As another user than the one who made it."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name, "kci.db")
        database.open_database(path, KEY).close()
        before = path.read_bytes()
        for mode in (0o700, 0o755, 0o777):
            path.parent.chmod(mode)
            os.seteuid(65534)
            try:
                with pytest.raises(errors.UnusableStoreError, match="cannot use the database") as caught:
                    database.open_database(path, KEY)
            finally:
                os.seteuid(0)
            assert "\n" not in str(caught.value)
        assert path.read_bytes() == before


async def test_where_a_nodes_kubeconfig_does_not_open_its_groups_keep_their_own(tmp_path):
    with database.open_database(tmp_path / "kci.db", KEY) as opened:
        service = groups.GroupService(
            opened,
            service_world.PLACE,
            changes.Feed(),
            clock.SystemClock(),
            replays.Replays(opened, clock.SystemClock(), window_s=300),
            on_work=lambda _: None,
        )
        await service_world.prepare(opened)
        for kubeconfig in ("first", "second"):
            request = service_world.create_request(kube_config=kubeconfig)
            await service.create(CALLER, request)

        async def wanted():
            found, _ = await service.wanted()
            return [one.cluster.kubeconfig for one in found]

        assert await wanted() == ["second", "second"]
        await opened.run(
            lambda session: session.connection.execute(
                schema.node_kubeconfigs.update().values(kubeconfig_sealed=b"damage")
            )
        )
        assert await wanted() == ["first", "second"]


async def test_holders_and_tombstones_are_forgotten_in_time(tmp_path):
    """What is kept is bounded by time."""
    with database.open_database(tmp_path / "kci.db", KEY) as opened:
        now = clock.SystemClock().now()
        tenant = ids.TenantId("t")
        await opened.run(lambda session: fences.raise_epoch(session, tenant, FENCE, now=now))
        assert await opened.run(lambda session: fences.remove_unused(session, before=now)) == 0
        later = now.replace(year=now.year + 1)
        assert await opened.run(lambda session: fences.remove_unused(session, before=later)) == 1
        assert await opened.run(lambda session: fences.get_epoch(session, tenant, FENCE.holder)) == -1
