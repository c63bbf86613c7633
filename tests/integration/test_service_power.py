"""Power is lost at any moment while the service works: what it acknowledged is still there."""

import asyncio
import re
import shutil

import needs
import power
import pytest
import service_process
import service_world
from fakes import link_server

from kci.kit import tasks
from kci.service.domain import states
from kci.service.store import database
from kci.service.store import groups as table

FILES = ("kci.db", "kci.db-wal", "kci.db.lock")
CREATED = re.compile(rb'"ContainerGroupId":"([0-9a-f-]{36})"')


@pytest.mark.requirement("R03")
async def test_what_was_acknowledged_survives_a_loss_of_power(tmp_path, runs):
    needs.demand("" if shutil.which("strace") else "strace is not installed")
    working = tmp_path / "working"
    working.mkdir()
    service = service_process.ServiceProcess(working)
    database.open_database(service.database, service_world.KEY).close()
    disk = power.Disk(working)
    trace = tmp_path / "trace"
    await _record(service, trace, creates=runs.scale(quick=20, faults=100, release=400))

    after = tmp_path / "after"
    after.mkdir()
    acknowledged: set[str] = set()
    for event in power.read(trace):
        disk.apply(event)
        found = CREATED.findall(event.data) if event.data.startswith(b"HTTP/1.1 200") else []
        if not found and event.name not in {"fdatasync", "fsync"}:
            continue
        acknowledged |= {group_id.decode() for group_id in found}
        disk.keep_only(FILES, after)
        left = await _groups(after / "kci.db")
        assert acknowledged <= left, f"lost: {acknowledged - left}"
    assert len(acknowledged) == runs.count


async def _record(service, trace, *, creates) -> None:
    kcilet = link_server.LinkServer()
    socket = str(service.folder / "kcilet.sock")
    async with kcilet.serve(socket), service_process.ended(service), service.client() as client:
        await service.start(wrapper=power.wrapper(trace))
        await tasks.wait_all(
            [client.create_container_group(service_world.create_request()) for _ in range(creates)],
            name="create",
            limit=8,
        )
        await service.kill()
    async with asyncio.timeout(30):
        while not power.is_complete(trace):  # noqa: ASYNC110  (strace tells nobody)
            await asyncio.sleep(0.02)


async def _groups(path) -> set[str]:
    with database.open_database(path, service_world.KEY) as store:
        found = await store.run(
            lambda session: table.list_groups(session, lifecycles=[states.Lifecycle.WANTED])
        )
    return {group.group_id for group in found}
