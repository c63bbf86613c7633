"""`kci doctor` on a machine without a stack, and of a cluster that is away."""

import json
import os
import subprocess
import sys

import needs
import pytest

from kci.kit import environment, secret
from kci.kube import config

pytestmark = pytest.mark.integration


def doctor(*options):
    done = subprocess.run(
        [sys.executable, "-m", "kci.cli.main", "doctor", "-o", "json", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # What the tests themselves are told would be taken for a virtual node's.
        env={name: value for name, value in environment.read().items() if not name.startswith("KCI_")},
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def test_a_machine_is_examined_before_there_is_a_stack(tmp_path):
    needs.demand("" if os.geteuid() == 0 else "the trial of the kernel needs root")
    code, findings = doctor("--state-dir", str(tmp_path / "none"))
    assert code == 0, findings
    of_machine = [one for one in findings if one["area"] == "machine"]
    assert len(of_machine) == 12
    assert {one["level"] for one in of_machine} <= {"ok", "warning"}
    others = [one for one in findings if one["area"] != "machine"]
    assert {one["level"] for one in others} == {"not looked at"}
    assert all("kci up" in one["text"] for one in others)
    assert not (tmp_path / "none").exists()


def test_a_cluster_that_is_away_is_one_finding_and_the_others_say_so(tmp_path):
    file = tmp_path / "kubeconfig"
    away = config.ClusterConfig(server="https://127.0.0.1:1", token=secret.Secret("t"))
    file.write_text(config.render(away))
    code, findings = doctor("--kubeconfig", str(file))
    assert code == 1
    (wrong, *more) = [one for one in findings if one["level"] == "wrong"]
    assert more == []
    assert (wrong["area"], wrong["name"]) == ("cluster", "API server")
    assert "nobody listens there" in wrong["text"]
    assert "clusters[].cluster.server" in wrong["remedy"]
    assert {one["text"] for one in findings if one["area"] == "node"} == {
        "because what the virtual node is told was not given: --env-file FILE, or its KCI_* variables",
        "because the API server does not answer us",
    }
