import os
import pathlib
import subprocess
import sys

import msgspec
import pytest
import typer.testing

from kci.cli import main, screen, table
from kci.stack import board, record

STATE = msgspec.structs.replace(
    board.new_state("run", None, None),
    state=record.StackState.READY,
    started_in_s=6.5,
    node_name="virtual-kubelet",
    kubeconfig="/state/kubeconfig",
    gateway="10.88.0.1",
    netns="n1",
    images="local registry",
    parts=(
        record.PartRecord(
            name="etcd",
            state=record.PartState.RUNNING,
            process=record.ProcessId(pid=7, start_ticks=1),
            version="v3",
            started_in_s=0.4,
            log_file="/state/logs/etcd.log",
        ),
        record.PartRecord(name="kcilet", state=record.PartState.FAILED, detail="no socket"),
    ),
)


def test_a_row_says_how_long_it_took_and_a_failed_one_why():
    etcd, kcilet = table.plan_rows(STATE)
    assert (etcd.took, etcd.pid, etcd.detail) == ("0.4 s", "7", "v3")
    assert kcilet.detail == "no socket"


def test_a_part_that_was_started_again_says_how_often_beside_its_version():
    etcd = msgspec.structs.replace(STATE.parts[0], restarts=1)
    assert table.plan_rows(msgspec.structs.replace(STATE, parts=(etcd,)))[0].detail == "v3, restarted once"


def test_status_says_where_the_logs_are():
    assert "logs        /state/logs/<part>.log" in table.plan_place(STATE)


def test_what_may_be_in_the_way_is_said_when_the_stack_is_ready_and_afterwards():
    state = msgspec.structs.replace(STATE, warnings=("a firewall",))
    said = "warning     a firewall"
    assert said in table.plan_summary(state, state_dir="/state")
    assert said in table.plan_place(state)
    assert screen.to_status(state).warnings == ("a firewall",)


def test_where_there_is_no_terminal_each_change_is_one_line():
    assert table.plan_news(None, STATE) == ["etcd: running after 0.4 s", "kcilet: failed (no socket)"]
    assert table.plan_news(STATE, STATE) == []


def test_the_summary_names_the_kubeconfig_and_what_to_try_where_the_stack_is():
    text = "\n".join(table.plan_summary(STATE, state_dir="/state"))
    assert "/state/kubeconfig" in text
    assert "nsenter --net=/run/netns/n1 kubectl" in text
    assert "$(kci kubeconfig --state-dir /state)" in text


def test_a_failure_is_told_with_its_cause():
    failed = msgspec.structs.replace(STATE, failure="cannot start kcilet", failure_log=("no such socket",))
    assert table.plan_failure(failed)[0] == "cannot start kcilet"
    assert "no such socket" in table.plan_failure(failed)[-1]


def test_status_as_json_has_no_secret_but_names_where_it_is():
    status = screen.to_status(STATE)
    assert status.parts[0].pid == 7
    assert status.parts[0].log_file == "/state/logs/etcd.log"
    assert screen.to_status(None).state == "stopped"


@pytest.fixture
def invoke():
    runner = typer.testing.CliRunner()
    return lambda *arguments: runner.invoke(main.app, list(arguments))


def test_a_folder_without_a_stack_is_stopped_and_says_so(invoke, tmp_path):
    answer = invoke("status", "--state-dir", str(tmp_path))
    assert answer.exit_code == 1
    assert "stopped" in answer.output


@pytest.mark.skipif(os.geteuid() != 0, reason="stacks are root's")
def test_down_without_a_stack_says_that_there_is_none(tmp_path, invoke):
    answer = invoke("down", "--purge", "--state-dir", str(tmp_path / "s"))
    assert answer.exit_code == 0
    assert "Nothing runs." in answer.output
    assert "There is no state" in answer.output


def test_the_users_mistakes_end_in_one_sentence_without_a_traceback(tmp_path):
    (tmp_path / "letters").write_text("dear")
    done = subprocess.run(
        [sys.executable, "-m", "kci.cli.main", "status", "--state-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot use the state folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_neither_the_service_nor_the_cluster_client():
    code = "import sys, kci.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sqlalchemy", "aiohttp", "kci.service", "kci.kube.client"} & set(done.stdout.split())


@pytest.mark.parametrize("command", [["--version"], ["plan", "-f", "-"], ["plan", "-f", "-", "-o", "json"]])
def test_output_that_cannot_be_written_is_one_sentence(command):
    pod = '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}'
    with pathlib.Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kci.cli.main", *command],
            input=pod, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "cannot write the output: No space left on device\n"
