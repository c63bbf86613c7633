"""What the doctor says of a stack: who holds it, what runs, certificates, links, subnets, the store."""

import datetime
import ipaddress

import pytest

from kci.doctor.findings import finding, stack
from kci.stack import record, settings, typed

WELL, WARNING, WRONG = finding.Level.WELL, finding.Level.WARNING, finding.Level.WRONG
UNSEEN = finding.Level.UNSEEN
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
HERE = typed.USUAL
PROCESS = record.ProcessId(pid=17, start_ticks=1)


def state(name, **more):
    return record.State(run_id="r", boot_id="b", state=name, supervisor=None, started_at="", **more)


READY = state(record.StackState.READY)


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        ((READY, True, True), WELL, "ready"),
        ((None, False, False), UNSEEN, "kci up --state-dir /s"),
        ((state(record.StackState.STOPPED), False, False), UNSEEN, "is stopped"),
        ((state(record.StackState.FAILED, failure="no etcd"), False, False), WRONG, "failed: no etcd"),
        ((READY, False, False), WRONG, "was killed | kci up"),
        ((READY, False, True), WRONG, "fuser -v /s/lock"),
        ((None, False, True), WRONG, "no supervisor of it lives"),
        ((READY, True, False), WRONG, "a second one may start"),
        ((state(record.StackState.STARTING), True, True), WARNING, "is starting"),
    ],
)
def test_who_holds_a_state_folder_is_told(seen, level, has):
    found = stack.judge_supervisor(stack.Supervisor(*seen), typed.Place(settings.Settings(state_dir="/s")))
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


def part(process=PROCESS, **more):
    fields = {"name": "kcilet", "state": record.PartState.RUNNING, "log_file": "/l/kcilet.log"}
    return record.PartRecord(**fields | more, process=process)


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        ((part(), True, ""), WELL, "kcilet runs and answers"),
        ((part(restarts=3), True, ""), WELL, "started again 3 times"),
        ((part(), False, ""), WRONG, "kcilet does not run: running | see why: tail /l/kcilet.log"),
        ((part(None, detail="exit code 1"), False, ""), WRONG, "does not run: exit code 1"),
        ((part(None, log_file=""), False, ""), WRONG, "kci status"),
        ((part(), True, "no answer"), WRONG, "is not ready: no answer"),
        ((part(), True, "no answer"), WRONG, "kill 17 has it started again"),
        ((part(), True, "", True), WRONG, "kcilet is stopped by a signal and does nothing | kill -CONT 17"),
    ],
)
def test_a_program_that_does_not_do_its_work_is_told_with_its_log(seen, level, has):
    found = stack.judge_part(stack.Part(*seen), HERE)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


def certificate(name, begin=NOW - DAY, end=NOW + 200 * DAY, problem=""):
    return stack.Certificate(name, begin, end, problem)


def test_certificates_are_told_one_by_one_where_they_are_not_well():
    assert stack.judge_certificates([], NOW, HERE)[0].level is UNSEEN
    (well,) = stack.judge_certificates([certificate("a"), certificate("b", end=NOW + 60 * DAY)], NOW, HERE)
    assert (well.level, well.text) == (WELL, "2 certificates, the first ends on 2026-07-31")
    found = stack.judge_certificates(
        [
            certificate("well"),
            certificate("ended", end=NOW),
            certificate("soon", NOW - 300 * DAY, NOW + 29 * DAY),
            certificate("early", begin=NOW + DAY),
            certificate("broken", None, None, "no PEM"),
        ],
        NOW,
        HERE,
    )
    assert [one.level for one in found] == [WRONG, WARNING, WRONG, WRONG]
    assert "kci down && kci up" in found[0].remedy
    assert "the clock was set back" in found[2].text
    assert "no PEM" in found[3].text


def test_a_short_life_is_told_once_a_start_would_renew_it():
    for age, level in ((10, WELL), (20, WARNING)):
        begin = NOW - age * DAY
        (found,) = stack.judge_certificates([certificate("a", begin, begin + 30 * DAY)], NOW, HERE)
        assert found.level is level


def test_missing_addresses_routes_and_forwarding_are_told_with_the_command_that_brings_them_back():
    (well,) = stack.judge_links(stack.Links("kci-1", "10.88.0.1", has_gateway=True, forwards=True), HERE)
    assert well.level is WELL
    found = stack.judge_links(
        stack.Links("kci-1", "10.88.0.1", has_gateway=False, forwards=False, unguarded=("10.88.0.0/16",)),
        HERE,
    )
    assert [one.level for one in found] == [WRONG] * 3
    assert [one.remedy for one in found[1:]] == [
        "sysctl -w net.ipv4.ip_forward=1",
        "ip route add unreachable 10.88.0.0/16 metric 4278198272 proto static",
    ]


def test_a_subnet_that_the_machine_has_by_now_is_told():
    taken = [ipaddress.IPv4Network("10.9.0.0/16")]
    assert [one.level for one in stack.judge_reserved([("a", "10.8.0.0/24")], taken, HERE)] == [WELL]
    (found,) = stack.judge_reserved([("a", "10.8.0.0/24"), ("b", "10.9.1.0/24")], taken, HERE)
    assert found.level is WRONG
    assert "the subnet b (10.9.1.0/24) overlaps 10.9.0.0/16" in found.text
    assert "kci subnet delete b" in found.remedy


@pytest.mark.parametrize(
    ("exists", "locked", "level", "has"),
    [
        (True, True, WELL, "one service"),
        (False, False, WRONG, "back-up-the-service"),
        (True, False, WRONG, "kci status"),
    ],
)
def test_the_store_is_one_services(exists, locked, level, has):
    found = stack.judge_store(stack.Store(exists, locked), HERE)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"
