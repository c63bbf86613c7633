import pathlib

import pytest

from kci.kcilet import ports, settings
from kci.kit import errors

RUN = ["run", "--socket=/s", "--cri-endpoint=unix:///c", "--state-dir=/d", "--cni-socket=/n", "--bridge=kci0"]


def test_run_reads_its_flags():
    found = settings.parse([*RUN, "--concurrent-starts=2", "--runtime-handler=crun", "--log-level=debug"])
    assert isinstance(found, settings.Run)
    assert (found.cri_endpoint, found.limits.starts) == (pathlib.Path("/c"), 2)
    assert found.logs_dir == pathlib.Path("/d/logs/pods")


def test_ports_of_the_machine_that_pods_may_reach_are_named_one_by_one(capsys):
    found = settings.parse([*RUN, "--reachable=10.0.0.1:6443", "--reachable=10.0.0.1:53/udp"])
    assert isinstance(found, settings.Run)
    assert found.reachable == (
        ports.Reachable("10.0.0.1", 6443),
        ports.Reachable("10.0.0.1", 53, "udp"),
    )
    assert not found.service_external_addresses
    for wrong in ("10.0.0.1", "host:80", "10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1:53/icmp", "[::1]:53"):
        with pytest.raises(SystemExit):
            settings.parse([*RUN, f"--reachable={wrong}"])
        assert "is not like 10.0.0.1:6443" in capsys.readouterr().err


def test_drain_needs_no_bridge():
    found = settings.parse(["drain", "--cri-endpoint=/c", "--state-dir=/d", "--grace-s=5"])
    assert found == settings.Drain(cri_endpoint=pathlib.Path("/c"), state_dir=pathlib.Path("/d"), grace_s=5)


def test_everything_that_is_wrong_is_named_at_once():
    wrong = [
        f"--socket=/{'s' * 120}",
        "--state-dir=d",
        "--bridge=a/b",
        "--cgroup-parent=a/b",
        "--concurrent-starts=0",
    ]
    with pytest.raises(errors.SettingsError) as caught:
        settings.parse([*RUN, *wrong])
    assert len(caught.value.problems) == 5
