"""The Helm chart and the Kustomize base: the same objects for the same values, which a real API server takes
and the program understands, with no more rights than they say.
"""

import deploy_forms as forms
import pytest
import yaml

from kci.kube import access
from kci.kube import config as configs
from kci.provider import settings

pytestmark = [pytest.mark.integration, pytest.mark.guide("form chart")]

TEMPORARY = {"credentials": {"temporaryConfigMap": "user-temp-aksk"}}
CASES = {
    "least": forms.NEEDED,
    "guide": {**forms.FULL, "identity": "guide"},
    "full": forms.FULL,
    "account": {**forms.FULL, "identity": "serviceAccount"},
    "temporary keys, internal": {**forms.FULL, **TEMPORARY, "requestInternal": True},
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def values(request):
    return request.param


def chart(values, folder):
    return forms.render_chart(values, folder).stdout


def test_chart_and_kustomize_make_the_same_objects_of_the_same_values(values, tmp_path):
    of_chart = forms.objects(chart(values, tmp_path))
    of_kustomize = forms.objects(forms.render_kustomize(values, tmp_path))
    assert of_chart == of_kustomize


@pytest.mark.parametrize("form", [chart, forms.render_kustomize])
def test_a_real_api_server_takes_every_object_strictly(form, values, tmp_path, api_server):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(configs.render(api_server.admin))
    text = form(values, tmp_path)
    apply = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    told = forms.kubectl("--kubeconfig", str(kubeconfig), *apply, text=text).stdout
    assert told.count("created (server dry run)") == len(forms.objects(text))


@pytest.mark.parametrize("form", [chart, forms.render_kustomize])
def test_the_program_is_told_all_values_that_were_given(form, tmp_path):
    told = parsed(form(CASES["full"], tmp_path), tmp_path)
    assert told.node_name == "burst-1"
    assert told.cluster_dns == ("10.96.0.10", "10.96.0.11")
    assert told.node_dns == ("198.18.0.2",)
    assert told.cluster_domain == "example.local"
    assert told.taints == ()
    assert told.node_lease is False
    assert (told.region, told.cluster_id, told.subnet_id) == ("cn-beijing-6", "my-cluster", "subnet-1")
    assert told.security_group_ids == ("sg-1", "sg-2")
    assert told.kube_proxy is True
    assert told.cluster_server == "10.0.0.1:6443"


def parsed(text, folder):
    """The settings as the program reads them of a rendered container."""
    container = forms.container(text)
    files = {name: folder / name for name in ("client-ca-file", "tls-cert-file", "tls-private-key-file")}
    for path in files.values():
        path.touch()
    environment = {one["name"]: one.get("value", "from-elsewhere") for one in container["env"]}
    return settings.parse(
        [*container["args"], *(f"--{name}={path}" for name, path in files.items())],
        {**environment, "VKUBELET_POD_IP": "10.0.0.7", "KUBERNETES_SERVICE_HOST": "10.96.0.1"},
    )


def test_the_example_of_the_repository_is_whole_as_it_lies_there(tmp_path):
    text = forms.kubectl("kustomize", str(forms.DEPLOY / "kustomize/example")).stdout
    assert parsed(text, tmp_path).node_name == "virtual-kubelet"
    assert not [
        word for word in ("NODENAME", "BOOLEAN", "ADDRESSES", "virtual-kubelet-settings") if word in text
    ]


def test_keys_in_the_values_come_to_a_secret_and_nowhere_else(tmp_path):
    values = {**forms.NEEDED, "credentials": {"accessKey": "AKID", "secretKey": "very-secret"}}
    found = forms.objects(chart(values, tmp_path))
    assert found.pop(("Secret", "kube-system", "virtual-kubelet-keys"))["data"].keys() == {
        "accessKey",
        "secretKey",
    }
    assert "very-secret" not in str(found)
    assert "AKID" not in str(found)


def test_the_names_are_the_guides(values, tmp_path):
    found = forms.objects(chart(values, tmp_path))
    assert {
        ("ServiceAccount", "kube-system", "virtual-kubelet-sa"),
        ("ClusterRoleBinding", "", "virtual-kubelet-rb"),
        ("Deployment", "kube-system", "virtual-kubelet"),
    } <= found.keys()
    role = found["ClusterRoleBinding", "", "virtual-kubelet-rb"]["roleRef"]["name"]
    assert role == ("cluster-admin" if values.get("identity") == "guide" else "virtual-kubelet")


@pytest.mark.parametrize("identity", forms.IDENTITIES)
def test_a_second_release_has_nothing_of_the_first(identity, tmp_path):
    first = {**forms.FULL, "identity": identity}
    of_first = forms.objects(chart(first, tmp_path))
    second = chart({**first, "name": "vn2", "nodename": "burst-2"}, tmp_path)
    assert not of_first.keys() & forms.objects(second).keys()
    for word in ("burst-1", "virtual-kubelet-sa", "virtual-kubelet-instances", "virtual-kubelet-config"):
        assert word not in second


@pytest.mark.parametrize(
    ("change", "found"), [({}, "vn2-instances"), ({"instanceKubeconfigSecret": "a"}, "a")]
)
def test_instances_have_the_kubeconfig_of_their_own_release(change, found, tmp_path):
    values = {**forms.FULL, "identity": "serviceAccount", "name": "vn2", **change}
    deployment = forms.objects(chart(values, tmp_path))["Deployment", "kube-system", "vn2"]
    (volume,) = (one for one in deployment["spec"]["template"]["spec"]["volumes"] if one["name"] == "config")
    assert volume["projected"]["sources"][1] == {"secret": {"name": found}}


def test_the_pod_is_without_rights_on_its_machine_and_never_on_a_virtual_node(values, tmp_path):
    found = forms.objects(chart(values, tmp_path))
    spec = found["Deployment", "kube-system", "virtual-kubelet"]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"region": ""}, "region"),
        ({"clusterId": ""}, "clusterId"),
        ({"securityGroupIds": ["a", "b", "c", "d"]}, "securityGroupIds"),
        ({"clusterDNS": ["dns.example"]}, "clusterDNS"),
        ({"nodename": "Upper"}, "nodename"),
        ({"identity": "admin"}, "identity"),
        ({"kubeProxi": True}, "kubeProxi"),
        ({"credentials": {}}, "credentials"),
        ({"credentials": {"existingSecret": "one", "temporaryConfigMap": "two"}}, "credentials"),
        ({"credentials": {"accessKey": "AKID"}}, "credentials"),
    ],
)
def test_values_that_cannot_work_are_refused_by_their_schema(change, told, tmp_path):
    done = forms.render_chart({**forms.NEEDED, **change}, tmp_path, check=False)
    assert done.returncode != 0
    assert told in done.stderr


def test_helm_finds_nothing_to_complain_of(tmp_path):
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(forms.FULL))
    told = forms.helm("lint", "--strict", str(forms.DEPLOY / "chart"), "--values", str(path)).stdout
    assert "0 chart(s) failed" in told


@pytest.fixture
def least_privilege(tmp_path, api_server):
    """The rights of the recommended form, in a real API server, under names of the test's own."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(configs.render(api_server.admin))
    text = chart({**forms.FULL, **TEMPORARY, "name": "least", "nodename": "least-node"}, tmp_path)
    roles = yaml.safe_dump_all(
        one for (kind, _, _), one in forms.objects(text).items() if kind not in {"Deployment", "Secret"}
    )
    kubectl = ("--kubeconfig", str(kubeconfig))
    forms.kubectl(*kubectl, "apply", "-f", "-", text=roles)
    yield
    forms.kubectl(*kubectl, "delete", "-f", "-", text=roles)


REQUESTS = {"group": "certificates.k8s.io", "resource": "certificatesigningrequests"}
CLIENT_CA = {
    "resource": "configmaps",
    "namespace": "kube-system",
    "name": "extension-apiserver-authentication",
}
KEYS = {"resource": "configmaps", "namespace": "kube-system", "name": "user-temp-aksk"}
ALLOWED = [
    *({"verb": verb, **REQUESTS} for verb in ("create", "get")),
    {"verb": "get", **CLIENT_CA},
    *({"verb": verb, **KEYS} for verb in ("get", "list", "watch")),
    {"verb": "patch", "resource": "nodes", "name": "least-node"},
    *({"verb": verb, "resource": "events", "namespace": "default"} for verb in ("create", "patch")),
    {"verb": "list", "group": "discovery.k8s.io", "resource": "endpointslices", "namespace": "default"},
]
REFUSED = [
    {"verb": "update", **REQUESTS, "subresource": "approval"},
    {"verb": "create", **REQUESTS, "subresource": "nodeclient"},
    *({"verb": verb, **REQUESTS} for verb in ("list", "delete")),
    {"verb": "list", **CLIENT_CA},
    {"verb": "patch", **KEYS},
    {"verb": "patch", "resource": "nodes", "name": "another"},
    *({"verb": verb, "resource": "nodes"} for verb in ("get", "list", "create", "delete")),
    *(
        {"verb": "get", "resource": kind, "namespace": "default"}
        for kind in ("pods", "secrets", "configmaps")
    ),
    {"verb": "list", "resource": "secrets", "namespace": "kube-system"},
    {"verb": "create", "resource": "events", "namespace": "kube-system"},
    {"verb": "create", "resource": "pods", "namespace": "kube-system"},
    {"verb": "create", "resource": "clusterrolebindings", "group": "rbac.authorization.k8s.io"},
]


@pytest.mark.usefixtures("least_privilege")
async def test_the_recommended_forms_service_account_may_ask_for_an_identity_and_little_more(admin):
    account = access.User(
        name="system:serviceaccount:kube-system:least-sa",
        groups=("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"),
    )

    async def may(attributes):
        return await admin.review_access(account, access.Attributes(**attributes))

    assert [one for one in ALLOWED if not await may(one)] == []
    assert [one for one in REFUSED if await may(one)] == []
