"""scripts/install on a machine that is made of programs which only say what a machine would."""

import pathlib
import subprocess

import pytest

INSTALL = pathlib.Path(__file__).parents[3] / "scripts" / "install"
QUIET = ("runc", "nft", "ip", "mount", "strace", "mkfs.ext4", "ctr")
FAKES = {
    **dict.fromkeys(QUIET, ""),
    "id": "echo 0",
    "containerd": "echo containerd example.com/containerd 1.6.28 abc",
    "apt-cache": "echo '  Candidate: 1.7.24'",
    # Only what keeps all packages is done by it.
    "apt-get": """echo "$*" >>"$0.calls"
case "$*" in
    update*) ;;
    *--no-remove*containerd*) echo 'E: Packages need to be removed but remove is disabled.'; exit 100 ;;
    *--no-remove*) ;;
    *) echo 'Removing docker-ce ...' ;;
esac""",
    "dpkg-query": "exit 1",
}


@pytest.fixture
def install(tmp_path):
    """Runs it; gives what it said at its end, and what apt-get was told to install."""

    def run(**changed):
        for name, text in {**FAKES, **changed}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(
            [str(INSTALL)],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 1
        calls = tmp_path / "apt-get.calls"
        told = calls.read_text().splitlines() if calls.exists() else []
        return done.stderr.splitlines()[-1], [one for one in told if one.startswith("install")]

    return run


def test_no_package_is_removed_for_another_and_the_sentence_names_what_is_missing(install):
    said, told = install()
    assert "'apt-get install containerd' failed" in said
    assert "bring containerd by hand" in said
    assert told
    assert all("--no-remove" in one for one in told)


def test_dockers_containerd_is_to_be_upgraded_and_not_replaced(install):
    said, told = install(**{"dpkg-query": "printf 'install ok installed'"})
    assert "containerd.io, Docker's containerd, is older than 1.7" in said
    assert said.endswith("apt-get install --only-upgrade containerd.io")
    assert not any("containerd" in one for one in told)
