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


def test_what_pods_reach_is_read_as_addresses_and_ports():
    found = settings.parse([*RUN, "--reachable=10.0.0.1:6443", "--reachable=10.0.0.1:53/udp"])
    assert found.reachable == (
        ports.Reachable("10.0.0.1", 6443, "tcp"),
        ports.Reachable("10.0.0.1", 53, "udp"),
    )
    assert settings.parse(RUN).reachable == ()
    assert not settings.parse(RUN).service_external_addresses


@pytest.mark.parametrize(
    "wrong", ["10.0.0.1", "host:53", "10.0.0.1:0", "10.0.0.1:53/sctp", "10.0.0.1:x", ":53"]
)
def test_a_wrong_place_is_named_with_its_flag(wrong, capsys):
    with pytest.raises(SystemExit):
        settings.parse([*RUN, f"--reachable={wrong}"])
    assert "--reachable" in capsys.readouterr().err


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
        "--connections-per-pod=0",
    ]
    with pytest.raises(errors.SettingsError) as caught:
        settings.parse([*RUN, *wrong])
    assert len(caught.value.problems) == 6
