"""`kci plan`: manifests as users write them, and what they are told."""

import json
import socket

import pytest
import typer.testing

from kci.cli import main, manifests
from kci.provider.plan import preview

POD = """
kind: Pod
metadata: {name: p, annotations: {%s}}
spec: {containers: [{name: c, resources: {limits: {%s}}}]}
"""
TEMPLATE = "template: {metadata: {creationTimestamp: null}, spec: {containers: [{name: c}]}}"
NODE = ("--subnet-id", "s-1", "--security-group-ids", "g-1", "--disable-taint")


def run(text, *options, **variables):
    # Nothing of the caller's own environment counts.
    environment = {"KCI_SUBNET_ID": "", "KCI_SECURITY_GROUP_IDS": "", "KCI_KUBE_PROXY": "", **variables}
    return typer.testing.CliRunner().invoke(
        main.app,
        # Nor a stack that may run here.
        ["plan", "-f", "-", "-o", "json", "--state-dir", "/nonexistent", *options],
        input=text,
        env=environment,
    )


def plan(text, *options, **variables):
    return json.loads(run(text, *options, **variables).stdout)


@pytest.mark.parametrize(
    ("limits", "cpu", "memory"),
    [("", 2, 4), ("memory: 8178892k", 2, 8), ("cpu: 3", 4, 4), ("cpu: 1500m, memory: 3Gi", 2, 4)],
)
def test_a_pod_is_granted_the_size_that_the_node_would_ask_for(limits, cpu, memory):
    (found,) = plan(POD % ("", limits), *NODE)
    assert found["granted"] == {"cpu": cpu, "memory": memory}
    assert found["rule"]
    assert (found["changes"], found["notes"][:0], found["refused"]) == ([], [], [])


def test_who_says_nothing_of_the_node_gets_notes_and_no_refusal():
    result = run(POD % ("", ""))
    (found,) = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["granted"] == {"cpu": 2, "memory": 4}
    assert (found["subnet"], found["securityGroups"]) == (None, None)
    assert [note["reason"] for note in found["notes"]] == [
        "SubnetNotTold",
        "SecurityGroupNotTold",
        preview.UNTOLERATED,
    ]


def test_a_node_that_is_said_to_have_no_subnet_refuses():
    result = run(POD % ("", ""), *NODE, "--subnet-id", "")
    (found,) = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["granted"] is None
    assert [one["reason"] for one in found["refused"]] == ["MissingSubnet"]
    assert found["refused"][0]["field"] == "metadata.annotations[k8s.ksyun.com/kci-subnet-id]"


@pytest.mark.guide("form tolerations")
def test_the_guides_two_tolerations_under_the_default_taint():
    text = "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}], tolerations: [%s]}"
    other = "{key: rbkci-virtual-kubelet.io/provider, value: kingsoftcloud, effect: NoSchedule}"
    right = '{key: virtual-kubelet.io/provider, operator: Equal, value: "kingsoftcloud", effect: NoSchedule}'
    told = ("--subnet-id", "s-1", "--security-group-ids", "g-1")
    (missing,) = plan(text % other, *told)[0]["notes"]
    assert missing["reason"] == preview.UNTOLERATED
    assert "virtual-kubelet.io/provider=kingsoftcloud:NoSchedule" in missing["message"]
    for toleration in (right, "{operator: Exists}", "{key: virtual-kubelet.io/provider, operator: Exists}"):
        assert plan(text % toleration, *told)[0]["notes"] == []
    assert plan(text % other, *NODE)[0]["notes"] == []


@pytest.mark.parametrize(
    ("kind", "spec", "replicas"),
    [
        ("Deployment", f"{{replicas: 3, {TEMPLATE}}}", 3),
        ("StatefulSet", f"{{replicas: 3, {TEMPLATE}}}", 3),
        ("ReplicaSet", f"{{replicas: 3, {TEMPLATE}}}", 3),
        ("Job", f"{{{TEMPLATE}}}", 1),
        ("Job", f"{{parallelism: 4, completions: 2, {TEMPLATE}}}", 2),
        ("Job", f"{{completions: 5, {TEMPLATE}}}", 1),
        ("CronJob", f"{{jobTemplate: {{spec: {{{TEMPLATE}}}}}}}", 1),
        ("CronJob", f"{{jobTemplate: {{spec: {{parallelism: 4, {TEMPLATE}}}}}}}", 4),
    ],
)
def test_every_kind_that_makes_pods_and_how_many_at_once(kind, spec, replicas):
    (found,) = plan(f"kind: {kind}\nmetadata: {{name: w, namespace: n}}\nspec: {spec}", *NODE)
    assert (found["kind"], found["namespace"], found["name"]) == (kind, "n", "w")
    assert found["replicas"] == replicas
    assert found["granted"] == {"cpu": 2, "memory": 4}


@pytest.mark.guide("limit DaemonSet")
def test_a_daemon_set_is_refused_in_the_nodes_own_words():
    result = run(f"kind: DaemonSet\nmetadata: {{name: d}}\nspec: {{{TEMPLATE}}}", *NODE)
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert [one["reason"] for one in found["refused"]] == ["DaemonSetNotSupported"]


def test_lists_and_several_documents_in_their_order_and_others_passed_over():
    text = f"""
---
kind: Service
metadata: {{name: s}}
---
kind: List
items:
- {{kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: c}}]}}}}
- {{kind: ConfigMap, metadata: {{name: m}}}}
- kind: PodList
  items: [{{metadata: {{name: b}}, spec: {{containers: [{{name: c}}]}}}}]
---
kind: Deployment
metadata: {{name: c}}
spec: {{{TEMPLATE}}}
"""
    assert [found["name"] for found in plan(text, *NODE)] == ["a", "b", "c"]


def test_an_annotation_of_the_deployment_reaches_no_pod_and_is_named():
    text = (
        "kind: Deployment\nmetadata: {name: d, annotations: {k8s.ksyun.com/kci-subnet-id: x, a: b}}\nspec: "
    )
    (found,) = plan(f"{text}{{{TEMPLATE}}}", *NODE)
    assert found["subnet"] == "s-1"
    (change,) = found["changes"]
    assert change["reason"] == preview.MISPLACED
    assert "k8s.ksyun.com/kci-subnet-id" in change["message"]
    assert "spec.template.metadata.annotations" in change["message"]


def test_annotations_anywhere_around_a_pod_template_are_named_with_where_they_belong():
    cron_job = """
kind: CronJob
metadata: {name: c, annotations: {k8s.ksyun.com/kci-subnet-id: x}}
spec:
  jobTemplate:
    metadata: {annotations: {k8s.ksyun.com/kci-security-group-id: g-9}}
    spec: {%s}
"""
    (found,) = plan(cron_job % TEMPLATE, *NODE)
    assert [change["message"] for change in found["changes"]] == [
        f"{key} is in the CronJob's {place}, where it does nothing: put it on the pod template, "
        "spec.jobTemplate.spec.template.metadata.annotations"
        for key, place in (
            ("k8s.ksyun.com/kci-subnet-id", "metadata.annotations"),
            ("k8s.ksyun.com/kci-security-group-id", "spec.jobTemplate.metadata.annotations"),
        )
    ]
    template = f"kind: PodTemplate\nmetadata: {{name: t, annotations: {{k8s.ksyun.com/a: x}}}}\n{TEMPLATE}"
    (found,) = plan(template, *NODE)
    assert found["changes"][0]["message"].endswith("the pod template, template.metadata.annotations")


def test_a_size_that_there_is_not_is_rounded_or_refused():
    odd = 'k8s.ksyun.com/kci-instance-cpu: "3", k8s.ksyun.com/kci-instance-memory: "7"'
    (rounded,) = plan(POD % (odd, ""), *NODE)
    assert rounded["granted"] == {"cpu": 4, "memory": 8}
    assert [change["reason"] for change in rounded["changes"]] == ["InstanceSizeRounded"]
    (refused,) = plan(POD % (odd, ""), *NODE, "--strict-sizes")
    assert refused["granted"] is None


@pytest.mark.guide("limit sizes")
def test_init_containers_count_unless_the_node_adds_up_the_containers_alone():
    init = "initContainers: [{name: i, resources: {limits: {cpu: 7}}}]"
    text = f"kind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c}}], {init}}}"
    assert plan(text, *NODE)[0]["granted"] == {"cpu": 8, "memory": 8}
    (found,) = plan(text, *NODE, "--sum-containers-only")
    assert found["granted"] == {"cpu": 2, "memory": 4}
    assert [change["reason"] for change in found["changes"]] == ["LimitAboveInstance"]


def test_sizes_of_a_file(tmp_path):
    file = tmp_path / "packages.json"
    file.write_text('{"Packages": [{"Cpu": 3, "Mem": [5]}]}')
    (found,) = plan(POD % ("", "cpu: 1"), *NODE, "--packages", str(file))
    assert found["granted"] == {"cpu": 3, "memory": 5}


def test_a_service_that_does_not_answer_is_told_and_its_sizes_are_the_documentations(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "kci.env").write_text(
            f"KCI_ACCESS_KEY=a\nKCI_SECRET_KEY=s\nKCI_REGION=r\nKCI_ENDPOINT={endpoint}\n"
        )
        found = run(POD % ("", ""), *NODE, "--state-dir", str(tmp_path))
    assert (
        "taking the documentation's sizes: the service does not answer within 1 s; look at `kci status`"
        in found.stderr
    )
    assert json.loads(found.stdout)[0]["granted"] == {"cpu": 2, "memory": 4}


def test_a_nodes_configuration_file_counts(tmp_path):
    file = tmp_path / "node.yaml"
    file.write_text(
        "taints: [{key: own, value: v, effect: NoSchedule}]\n"
        "instanceSettings: {k8s.ksyun.com/kci-subnet-id: s-9, k8s.ksyun.com/kci-kube-proxy-enabled: 'true'}\n"
    )
    (found,) = plan(POD % ("", ""), "--provider-config", str(file), "--security-group-ids", "g-1")
    assert (found["subnet"], found["kubeProxy"]) == ("s-9", True)
    (note,) = found["notes"]
    assert "own=v:NoSchedule" in note["message"]
    file.write_text("taint: []\n")
    wrong = run(POD % ("", ""), "--provider-config", str(file))
    assert wrong.exit_code == 2
    assert "is taints meant?" in wrong.stderr


@pytest.mark.parametrize(
    ("spec", "field", "what"),
    [
        (
            'resources: {limits: {cpu: "abc"}}',
            "spec.containers[0].resources.limits[cpu]",
            "'abc' as a quantity",
        ),
        ("resources: {requests: {cpu: -1}}", "spec.containers[0].resources.requests[cpu]", "-1 is less than"),
        (
            "resources: {limits: {memory: 1Gi}, requests: {memory: 2Gi}}",
            "spec.containers[0].resources.requests[memory]",
            "the request 2Gi is more than the limit 1Gi",
        ),
        ("}], volumes: [{name: v, emptyDir: {sizeLimit: 1GB}", "spec.volumes[0].emptyDir.sizeLimit", "'1GB'"),
        ("}], resources: {limits: {cpu: x}}, initContainers: [{name: i", "spec.resources.limits[cpu]", "'x'"),
    ],
)
def test_a_quantity_that_the_api_server_would_not_take_is_refused_and_the_others_are_shown(spec, field, what):
    bad = f"kind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c, {spec}}}]}}"
    result = run(f"{bad}\n---{POD % ('', '')}", *NODE)
    assert result.exit_code == 1
    refused, good = json.loads(result.stdout)
    ((one,), granted) = (refused["refused"], refused["granted"])
    assert (one["field"], one["reason"], granted) == (field, preview.INVALID, None)
    assert what in one["message"]
    assert good["granted"]


def test_everything_that_is_wrong_with_a_pods_quantities_is_named():
    (found,) = plan(POD % ("", "cpu: one, memory: much"), *NODE)
    assert [one["field"] for one in found["refused"]] == [
        "spec.containers[0].resources.limits[cpu]",
        "spec.containers[0].resources.limits[memory]",
    ]


@pytest.mark.guide("env VKUBELET_TAINT_KEY", "env VKUBELET_TAINT_EFFECT")
def test_the_nodes_taint_is_the_environments_as_for_the_node_itself():
    own = {"VKUBELET_TAINT_KEY": "own", "VKUBELET_TAINT_EFFECT": "NoExecute"}
    (found,) = plan(POD % ("", ""), "--subnet-id", "s-1", "--security-group-ids", "g-1", **own)
    (note,) = found["notes"]
    assert "own=kingsoftcloud:NoExecute" in note["message"]
    wrong = run(POD % ("", ""), VKUBELET_TAINT_EFFECT="Never")
    assert wrong.exit_code == 2
    assert "VKUBELET_TAINT_EFFECT is 'Never'" in wrong.stderr


@pytest.mark.guide("limit securityGroups", "env KCI_SECURITY_GROUP_IDS")
def test_a_node_that_would_not_start_gets_no_plan_but_all_that_is_wrong_with_it():
    wrong = run(
        POD % ("", ""),
        "--security-group-ids=a,b,c,d",
        "--cluster-dns=dns.local",
        "--virtual-node-dns=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4",
        "--cluster-domain=No_domain",
    )
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    for part in (
        "KCI_SECURITY_GROUP_IDS has 4 groups: at most 3",
        "--cluster-dns has 'dns.local', which is no IP address",
        "--virtual-node-dns has 4 addresses: at most 3",
        "--cluster-domain is 'No_domain'",
    ):
        assert part in wrong.stderr


def test_a_value_that_the_api_server_would_not_take_hides_nothing_of_the_others():
    number = "k8s.ksyun.com/kci-instance-cpu: 4"
    bad, good = plan(f"{POD % (number, '')}\n---{POD % ('', '')}", *NODE)
    assert bad["refused"][0]["reason"] == preview.INVALID
    assert "quotes" in bad["refused"][0]["message"]
    assert bad["refused"][0]["field"] == "metadata.annotations[k8s.ksyun.com/kci-instance-cpu]"
    assert 'write "4"' in bad["refused"][0]["message"]
    assert good["granted"]


def test_each_value_without_quotes_is_named_by_its_key():
    both = "k8s.ksyun.com/kci-instance-cpu: 4, k8s.ksyun.com/kci-kube-proxy-enabled: true"
    (found,) = plan(POD % (both, ""), *NODE)
    assert [one["message"].partition(";")[0] for one in found["refused"]] == [
        f'metadata.annotations[k8s.ksyun.com/{key}]: {value} is no string: write "{value}", in quotes'
        for key, value in (("kci-instance-cpu", "4"), ("kci-kube-proxy-enabled", "true"))
    ]


def test_more_containers_than_are_documented_are_a_note():
    several = ", ".join(f"{{name: c{number}}}" for number in range(6))
    (found,) = plan(f"kind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{several}]}}", *NODE)
    assert [note["reason"] for note in found["notes"]] == ["MoreContainersThanDocumented"]
    assert (found["changes"], found["granted"]) == ([], {"cpu": 2, "memory": 4})


def test_resolver_and_bandwidth():
    limit = 'kubernetes.io/ingress-bandwidth: "100M"'
    (found,) = plan(POD % (limit, ""), *NODE, "--cluster-dns", "10.0.0.10", "--cluster-dns", "10.0.0.11")
    assert found["bandwidth"] == {"ingress": 100_000_000, "egress": None}
    assert found["dns"]["servers"] == ["10.0.0.10", "10.0.0.11"]
    assert found["dns"]["searches"][0] == "default.svc.cluster.local"
    (unknown,) = plan(POD % ("", ""), *NODE)
    assert unknown["dns"]["ofNode"]
    assert unknown["dns"]["servers"] == []


def test_a_dns_server_that_takes_kube_proxy_is_noted_where_the_service_range_is_known():
    dns = (*NODE, "--cluster-dns", "10.96.0.10,192.0.2.53")

    def notes(*more, annotation=""):
        (found,) = plan(POD % (annotation, ""), *dns, *more)
        return [note["message"] for note in found["notes"] if note["reason"] == "DNSNotReachable"]

    (told,) = notes("--service-cidr", "10.96.0.0/12")
    assert "10.96.0.10" in told
    assert "kci-kube-proxy-enabled" in told
    assert notes() == []
    assert notes("--service-cidr", "10.96.0.0/12", "--kube-proxy") == []
    on = 'k8s.ksyun.com/kci-kube-proxy-enabled: "true"'
    assert notes("--service-cidr", "10.96.0.0/12", annotation=on) == []
    assert run(POD % ("", ""), "--service-cidr", "10.96.0.1/12").exit_code == 2


@pytest.mark.parametrize("text", ["a: [", "just words", "metadata: {}"])
def test_what_is_no_manifest_ends_with_2_and_a_sentence(text):
    result = run(text)
    assert result.exit_code == 2
    assert result.stderr.startswith("cannot ")


def test_a_date_in_an_annotation_is_a_string():
    (subject,) = manifests.read(POD % ("made: 2024-01-02", ""), "x")
    assert subject.pod.metadata.annotations == {"made": "2024-01-02"}


def test_for_people():
    result = typer.testing.CliRunner().invoke(main.app, ["plan", "-f", "-", *NODE], input=POD % ("", ""))
    assert "2 cores and 4 GiB" in result.stdout
    assert "Pod default/p" in result.stdout
