"""How `kci doctor` shows what it found, and what it makes of its options."""

import io
import json
import pathlib

import pytest
import rich.console
from typer import testing

from kci.cli import doctor, main
from kci.doctor import subject
from kci.doctor.findings import finding
from kci.kit import errors, secret
from kci.kube import config

ANSWERS = [
    finding.Answer("machine", "memory", (finding.well("2000 MiB"),)),
    finding.Answer("machine", "clock", (finding.warning("nobody keeps it", "timedatectl set-ntp true"),)),
    finding.Answer("node", "Node", (finding.wrong("not Ready", "see the log"), finding.unseen("it is away"))),
]


def shown(answers, *, color=False):
    console = rich.console.Console(
        file=io.StringIO(), width=200, force_terminal=color, color_system="standard" if color else None
    )
    for one in doctor.render(answers):
        console.print(one)
    return console.file.getvalue()


def test_each_finding_is_a_line_under_its_area_with_what_to_do_below_it():
    lines = [" ".join(line.split()) for line in shown(ANSWERS).splitlines()]
    assert lines == [
        "machine",
        "ok memory 2000 MiB",
        "warning clock nobody keeps it",
        "do: timedatectl set-ntp true",
        "node",
        "wrong Node not Ready",
        "do: see the log",
        "not looked at Node because it is away",
        "4 looked into: 1 ok, 1 warning, 1 wrong, 1 not looked at",
    ]


def test_what_is_well_is_green_and_what_is_wrong_is_red():
    lines = shown(ANSWERS, color=True).splitlines()
    assert "\x1b[32m" in next(line for line in lines if "2000 MiB" in line)
    assert "\x1b[31m" in next(line for line in lines if "not Ready" in line)


def test_programs_get_every_finding_and_whether_all_is_well():
    values = json.loads(json.dumps(doctor.to_values(ANSWERS)))
    assert values["ok"] is False
    assert values["findings"][1] == {
        "area": "machine",
        "name": "clock",
        "level": "warning",
        "text": "nobody keeps it",
        "remedy": "timedatectl set-ntp true",
    }
    assert doctor.to_values(ANSWERS[:2])["ok"] is True


def test_a_node_without_its_cluster_is_not_examined(tmp_path):
    said = testing.CliRunner().invoke(main.app, ["doctor", "--env-file", str(tmp_path / "x")])
    assert isinstance(said.exception, errors.UserError)
    assert "--kubeconfig" in str(said.exception)


def test_variables_are_read_as_kubectl_prints_them(tmp_path):
    file = tmp_path / "env"
    file.write_text(
        "# Deployment vk, container vk\nKCI_REGION=r-1\n# KCI_X from secret\nKCI_SUBNET_ID='s'\n\n"
    )
    assert subject.read_env_file(file) == {"KCI_REGION": "r-1", "KCI_SUBNET_ID": "s"}
    with pytest.raises(errors.UserError, match="--env-file"):
        subject.read_env_file(tmp_path / "none")


@pytest.fixture
def kubeconfig(tmp_path):
    file = tmp_path / "kubeconfig"
    given = config.ClusterConfig(server="https://127.0.0.1:1", token=secret.Secret("t"))
    file.write_text(config.render(given))
    return file


TOLD = {
    "KCI_ACCESS_KEY": "a",
    "KCI_SECRET_KEY": "s",
    "KCI_REGION": "r-1",
    "KCI_CLUSTER_ID": "c",
}


def test_a_cluster_alone_is_examined_without_what_its_node_is_told(kubeconfig):
    found = subject.of_cluster(kubeconfig, {}, [])
    assert found.node.settings.node_name == "virtual-kubelet"
    assert not found.node.is_told
    assert "--env-file" in found.why_not.kci
    assert found.why_not.machine
    assert found.why_not.cluster == ""
    assert found.cluster == found.node.config


def test_a_nodes_variables_and_flags_are_taken_as_the_node_takes_them(kubeconfig, tmp_path):
    own = tmp_path / "own"
    own.write_text(kubeconfig.read_text().replace(":1", ":2"))
    found = subject.of_cluster(kubeconfig, TOLD, ["--nodename=vk", f"--kubeconfig={own}"])
    assert found.node.problems == ()
    assert found.node.settings.node_name == "vk"
    assert found.node.config.server == "https://127.0.0.1:2"
    assert not found.node.knows_address
    assert found.why_not.kci == ""


def test_what_is_wrong_with_them_is_kept_for_its_line(kubeconfig):
    found = subject.of_cluster(kubeconfig, TOLD | {"KCI_REGION": "", "VKUBELET_POD_IP": "x"}, ["--os=bsd"])
    assert any("KCI_REGION" in one for one in found.node.problems)
    assert any("VKUBELET_POD_IP" in one for one in found.node.problems)
    assert any("--os" in one for one in found.node.problems)


def test_the_account_of_a_deployment_is_named_with_its_namespace(kubeconfig):
    account = subject.read_service_account("there/vk-sa")
    assert account.user.name == "system:serviceaccount:there:vk-sa"
    assert subject.of_cluster(kubeconfig, TOLD, [], account).node.service_account == account
    for wrong in ("vk-sa", "/vk-sa", "there/", "a/b/c"):
        with pytest.raises(errors.UserError, match="NAMESPACE/NAME"):
            subject.read_service_account(wrong)


def test_a_folder_without_a_stack_has_a_machine_to_examine(tmp_path):
    found = subject.of_stack(tmp_path / "none")
    assert found.stack.problem == ""
    assert "kci up" in found.why_not.stack
    assert found.why_not.machine == ""
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_not_ours_is_told(tmp_path):
    pathlib.Path(tmp_path, "stack.json").write_text("{}")
    found = subject.of_stack(tmp_path)
    assert found.stack.problem
    assert "cannot be used" in found.why_not.cluster
