"""What the doctor says of a machine, case by case: (facts, level, what its text or remedy has)."""

import pytest

from kci.doctor.findings import finding, machine
from kci.stack import settings, typed

HERE = typed.USUAL
WELL, WARNING, WRONG = finding.Level.WELL, finding.Level.WARNING, finding.Level.WRONG
ALL_ON = frozenset({"cpu", "memory", "pids", "cpuset"})


def cgroups(*versions, on=ALL_ON, writable=True):
    return machine.Cgroups(frozenset(versions), on, writable)


def space(free_mib=50_000, total_mib=100_000, inodes=10_000, free_inodes=5_000):
    return machine.Space("/var/lib", total_mib * 2**20, free_mib * 2**20, inodes, free_inodes)


def said(one):
    return f"{one.text} | {one.remedy}"


def judge_cgroups(seen, own=True, handler=settings.Runtime.AUTO):
    asked = settings.Settings(cri_endpoint="" if own else "/run/containerd.sock", runtime=handler)
    return machine.judge_cgroups(seen, typed.Place(asked))


CASES = [
    (machine.judge_privileges(0, HERE), WELL, "root"),
    (machine.judge_privileges(1000, HERE), WRONG, "sudo kci doctor"),
    (machine.judge_tools({}), WELL, "are there"),
    (
        machine.judge_tools({"ip": "iproute2", "nsenter": "util-linux"}),
        WRONG,
        "apt install iproute2 util-linux",
    ),
    (judge_cgroups(cgroups(2)), WELL, "version 2"),
    (judge_cgroups(cgroups(1)), WELL, "version 1"),
    (judge_cgroups(cgroups(1, 2)), WELL, "see version 1 alone"),
    (judge_cgroups(cgroups(1, 2), own=False), WARNING, "--runtime runc"),
    (judge_cgroups(cgroups(1, 2), own=False, handler=settings.Runtime.RUNC), WELL, "1 and 2"),
    (judge_cgroups(cgroups()), WRONG, "mount -t cgroup2"),
    (judge_cgroups(cgroups(2, writable=False)), WRONG, "remount,rw"),
    (judge_cgroups(cgroups(2, on=frozenset({"cpu", "pids"}))), WRONG, "cgroup_enable=memory"),
    (machine.judge_runtime(machine.Runtime("1.7.24", "crun", "1.21")), WELL, "containerd 1.7.24, crun 1.21"),
    (machine.judge_runtime(machine.Runtime("2.0.1", "runc", "1.2")), WELL, "containerd 2.0.1"),
    (machine.judge_runtime(machine.Runtime("1.5.9", "runc", "1.1")), WRONG, "1.5.9 is older than 1.6"),
    (machine.judge_runtime(machine.Runtime("", "runc", "1.1")), WRONG, "of an unknown version"),
    (machine.judge_cri("/run/c.sock", ""), WELL, "/run/c.sock"),
    (machine.judge_cri("/run/c.sock", "No such file"), WRONG, "systemctl restart containerd"),
    (
        machine.judge_runtime(machine.Runtime(problem="cannot find runc on this machine: apt install runc")),
        WRONG,
        "apt install containerd runc",
    ),
    (machine.judge_memory(2000), WELL, "2000 MiB"),
    (machine.judge_memory(500), WARNING, "only 500 MiB"),
    (machine.judge_memory(99), WRONG, "ps aux"),
    (machine.judge_space(space()), WELL, "50000 MiB are free"),
    (machine.judge_space(space(free_mib=9_000)), WARNING, "less than a tenth"),
    (machine.judge_space(space(free_mib=255)), WRONG, "du -xh /var/lib"),
    (machine.judge_inodes(space()), WELL, "5000 inodes"),
    (machine.judge_inodes(space(inodes=0, free_inodes=0)), WELL, "no fixed number"),
    (machine.judge_inodes(space(inodes=100_000, free_inodes=4_000)), WARNING, "less than a twentieth"),
    (machine.judge_inodes(space(free_inodes=999)), WRONG, "du -x --inodes"),
    (machine.judge_pids(machine.Pids(400, 32768)), WELL, "400 of 32768"),
    (machine.judge_pids(machine.Pids(27000, 32768)), WARNING, "sysctl -w kernel.pid_max"),
    (machine.judge_pids(machine.Pids(32768, 32768)), WRONG, "sysctl -w kernel.pid_max"),
    (machine.judge_pids(machine.Pids(400, 32768, 90, 100)), WARNING, "TasksMax="),
    (machine.judge_pids(machine.Pids(400, 32768, 10, 100)), WELL, "400 of 32768"),
    (machine.judge_clock(machine.Clock(2026, is_synchronized=True)), WELL, "kept right"),
    (machine.judge_clock(machine.Clock(2026, is_synchronized=False)), WARNING, "timedatectl set-ntp true"),
    (machine.judge_clock(machine.Clock(1970, is_synchronized=True)), WRONG, "the clock says 1970"),
    (machine.judge_ranges("", HERE, pods="10.88.0.0/16", services="10.152.0.0/16"), WELL, "services 10.152"),
    (
        machine.judge_ranges("", HERE, pods="10.88.0.0/16", services=""),
        WELL,
        "in the way of pods 10.88.0.0/16",
    ),
    (
        machine.judge_ranges("cannot use the pod range: taken; choose another", HERE, pods="", services=""),
        WRONG,
        "taken | choose another",
    ),
]


@pytest.mark.parametrize(("found", "level", "has"), CASES)
def test_each_state_of_a_machine_is_told_with_what_to_do(found, level, has):
    assert found.level is level
    assert has in said(found)
    assert bool(found.remedy) is (level is not WELL)


def test_a_kernel_without_a_feature_is_told_as_the_trial_tells_it():
    (found,) = machine.judge_kernel("cannot start: nftables has no fib: told; use a kernel with X", ())
    assert (found.level, found.remedy) == (WRONG, "use a kernel with X")
    (lack,) = machine.judge_kernel("", ["pods with bandwidth cannot start"])
    assert lack.level is WARNING
    assert "docs/machine.md" in lack.remedy
    assert [one.level for one in machine.judge_kernel("", ())] == [WELL]


def test_firewalls_of_others_are_told_with_the_commands_that_open_them():
    text = "the chain FORWARD drops pods' traffic; `iptables -I A` and `iptables -I B` let it pass (how)"
    (found,) = machine.judge_firewalls([text])
    assert found.level is WARNING
    assert found.text == "the chain FORWARD drops pods' traffic"
    assert found.remedy.startswith("iptables -I A && iptables -I B (docs/how-to/")
    assert [one.level for one in machine.judge_firewalls([])] == [WELL]
