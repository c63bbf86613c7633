"""The CRI's log format and the log options."""

import datetime
import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kci.kcilet import ports
from kci.kcilet.drivers.streams import inotify, lines, logs
from kci.link import types as link

NOW = datetime.datetime(2026, 11, 23, 18, 0, 10, tzinfo=datetime.UTC)
LOG = (
    b"2026-11-23T18:00:00.5Z stdout F first\n"
    b"2026-11-23T19:00:01.123456789+01:00 stderr P long \n"
    b"2026-11-23T18:00:02Z stderr F line\n"
    b"no line of a runtime\n"
    b"2026-11-23T18:00:09.000000001Z stdout F last\n"
)


async def is_over(_):
    return False


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "0.log").write_bytes(LOG)
    return tmp_path


async def read(folder, name="main", attempt=None, **options):
    parts = logs.read(
        folder,
        name,
        attempt,
        link.LogOptions(**options),
        is_written=is_over,
        watcher=inotify.Watcher(),
        now=NOW,
    )
    return b"".join([part async for part in parts]).decode()


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "first\nlong line\nlast\n"),
        ({"tail_lines": 0}, ""),
        ({"tail_lines": 2}, "long line\nlast\n"),
        ({"tail_lines": 99}, "first\nlong line\nlast\n"),
        ({"since_seconds": 5}, "last\n"),
        ({"since_time": "2026-11-23T18:00:02Z"}, "line\nlast\n"),
        ({"limit_bytes": 8}, "first\nlo"),
        ({"tail_lines": 2, "limit_bytes": 4}, "long"),
        (
            {"timestamps": True},
            (
                "2026-11-23T18:00:00.500000000Z first\n"
                "2026-11-23T19:00:01.123456789+01:00 long line\n"
                "2026-11-23T18:00:09.000000001Z last\n"
            ),
        ),
    ],
)
async def test_options_choose_what_is_shown(folder, options, shown, follow):
    assert await read(folder, **options, follow=follow) == shown


async def test_the_newest_attempt_is_read_and_the_one_before_on_demand(folder):
    (folder / "main" / "10.log").write_bytes(b"2026-11-23T18:00:00Z stdout F tenth\n")
    (folder / "main" / "9.log").write_bytes(b"2026-11-23T18:00:00Z stdout F ninth\n")
    assert await read(folder) == "tenth\n"
    assert await read(folder, previous=True) == "ninth\n"
    assert await read(folder, attempt=0, tail_lines=1) == "last\n"


@pytest.mark.parametrize(
    ("name", "options"), [("other", {}), ("main", {"previous": True}), ("../main", {}), ("", {})]
)
async def test_what_there_is_no_log_of_is_not_found(folder, name, options):
    with pytest.raises(ports.NotFoundError):
        await read(folder, name, **options)


@pytest.mark.parametrize(
    "make", [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo, pathlib.Path.mkdir]
)
async def test_only_a_regular_file_is_read(folder, make):
    (folder / "main" / "0.log").unlink()
    make(folder / "main" / "0.log")
    with pytest.raises(ports.DriverError):
        await read(folder)


@given(st.lists(st.integers(1, 60), max_size=10))
def test_it_does_not_matter_how_the_bytes_arrive(cuts):
    decoder, rest, shown = lines.Decoder(), LOG, b""
    for cut in cuts:
        shown += decoder.feed(rest[:cut])
        rest = rest[cut:]
    assert shown + decoder.feed(rest) + decoder.end() == b"first\nlong line\nlast\n"


@given(st.lists(st.sampled_from(["P", "F"]), max_size=30), st.integers(0, 12), st.integers(1, 90))
def test_a_tail_has_as_many_whole_lines_as_asked_for(tmp_path_factory, tags, wanted, block):
    content = [f"2026-11-23T18:00:00Z stdout {tag} {number};" for number, tag in enumerate(tags)]
    path = tmp_path_factory.mktemp("log") / "0.log"
    path.write_text("".join(line + "\n" for line in content))
    everything = lines.Decoder().feed(path.read_bytes()).split(b"\n")
    expected = [line for line in everything if line][-wanted:] if wanted else []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = path.stat().st_size
        backwards = lines.lines_back(
            lambda size, position: os.pread(descriptor, size, position), end, block_bytes=block
        )
        start = lines.count_back(backwards, wanted, end)
        found = lines.Decoder().feed(os.pread(descriptor, end, start)).split(b"\n")
    finally:
        os.close(descriptor)
    assert [line for line in found if line] == expected


def test_a_line_without_an_end_fills_no_memory():
    decoder = lines.Decoder()
    for _ in range(40):
        assert decoder.feed(b"x" * 100_000) == b""
    assert decoder.feed(b"\n2026-11-23T18:00:00Z stdout F fine\n") == b"fine\n"
