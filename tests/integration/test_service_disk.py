"""The service's disk is full or broken, or no file can be opened: a code says so, and it heals by itself."""

import asyncio
import contextlib
import os
import shutil
import subprocess

import needs
import pytest
import service_process
import service_world
from fakes import link_server

from kci.client import errors

# What a call at the store may do wrong, each at its n-th time.
FAULTS = (("pwrite64", "ENOSPC"), ("pwrite64", "EIO"), ("fdatasync", "EIO"), ("openat", "EMFILE"))
CREATES = 4
BACK_S = 10.0


@pytest.fixture
async def service(tmp_path):
    async with (
        link_server.LinkServer().serve(str(tmp_path / "kcilet.sock")),
        service_process.ended(service_process.ServiceProcess(tmp_path)) as made,
    ):
        yield made


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB with a folder of its own."""
    needs.demand("" if os.geteuid() == 0 and shutil.which("mkfs.ext4") else "needs root and mkfs.ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    image.write_bytes(bytes(4 * 1024 * 1024))
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True, timeout=60)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, timeout=60)


@pytest.mark.integration
@pytest.mark.requirement("R08")
async def test_a_full_disk_refuses_writes_and_heals_without_a_restart(service, small_disk):
    service.database = small_disk / "kci.db"
    await service.start()
    async with service.client() as client:
        made = {await client.create_container_group(service_world.create_request()) for _ in range(3)}
        _fill(small_disk / "filler")
        # What the log has room for is still taken, and kept then.
        with pytest.raises(errors.TryLaterError) as caught:
            for _ in range(100):
                made.add(await client.create_container_group(service_world.create_request()))
        assert caught.value.code == "ServiceUnavailable"
        # What can be read is read, and what runs goes on.
        assert {group.container_group_id for group in await client.list_container_groups()} == made

        (small_disk / "filler").unlink()
        async with asyncio.timeout(BACK_S):
            made.add(await _created(client))
        await service.kill()
        await service.start()
        assert {group.container_group_id for group in await client.list_container_groups()} == made
    assert await service.kill(15) == 0


def _fill(path) -> None:
    """To the last block."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def _created(client) -> str:
    while True:
        try:
            return await client.create_container_group(service_world.create_request())
        except errors.TryLaterError:
            await asyncio.sleep(0.05)


@pytest.mark.requirement("R08")
@pytest.mark.parametrize(("call", "error"), FAULTS)
async def test_the_nth_call_fails_and_no_create_is_lost(service, call, error, runs):
    """n = 1 and on, until none fires; at the quick scale some of them."""
    needs.demand("" if shutil.which("strace") else "strace is not installed")
    # A start and the creates are about 120 writes, 15 fsyncs and 10 opens.
    longest = {"pwrite64": 40, "fdatasync": 8, "openat": 4}[call]
    step = runs.scale(quick=longest, faults=max(1, longest // 5), release=1)
    trace = service.folder / "trace"
    runs.count = 0
    acknowledged = set()
    number, fired = runs.random().randint(1, step), True
    while fired:
        runs.count += 1
        before = len(service.log.read_bytes()) if service.log.exists() else 0
        await service.start(wrapper=_failing(service, trace, call, error, number), may_end=True)
        async with service.client() as client:
            if service.has_ended:
                # It does not begin without its store, and says why in one line.
                said = service.log.read_bytes()[before:].decode().splitlines()
                assert [line for line in said if line.startswith("cannot use the database")] == said[-1:]
            else:
                for _ in range(CREATES):
                    async with asyncio.timeout(BACK_S):
                        acknowledged.add(await _created(client))
                found = await client.list_container_groups()
                assert acknowledged <= {group.container_group_id for group in found}
                await service.kill()
        async with asyncio.timeout(30):
            while "+++" not in trace.read_text()[-40:]:  # noqa: ASYNC110  (strace tells nobody)
                await asyncio.sleep(0.02)
        fired = "(INJECTED)" in trace.read_text()
        number += step
    await service.start()
    async with service.client() as client:
        assert acknowledged <= {group.container_group_id for group in await client.list_container_groups()}


def _failing(service, trace, call, error, number) -> tuple[str, ...]:
    """Before the command: the n-th such call on the store's files fails."""
    files = [
        service.database.with_name(f"{service.database.name}{end}") for end in ("", "-wal", "-shm", ".lock")
    ]
    return (
        "strace", "-D", "-f", "-o", str(trace), "-e", f"trace={call}",
        "-e", f"inject={call}:error={error}:when={number}",
        *(part for file in files for part in ("-P", str(file))),
    )  # fmt: skip
