import pathlib
import platform
import signal
import subprocess
import sys

import pytest

from kci.kit import errors
from kci.stack.images import busybox, catalogue, pause

SLEEPS = "S"


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_pause_is_a_small_static_program(architecture):
    program = pause.program(architecture)
    assert len(program) < 784
    assert busybox.is_static(program)


def test_an_architecture_without_a_pause_program_is_refused():
    with pytest.raises(errors.UserError, match="riscv64"):
        pause.program("riscv64")


def test_the_machines_python_is_not_static_or_no_program_of_this_kind():
    assert not busybox.is_static(pathlib.Path(sys.executable).read_bytes())
    assert not busybox.is_static(b"#!/bin/sh\n")


@pytest.mark.skipif(platform.system() != "Linux", reason="pause is a Linux program")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pause_sleeps_until_a_signal_asks_it_to_end(tmp_path, number):
    path = tmp_path / "pause"
    path.write_bytes(pause.program(catalogue.architecture()))
    path.chmod(0o755)
    with subprocess.Popen([path]) as process:
        # The kernel's own word for "waits": only then does a signal meet the blocked mask.
        stat = pathlib.Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != SLEEPS:
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
