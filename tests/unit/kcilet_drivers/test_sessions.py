"""Processes as the kernel tells of them."""

import os

import pytest

from kci.kcilet.drivers.streams import sessions


@pytest.mark.parametrize("name", [b"cat", b"a b", b") 1 2 3 (", b"(((", b")"])
def test_a_process_may_bear_any_name(name):
    rest = b" ".join(b"%d" % number for number in range(4, 40))
    found = sessions.parse_stat(b"77 (" + name + b") S 5 6 7 " + rest)
    assert found == sessions.Process(pid=77, started_at=19, parent=5, session=7)
    assert (found.parent, found.session) == (5, 7)


def test_what_has_ended_and_waits_for_its_parent_does_not_run():
    assert sessions.parse_stat(b"77 (cat) Z 5 6 7 " + b"0 " * 40) is None


def test_a_process_is_the_same_with_another_parent_and_another_with_another_start():
    one = sessions.Process(pid=7, started_at=1, parent=2, session=7)
    assert one == sessions.Process(pid=7, started_at=1, parent=1, session=7)
    assert one != sessions.Process(pid=7, started_at=2, parent=2, session=7)


def test_nothing_is_found_of_a_container_that_is_not_here():
    assert sessions.leaders("0" * 64) == set()
    assert sessions.first_process("0" * 64) is None
    assert not sessions.is_in(os.getpid(), "0" * 64)
    assert sessions.members(os.getsid(0), "0" * 64) == []
