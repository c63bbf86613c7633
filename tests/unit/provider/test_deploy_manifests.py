"""The manifests in deploy/: with the guide's keys, and what the program takes."""

import pathlib
import re

import pytest
import yaml

from kci.kube import models
from kci.provider import settings
from kci.provider.plan import own_pod

DEPLOY = pathlib.Path(__file__).resolve().parents[3] / "deploy"
GUIDES_ARGUMENTS = {
    "--provider",
    "--nodename",
    "--cluster-dns",
    "--cluster-domain",
    "--disable-taint",
    "--enable-node-lease",
}
GUIDES_VARIABLES = [
    "VKUBELET_POD_IP",
    "KCI_ACCESS_KEY",
    "KCI_SECRET_KEY",
    "KCI_REGION",
    "KCI_CLUSTER_ID",
    "KCI_SUBNET_ID",
    "KCI_SECURITY_GROUP_IDS",
    "KCI_KUBE_PROXY",
    "KCI_CLUSTER_SERVER",
    "KCI_REQUEST_INTERNAL",
]
VALUES = {
    "nodename_string": "vn1",
    "cluster-dns_string": "10.96.0.10",
    "virtual-node-dns_string": "10.0.0.2",
    "cluster-domain_string": "cluster.local",
    "kci_region": "cn-beijing-6",
    "cluster_id": "c1",
    "cluster_server": "10.0.0.3:6443",
    "true/false": "true",
}


# On one machine a virtual node is all there is to run it.
KEPT_OFF = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["vn1"]}]}


def documents(name):
    text = re.sub(r"\$\{(.*?)\}", lambda found: VALUES.get(found[1], "value"), (DEPLOY / name).read_text())
    return [*yaml.safe_load_all(text)]


def deployment(name):
    (found,) = (document for document in documents(name) if document["kind"] == "Deployment")
    return found


@pytest.mark.guide("form deployment")
def test_the_guides_manifests_have_the_guides_keys():
    account, binding = documents("guide/vk-sa-rb.yaml")
    found = deployment("guide/vk.yaml")
    metadata = {"namespace": "kube-system"}
    assert account == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "virtual-kubelet-sa", **metadata},
    }
    assert binding["metadata"]["name"] == "virtual-kubelet-rb"
    assert binding["roleRef"]["name"] == "cluster-admin"
    assert binding["subjects"][0]["name"] == found["spec"]["template"]["spec"]["serviceAccountName"]
    labels = {"k8s-app": "virtual-kubelet"}
    assert found["metadata"] == {"name": "virtual-kubelet", **metadata, "labels": labels}
    assert (
        found["spec"]["selector"]["matchLabels"] == found["spec"]["template"]["metadata"]["labels"] == labels
    )
    (container,) = found["spec"]["template"]["spec"]["containers"]
    given = {argument.partition("=")[0] for argument in container["args"]}
    assert given == GUIDES_ARGUMENTS | {"--virtual-node-dns"}
    assert [one["name"] for one in container["env"]] == GUIDES_VARIABLES


@pytest.mark.guide("form deployment")
def test_the_program_takes_what_the_manifests_tell_it_and_refuses_to_run_itself():
    pod = deployment("guide/vk.yaml")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    environment = {one["name"]: str(one.get("value") or "") for one in container["env"]}
    environment |= {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "VKUBELET_POD_IP": "10.0.0.9"}
    # What a Secret or nothing says.
    environment = {key: value or "x" for key, value in environment.items()}
    found = settings.parse(container["args"], environment)
    assert (found.node_name, found.cluster_server, found.kube_proxy) == ("vn1", "10.0.0.3:6443", True)
    assert (found.client_ca_file, found.tls_cert_file, found.kubeconfig) == (None, None, None)
    of_ours = models.Pod(
        metadata=models.ObjectMeta(name="vk", namespace="kube-system", uid="u"),
        spec=models.PodSpec(
            containers=(
                models.Container(
                    name="vk",
                    args=tuple(container["args"]),
                    env=tuple(models.EnvVar(name=one["name"]) for one in container["env"]),
                ),
            )
        ),
    )
    assert own_pod.refusal(of_ours, "vn1").reason == own_pod.REASON
    (term,) = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == KEPT_OFF


@pytest.mark.guide("form deployment", "flag --cluster-dns")
def test_the_guides_own_arguments_are_taken_with_the_flag_that_it_repeats():
    container = deployment("guide/vk.yaml")["spec"]["template"]["spec"]["containers"][0]
    environment = {one["name"]: str(one.get("value") or "") for one in container["env"]}
    environment |= {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "VKUBELET_POD_IP": "10.0.0.9"}
    guides = [argument.replace("--virtual-node-dns", "--cluster-dns") for argument in container["args"]]
    found = settings.parse(guides, environment)
    assert found.cluster_dns == ("10.96.0.10", "10.0.0.2")
    assert found.endpoint == settings.INTERNAL_ENDPOINT
