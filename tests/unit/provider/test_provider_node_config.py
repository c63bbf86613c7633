"""The configuration file's keys mean what KCE's do, and everything wrong in it is named at once."""

import json

import pytest

from kci.kube import models
from kci.provider import annotations, node_config
from kci.vnode import node


@pytest.fixture
def read(tmp_path):
    file = tmp_path / "config.json"

    def found(**keys):
        file.write_text(json.dumps(keys))
        problems = []
        config = node_config.read(str(file), problems)
        assert all(problem.startswith(f"--provider-config={file}: ") for problem in problems)
        return config, [problem.partition(": ")[2] for problem in problems]

    return found


@pytest.mark.guide("flag --provider-config")
def test_a_file_is_read_as_json_or_yaml(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("taints: []\ncapacity: {cpu: 64}\n")
    problems = []
    found = node_config.read(str(file), problems)
    assert (found.taints, found.capacity, problems) == ((), {"cpu": "64"}, [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "it holds no object"),
        ("{", "cannot read it as JSON or YAML"),
        (None, "cannot read it: No such"),
    ],
)
@pytest.mark.guide("flag --provider-config")
def test_a_file_that_is_none_is_named(tmp_path, content, words):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    problems = []
    assert node_config.read(str(file), problems) == node_config.NodeConfig()
    assert [words in problem for problem in problems] == [True]


@pytest.mark.guide("config taints")
def test_several_taints(read):
    assert read()[0].taints is None
    one, two = {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c/d", "effect": "NoExecute"}
    assert read(taints=[one, two]) == (
        node_config.NodeConfig(
            taints=(
                models.Taint(key="a", value="b", effect="NoSchedule"),
                models.Taint(key="c/d", effect="NoExecute"),
            )
        ),
        [],
    )
    assert read(taints=[one | {"effect": "Never"}])[1] == [
        "taints[0]: effect is 'Never': use one of NoSchedule, PreferNoSchedule, NoExecute"
    ]
    assert read(taints=[one, one | {"value": "x"}])[1] == [
        "taints: two have the same key and effect, and a node may have one only"
    ]
    assert read(taints="all")[1] == [
        'taints: Expected array, got str; write it as [{"key": "a", "value": "b", "effect": "NoSchedule"}]'
    ]


@pytest.mark.guide("config capacity")
def test_the_capacity_is_quantities_of_what_a_node_has(read):
    asked = {"cpu": 64, "memory": "256Gi", "pods": "200", "ephemeral-storage": "1Ti"}
    assert read(capacity=asked)[0].capacity == asked | {"cpu": "64"}
    _, problems = read(capacity={"cpu": "many", "pods": "1.5", "nvidia.com/gpu": 1, "memory": "-1Gi"})
    assert problems == [
        "capacity: cpu is 'many': write 1000 or the like",
        "capacity: pods is '1.5': write 1000 or the like",
        "capacity: there is no nvidia.com/gpu; there are cpu, memory, pods, ephemeral-storage",
        "capacity: memory is '-1Gi': write 4Ti or the like",
    ]


@pytest.mark.guide("config customLabels")
def test_labels_are_those_that_a_node_may_give_itself(read):
    labels = {"team": "a", "topology.kubernetes.io/zone": "cn-beijing-6a"}
    assert read(customLabels=labels) == (node_config.NodeConfig(labels=labels), [])
    _, problems = read(
        customLabels={"a b": "c", "team": "c d", "type": "x", "node-role.kubernetes.io/agent": ""}
    )
    assert [problem.partition(" ")[2][:50] for problem in problems] == [
        "a b: 'c' is no label: use at most 63 letters, digi",
        "team: 'c d' is no label: use at most 63 letters, d",
        "type is set by the node itself: remove it",
        "a node may not give itself node-role.kubernetes.io",
    ]
    assert "kubectl label node NAME node-role.kubernetes.io/agent=" in problems[-1]
    assert read(customLabels={"team": 1})[1] == [
        (
            'customLabels: Expected str, got int; write it as {"name": "value"}, numbers and true and false '
            "in quotes too"
        )
    ]


@pytest.mark.guide("config instanceSettings")
def test_instance_settings_are_checked_as_a_pods_annotations_are(read):
    good = {annotations.SUBNET: "s-1", annotations.CPU: "2", annotations.MEMORY: "4"}
    assert read(instanceSettings=good) == (node_config.NodeConfig(instance_settings=good), [])
    _, problems = read(
        instanceSettings={"k8s.ksyun.com/kci-subnet": "s-1", annotations.CPU: "two", annotations.MEMORY: "4"}
    )
    assert problems == [
        f"instanceSettings: nothing reads k8s.ksyun.com/kci-subnet: is {annotations.SUBNET} meant?",
        f"instanceSettings: {annotations.CPU} is 'two': write a number of cores, more than 0 and at most 256",
    ]


@pytest.mark.guide("config kciletKubeconfigPath")
def test_the_instances_kubeconfig_is_a_file(read, tmp_path):
    file = tmp_path / "kubeconfig"
    file.touch()
    assert read(kciletKubeconfigPath=str(file))[0].instance_kubeconfig == file
    assert read()[0].instance_kubeconfig is None
    assert read(kciletKubeconfigPath="/no/file")[1] == [
        "kciletKubeconfigPath names /no/file, which is no file that can be read"
    ]


def test_what_is_said_elsewhere_unknown_or_without_meaning_is_named_with_the_remedy(read):
    _, problems = read(disableTaint=True, taint=[], batchCreateEnable=True, capacity={})
    assert problems == [
        "disableTaint is not read from this file: remove it there and give --disable-taint",
        "taint is unknown: is taints meant?",
        "batchCreateEnable has no meaning for this virtual node: remove it",
    ]


def test_a_default_taint_passes_its_own_check():
    assert list(node_config.check_taint(node.DEFAULT_TAINT)) == []
