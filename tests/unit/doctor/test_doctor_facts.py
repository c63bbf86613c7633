"""Facts that are read from files, from folders that look like a machine's, and from this one."""

import asyncio
import datetime
import fcntl
import ipaddress
import os
import signal
import subprocess
import time

import pytest

from kci.doctor.facts import machine, stack
from kci.stack import addresses, certificates, layout, parts, preparation, processes, record, settings


def make(file, text=""):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_cgroups_of_version_2_are_told_by_their_controllers(tmp_path):
    make(tmp_path / "cgroup.controllers", "cpuset cpu memory pids\n")
    make(tmp_path / "init" / "cgroup.procs")
    seen = machine.cgroup_facts(tmp_path)
    assert (seen.versions, seen.is_writable) == ({2}, True)
    assert seen.controllers == {"cpuset", "cpu", "memory", "pids"}


def test_cgroups_of_version_1_are_told_by_their_folders(tmp_path):
    make(tmp_path / "cpu" / "tasks")
    make(tmp_path / "memory" / "tasks")
    assert machine.cgroup_facts(tmp_path).versions == {1}
    assert machine.cgroup_facts(tmp_path).controllers == {"cpu", "memory"}
    make(tmp_path / "unified" / "cgroup.controllers")
    assert machine.cgroup_facts(tmp_path).versions == {1, 2}
    assert machine.cgroup_facts(tmp_path).controllers == {"cpu", "memory"}


def test_a_machine_without_cgroups_has_none(tmp_path):
    assert machine.cgroup_facts(tmp_path).versions == frozenset()


def test_space_is_told_of_the_nearest_folder_that_is_there(tmp_path):
    seen = machine.space(tmp_path / "not" / "there")
    assert seen.path == str(tmp_path)
    assert 0 < seen.free_bytes <= seen.total_bytes


def test_this_machine_tells_memory_processes_and_clock():
    assert machine.available_mib() > 0
    assert 0 < machine.pids().used < machine.pids().most
    assert machine.clock().year >= 2025


def test_a_program_that_somebody_stopped_is_told_as_paused():
    def seen():
        return asyncio.run(stack.part(told, None))

    with subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            told = record.PartRecord(name="kcilet", process=processes.observe(sleeper.pid))
            assert not seen().is_paused
            sleeper.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 30
            while not seen().is_paused:
                assert time.monotonic() < deadline
        finally:
            sleeper.kill()


def test_a_lock_is_told_by_who_holds_it(tmp_path):
    file = tmp_path / "lock"
    assert not stack.is_locked(file)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        assert not stack.is_locked(file)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert stack.is_locked(file)
    finally:
        os.close(descriptor)
    assert not stack.is_locked(file)


@pytest.fixture
def where(tmp_path):
    return layout.Layout(tmp_path)


def test_certificates_are_told_by_their_files(where):
    now = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
    where.pki.mkdir()
    certificates.ensure(where.pki, (), now)
    (where.pki / "broken.crt").write_text("no certificate")
    seen = {one.file.rpartition("/")[2]: one for one in stack.certificates(where)}
    assert set(seen) == {"ca.crt", "front-proxy-ca.crt", "etcd-ca.crt", "broken.crt"}
    assert seen["ca.crt"].end == now + certificates.AUTHORITY_LIFE
    assert seen["broken.crt"].end is None
    assert seen["broken.crt"].problem


@pytest.mark.parametrize("metrics_server", [False, True])
def test_every_part_that_is_a_process_says_whether_it_is_ready(where, metrics_server):
    prepared = make_prepared(where, settings.Settings(metrics_server=metrics_server))
    planned = parts.plan(
        own_control_plane=True, own_containerd=True, own_dns=True, metrics_server=metrics_server
    )
    probes = stack.probes_of(prepared)
    assert set(probes) == set(planned) - set(parts.STEPS)
    assert all(probes.values())


def make_prepared(where, asked):
    ranges = addresses.Ranges(ipaddress.IPv4Network("10.88.0.0/16"), ipaddress.IPv4Network("10.152.0.0/16"))
    choices = record.Choices(
        format=record.FORMAT,
        kci_version="0",
        cluster="",
        pod_cidr=str(ranges.pods),
        service_cidr=str(ranges.services),
        etcd_port=4001,
        etcd_peer_port=4002,
        controller_manager_port=4003,
        scheduler_port=4004,
        registry_port=4005,
        dns_ready_port=4006,
        metrics_server_port=4007,
    )
    identity = record.Identity(
        access_key="AK", secret_key="SK", cluster_id="c", subnet_id="s", security_group_id="g"
    )
    machine_settings = settings.read_machine()
    return preparation.Prepared(
        where, asked, machine_settings, ranges, choices, identity, binaries=None, cluster=None
    )


def test_a_store_is_told_by_its_file_and_lock(where):
    assert not stack.store(where).exists
    where.service_database.parent.mkdir()
    where.service_database.touch()
    assert (stack.store(where).exists, stack.store(where).is_locked) == (True, False)
