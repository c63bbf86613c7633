"""Sweeps of flows beside the changes that call for them. The kernel's table is one that can be held up."""

import socket
import threading

import pytest

from kci.kcilet import ports
from kci.kcilet.drivers.network import conntrack, tracked
from kci.kit import backoff

pytestmark = [
    pytest.mark.requirement("R55"),
    pytest.mark.guide("env KCI_KUBE_PROXY", "annotation kci-kube-proxy-enabled"),
]
WAIT_S = 10.0
CLIENT = "10.0.0.9"
KEYS = tuple(ports.ServiceAddress("10.96.0.10", "udp", port) for port in (53, 54))
ONE, OTHER = ports.Endpoint("10.0.0.1", 53), ports.Endpoint("10.0.0.2", 53)


def flow(key, answers):
    ends = tracked.packed_target(key.address, 17, key.port), tracked.packed(*answers)
    return tracked.Flow(socket.inet_aton(CLIENT), *ends, handle=b"".join(ends))


class Table:
    """A tracked.Table that says when it is read, and goes on when it may."""

    def __init__(self, flows):
        self.flows = flows
        self.reads = []
        self.is_read, self.may_go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.failures = 0

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def to_targets(self, targets):
        self.reads.append(targets)
        self.is_read.release()
        assert self.may_go_on.acquire(timeout=WAIT_S)
        if self.failures:
            self.failures -= 1
            raise OSError("no buffer space")
        return [one for one in self.flows if one.target in targets]

    def delete(self, handles):
        self.flows = [one for one in self.flows if one.handle not in handles]


@pytest.fixture
def table():
    return Table([flow(key, answers) for key in KEYS for answers in (ONE, OTHER)])


@pytest.fixture
def clearing(table):
    made = conntrack.Clearing(table)
    yield made
    for _ in range(10):
        table.may_go_on.release()
    made.close()


def note(clearing, suspects, **leads):
    found = {key: ports.Backend(leads.get(f"at_{key.port}", (ONE,))) for key in KEYS}
    clearing.note("o", frozenset(suspects), conntrack.Seen(found, frozenset({CLIENT})))


def test_changes_wait_for_no_sweep_and_those_that_come_meanwhile_are_one_more(clearing, table):
    note(clearing, KEYS[:1])
    assert table.is_read.acquire(timeout=WAIT_S)
    for _ in range(50):
        note(clearing, KEYS[:1])
        note(clearing, KEYS[1:])
    assert not clearing.wait_idle(0)
    table.may_go_on.release()
    assert table.is_read.acquire(timeout=WAIT_S)
    table.may_go_on.release()
    assert clearing.wait_idle(WAIT_S)
    assert [len(targets) for targets in table.reads] == [1, 2]
    assert table.flows == [flow(key, ONE) for key in KEYS]


def test_what_holds_last_counts_for_a_sweep_that_goes_on(clearing, table):
    note(clearing, KEYS[:1])
    assert table.is_read.acquire(timeout=WAIT_S)
    # It has an endpoint more, so nothing is suspected, and flows that begin now are in their right.
    note(clearing, (), at_53=(ONE, OTHER))
    table.may_go_on.release()
    assert clearing.wait_idle(WAIT_S)
    assert len(table.flows) == 4


def test_a_sweep_that_failed_is_made_again(clearing, table, monkeypatch):
    monkeypatch.setattr(conntrack, "BACKOFF", backoff.Backoff(initial_s=0.01))
    table.failures = 1
    table.may_go_on.release()
    table.may_go_on.release()
    note(clearing, KEYS)
    assert clearing.wait_idle(WAIT_S)
    assert table.flows == [flow(key, ONE) for key in KEYS]


def test_nothing_is_read_without_suspects_or_members(clearing, table):
    note(clearing, ())
    clearing.note("o", frozenset(KEYS), conntrack.Seen({}, frozenset()))
    assert clearing.wait_idle(0)
    assert table.reads == []
