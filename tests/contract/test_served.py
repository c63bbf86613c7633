"""What is kept of the served store: the file, and the one in memory that tests use."""

import pytest
from fakes import machine_world

from kci.kcilet import ports
from kci.kcilet.drivers.served import file


@pytest.fixture(params=["memory", "file"])
def served(request, tmp_path):
    return machine_world.FakeServed() if request.param == "memory" else file.ServedFile(tmp_path / "served")


class TestServed:
    async def test_the_last_store_is_served_and_none_at_first(self, served):
        assert await served.get_store() == ""
        for store_id in ("aa", "aa", "bb"):
            await served.ensure_store(store_id)
            assert await served.get_store() == store_id


async def test_it_is_known_after_a_restart_and_forgotten_with_its_file(tmp_path):
    path = tmp_path / "served"
    await file.ServedFile(path).ensure_store("aa")
    again = file.ServedFile(path)
    assert await again.get_store() == "aa"
    path.unlink()
    assert await again.get_store() == ""


async def test_a_file_that_says_nothing_is_not_taken_for_none(tmp_path):
    path = tmp_path / "served"
    for content in (b"", b"a store\n", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ports.DriverError, match="cannot read"):
            await file.ServedFile(path).get_store()
