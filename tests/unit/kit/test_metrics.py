"""The door to Prometheus: what is shown, where, and that being measured is no condition of work."""

import asyncio
import errno
import socket

import aiohttp
import pytest
import structlog

from kci.kcilet import instruments as kcilet_instruments
from kci.kit import metrics, observing
from kci.provider import instruments as node_instruments
from kci.service import instruments as service_instruments


def shown(registry, start):
    return [line for line in registry.text().splitlines() if line.startswith(start)]


def test_what_is_told_is_shown():
    registry = metrics.Registry("test")
    count = registry.counter("orphans", "Orphans", ("kind",))
    call = registry.calls("call_seconds", "Calls", "action")
    registry.gauge("depth", "Depth", lambda: 3)
    count("a")
    count("a")
    call("Create", "OK", 0.2)
    call("Create", "NotFound", 20)
    assert shown(registry, "kci_test_orphans") == ['kci_test_orphans_total{kind="a"} 2.0']
    assert shown(registry, "kci_test_depth") == ["kci_test_depth 3.0"]
    assert 'kci_test_call_seconds_count{action="Create",code="OK"} 1.0' in registry.text()
    assert 'kci_test_call_seconds_bucket{action="Create",code="NotFound",le="10.0"} 0.0' in registry.text()
    assert shown(registry, "process_cpu_seconds_total")
    assert "_created" not in registry.text()


@pytest.mark.parametrize(
    ("raised", "code"),
    [(None, "OK"), (FileNotFoundError, "FileNotFound"), (asyncio.CancelledError, "Cancelled")],
)
def test_a_call_is_told_with_how_it_ended_and_its_error_passes(raised, code):
    told = []

    def run():
        with observing.told(lambda *one: told.append(one), "Create"):
            if raised:
                raise raised

    if raised:
        with pytest.raises(raised):
            run()
    else:
        run()
    ((call, seen, took_s),) = told
    assert (call, seen) == ("Create", code)
    assert took_s >= 0


async def test_metrics_are_served_at_their_path_alone():
    registry = metrics.Registry("test")
    registry.gauge("depth", "Depth", lambda: 3)
    async with registry.served("127.0.0.1:0") as port, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == metrics.CONTENT_TYPE
            assert "kci_test_depth 3.0" in await response.text()
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            assert response.status == 404
        async with session.post(f"http://127.0.0.1:{port}/metrics") as response:
            assert response.status == 501
    with socket.socket() as left:
        assert left.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


async def test_an_address_that_is_taken_is_a_warning_and_no_address_is_nothing():
    registry = metrics.Registry("test")
    with structlog.testing.capture_logs() as lines:
        async with (
            registry.served(""),
            registry.served("127.0.0.1:0") as port,
            metrics.Registry("other").served(f"127.0.0.1:{port}") as other,
        ):
            assert other == 0
    assert [line["event"] for line in lines] == ["metrics are served", "metrics are not served"]


@pytest.mark.parametrize("text", ["", ":10255", "127.0.0.1:9100", "[::1]:9100"])
def test_good_addresses(text):
    assert metrics.check_address(text) == ""


@pytest.mark.parametrize("text", ["x", "127.0.0.1", ":0", ":65536", "127.0.0.1:http"])
def test_bad_addresses_are_named(text):
    assert metrics.check_address(text) == f"is {text!r}: write [host]:port, such as :10255"


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (node_instruments.make, "kci_virtual_kubelet_"),
        (service_instruments.make, "kci_service_"),
        (kcilet_instruments.make, "kci_kcilet_"),
    ],
)
def test_each_programs_metrics_bear_its_name_and_say_what_they_are(make, prefix):
    families = make().registry.families
    assert len(families) > 4
    for family in families:
        assert family.name.startswith(prefix)
        assert family.about[0].isupper()
        assert family.kind != "counter" or family.name.endswith("_total")
