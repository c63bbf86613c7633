"""The least-privilege forms at a real API server: what their accounts may not do, by RBAC and by the policies
that come with them. What they need is shown by tests/e2e/test_rights.py.
"""

import asyncio
import contextlib
import json
import secrets

import deploy_forms as forms
import pytest
import rights
import yaml
from keys_fixture import NAMESPACE

from kci.kit import secret
from kci.kube import access, errors, resources, signing_requests
from kci.kube import client as clients
from kci.kube import config as configs

pytestmark = [pytest.mark.integration, pytest.mark.requirement("R52")]

REQUESTS, NODES, LEASES, PODS = (
    resources.CERTIFICATE_SIGNING_REQUESTS,
    resources.NODES,
    resources.LEASES,
    resources.PODS,
)
LEASE_NAMESPACE = "kube-node-lease"
ACCOUNT, INSTANCES = "virtual-kubelet-sa", "virtual-kubelet-instances"
OTHERS = "others-node"
IN_FORCE_WITHIN_S = 30


@pytest.fixture
def kubectl(tmp_path, api_server):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(configs.render(api_server.admin))
    return lambda *arguments, **options: forms.kubectl("--kubeconfig", str(kubeconfig), *arguments, **options)


class Form:
    """A form's rights in the API server, for a node that nobody else has."""

    def __init__(self, admin, api_server, node_name):
        self.admin, self.node_name = admin, node_name
        self._api_server = api_server

    @contextlib.asynccontextmanager
    async def acting_as(self, account):
        """A client with a token of that account."""
        path = resources.SERVICE_ACCOUNTS.object_path(account, NAMESPACE, "token")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
        token = json.loads(await self.admin.request("POST", path, body=body))["status"]["token"]
        admin = self._api_server.admin
        config = configs.ClusterConfig(server=admin.server, ca_pem=admin.ca_pem, token=secret.Secret(token))
        async with clients.Client(config) as client:
            yield client

    async def make_node(self, name):
        return await self.admin.create(NODES, {"metadata": {"name": name, "labels": {"a": "b"}}})

    async def make_pod(self, namespace, node_name):
        body = {
            "metadata": {"generateName": "on-"},
            "spec": {
                "nodeName": node_name,
                "serviceAccountName": "default",
                "containers": [{"name": "main", "image": "x"}],
            },
        }
        return await self.admin.create(PODS, body, namespace=namespace)


@pytest.fixture
async def form(request, admin, api_server, kubectl):
    """Of the manifest that the test names."""
    one = Form(admin, api_server, f"vn-{secrets.token_hex(4)}")
    text = yaml.safe_dump_all(rights.documents(request.param, one.node_name))
    kubectl("apply", "-f", "-", text=text)
    try:
        yield one
    finally:
        kubectl("delete", "-f", "-", text=text)
        for name in (one.node_name, OTHERS):
            with contextlib.suppress(errors.NotFoundError):
                await admin.delete(NODES, name)


def account_form(test):
    return pytest.mark.parametrize("form", [rights.NODE_IDENTITY], indirect=True, ids=["node identity"])(test)


def service_account_form(test):
    return pytest.mark.parametrize("form", [rights.SERVICE_ACCOUNT], indirect=True, ids=["account"])(test)


async def refused(call, told):
    """By the policy, once it is in force, and that of the test before is not any more."""
    async with asyncio.timeout(IN_FORCE_WITHIN_S):
        while True:
            try:
                await call()
            except errors.InvalidError as error:
                if told in str(error):
                    return
            await asyncio.sleep(0.2)


def signing_request(signer, usage, subject="x"):
    request = signing_requests.Request("r", signer, ("digital signature", usage), f"system:node:{subject}")
    pem = signing_requests.request_pem(signing_requests.new_key(), request)
    return signing_requests.to_object(f"vn-{secrets.token_hex(4)}", request, pem)


IDENTITY = ("kubernetes.io/kube-apiserver-client-kubelet", "client auth")
SERVING = ("kubernetes.io/kubelet-serving", "server auth")
ANYBODY = ("kubernetes.io/kube-apiserver-client", "client auth")


@account_form
async def test_the_account_asks_for_a_nodes_identity_and_shows_its_role_and_no_more(form):
    node = form.node_name
    for name in (node, OTHERS):
        await form.make_node(name)
    async with form.acting_as(ACCOUNT) as account:
        for signer in (SERVING, ANYBODY):
            await refused(
                lambda signer=signer: account.create(REQUESTS, signing_request(*signer)),
                "the identity of a node only",
            )
        asked = await account.create(REQUESTS, signing_request(*IDENTITY))
        with pytest.raises(errors.ForbiddenError):
            await account.patch(
                REQUESTS, asked.metadata.name, signing_requests.approval("a", "b"), subresource="approval"
            )
        role = {"metadata": {"labels": {"node-role.kubernetes.io/agent": "", "kubernetes.io/role": "agent"}}}
        await account.patch(NODES, node, role)
        await account.patch(NODES, node, role)
        for change in (
            {"metadata": {"labels": {"b": "c"}}},
            {"metadata": {"labels": {"a": None}}},
            {"metadata": {"labels": {"a": "c"}}},
            {"metadata": {"annotations": {"a": "b"}}},
            {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}},
            {"spec": {"unschedulable": True}},
        ):
            with pytest.raises(errors.InvalidError, match="the role of its node only"):
                await account.patch(NODES, node, change)
        with pytest.raises(errors.ForbiddenError):
            await account.patch(NODES, OTHERS, role)


@account_form
async def test_whose_identity_is_asked_for_no_policy_sees(form):
    """Which is why docs/how-to/approve-the-node.md has an administrator look at the subject."""
    async with form.acting_as(ACCOUNT) as account:
        await refused(
            lambda: account.create(REQUESTS, signing_request(*SERVING)), "the identity of a node only"
        )
        for subject in (form.node_name, OTHERS):
            await account.create(REQUESTS, signing_request(*IDENTITY, subject=subject))
    of_somebody = await form.admin.create(REQUESTS, signing_request(*ANYBODY))
    async with form.acting_as(ACCOUNT) as account:
        await account.get(REQUESTS, of_somebody.metadata.name)


def test_from_the_guides_account_to_few_rights_the_old_binding_goes_first(kubectl):
    few = yaml.safe_dump_all(rights.documents(rights.NODE_IDENTITY, "vn-once-guide"))
    kubectl("apply", "-f", str(forms.DEPLOY / "guide/vk-sa-rb.yaml"))
    try:
        assert "cannot change roleRef" in kubectl("apply", "-f", "-", text=few, check=False).stderr
        assert bound_role(kubectl) == "cluster-admin"
        kubectl("delete", "clusterrolebinding", "virtual-kubelet-rb")
        kubectl("apply", "-f", "-", text=few)
        assert bound_role(kubectl) == "virtual-kubelet"
    finally:
        kubectl("delete", "--ignore-not-found", "-f", "-", text=few)


def bound_role(kubectl):
    where = ("clusterrolebinding", "virtual-kubelet-rb", "-o", "jsonpath={.roleRef.name}")
    return kubectl("get", *where).stdout


@service_account_form
async def test_the_node_writes_only_what_is_its_own(form, namespace):
    node = form.node_name
    own, others = [await form.make_pod(namespace, name) for name in (node, OTHERS)]
    waiting = await form.make_pod(namespace, "")
    async with form.acting_as(ACCOUNT) as account:
        await refused(
            lambda: account.create(REQUESTS, signing_request(*ANYBODY)),
            "the certificate of a kubelet API only",
        )
        with pytest.raises(errors.InvalidError, match="the nodes of its own name only"):
            await account.create(NODES, {"metadata": {"name": OTHERS}})
        await account.create(NODES, {"metadata": {"name": node}})
        status = {"status": {"nodeInfo": {"kubeletVersion": "v1"}}}
        await account.patch(NODES, node, status, subresource="status")
        await form.make_node(OTHERS)
        with pytest.raises(errors.ForbiddenError):
            await account.patch(NODES, OTHERS, status, subresource="status")
        with pytest.raises(errors.InvalidError, match="the leases of its own name only"):
            await account.create(LEASES, {"metadata": {"name": OTHERS}}, namespace=LEASE_NAMESPACE)
        await account.create(LEASES, {"metadata": {"name": node}}, namespace=LEASE_NAMESPACE)
        await form.admin.create(LEASES, {"metadata": {"name": OTHERS}}, namespace=LEASE_NAMESPACE)
        with pytest.raises(errors.ForbiddenError):
            await account.patch(LEASES, OTHERS, {"spec": {"holderIdentity": "x"}}, namespace=LEASE_NAMESPACE)
        for pod in (others, waiting):
            await refuses_to_touch(account, pod)
        await set_phase(account, own)
        await account.delete(PODS, own.metadata.name, namespace=namespace, grace_period_s=0)
        for signer in (IDENTITY, ANYBODY):
            with pytest.raises(errors.InvalidError, match="the certificate of a kubelet API only"):
                await account.create(REQUESTS, signing_request(*signer))
        asked = await account.create(REQUESTS, signing_request(*SERVING))
        others_request = await form.admin.create(REQUESTS, signing_request(*SERVING))
        for request in (asked, others_request):
            with pytest.raises(errors.ForbiddenError):
                await account.patch(
                    REQUESTS,
                    request.metadata.name,
                    signing_requests.approval("a", "b"),
                    subresource="approval",
                )
    for name in (node, OTHERS):
        await form.admin.delete(LEASES, name, namespace=LEASE_NAMESPACE)


async def set_phase(client, pod):
    change = {"status": {"phase": "Running"}}
    namespace = pod.metadata.namespace
    await client.patch(PODS, pod.metadata.name, change, namespace=namespace, subresource="status")


async def refuses_to_touch(account, pod):
    with pytest.raises(errors.InvalidError, match="its own pods only"):
        await set_phase(account, pod)
    with pytest.raises(errors.InvalidError, match="its own pods only"):
        await account.delete(PODS, pod.metadata.name, namespace=pod.metadata.namespace, grace_period_s=0)


@service_account_form
async def test_instances_get_tokens_and_contents_for_pods_of_their_node_where_they_were_let_in(
    form, namespace, kubectl
):
    own, others = [await form.make_pod(namespace, name) for name in (form.node_name, OTHERS)]
    await form.admin.create(resources.SECRETS, {"metadata": {"name": "a"}}, namespace=namespace)
    async with form.acting_as(INSTANCES) as instances:
        with pytest.raises(errors.ForbiddenError):
            await instances.create_token(own, service_account="default")
        with pytest.raises(errors.ForbiddenError):
            await instances.get(resources.SECRETS, "a", namespace=namespace)
        contents = ("--clusterrole=virtual-kubelet-contents", f"--serviceaccount={NAMESPACE}:{INSTANCES}")
        kubectl("--namespace", namespace, "create", "rolebinding", "virtual-kubelet-contents", *contents)
        await refused(
            lambda: instances.create_token(others, service_account="default"), "this virtual node's pods only"
        )
        async with asyncio.timeout(IN_FORCE_WITHIN_S):
            # The policy knows pods by a watch of its own.
            while not await token_of(instances, own):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        reference = {"apiVersion": "v1", "kind": "Pod", "name": own.metadata.name}
        for spec in (
            {},
            {"boundObjectRef": reference},
            # As of a pod that had this name before.
            {"boundObjectRef": {**reference, "uid": others.metadata.uid}},
            # What the policy has not seen, it cannot compare.
            {"boundObjectRef": {**reference, "name": "unseen"}},
        ):
            with pytest.raises(errors.InvalidError, match="this virtual node's pods only"):
                await ask_for_token(instances, namespace, spec)
        await instances.get(resources.SECRETS, "a", namespace=namespace)
        with pytest.raises(errors.ForbiddenError):
            await instances.list_all(resources.SECRETS, namespace=namespace)
        await set_phase(instances, own)
        with pytest.raises(errors.InvalidError, match="its own pods only"):
            await set_phase(instances, others)


async def ask_for_token(client, namespace, spec):
    path = resources.SERVICE_ACCOUNTS.object_path("default", namespace, "token")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    await client.request("POST", path, body=body)


async def token_of(instances, pod):
    try:
        return await instances.create_token(pod, service_account="default")
    except errors.InvalidError:
        return None


# What nobody may who keeps a node, by R52 and reliability.md.
NEVER = [
    *({"verb": verb, "resource": "secrets"} for verb in ("list", "watch", "create", "delete")),
    *({"verb": verb, "resource": "pods"} for verb in ("create", "patch", "update", "deletecollection")),
    *(
        {"verb": "create", "resource": "pods", "subresource": sub}
        for sub in ("exec", "attach", "eviction", "binding", "ephemeralcontainers")
    ),
    {"verb": "delete", "resource": "nodes"},
    {"verb": "get", "resource": "nodes", "subresource": "proxy", "name": OTHERS},
    {"verb": "patch", "resource": "nodes", "subresource": "status", "name": OTHERS},
    {"verb": "patch", "resource": "leases", "group": "coordination.k8s.io", "name": OTHERS},
    {
        "verb": "update",
        "resource": "certificatesigningrequests",
        "group": "certificates.k8s.io",
        "subresource": "approval",
    },
    *(
        {"verb": verb, "resource": kind, "group": "rbac.authorization.k8s.io"}
        for kind in ("clusterroles", "clusterrolebindings", "roles", "rolebindings")
        for verb in ("create", "patch", "bind", "escalate")
    ),
    {"verb": "impersonate", "resource": "users"},
]


@pytest.mark.parametrize("form", [rights.NODE_IDENTITY, rights.SERVICE_ACCOUNT], indirect=True)
async def test_no_account_may_do_what_nobody_may_who_keeps_a_node(form):
    accounts = [
        access.User(name=f"system:serviceaccount:{NAMESPACE}:{name}") for name in (ACCOUNT, INSTANCES)
    ]
    may = [
        (account.name, asked)
        for account in accounts
        for asked in NEVER
        if await form.admin.review_access(account, access.Attributes(**asked))
    ]
    assert may == []


@pytest.mark.parametrize("path", [rights.NODE_IDENTITY, rights.SERVICE_ACCOUNT], ids=["A", "B"])
def test_the_manifests_name_no_administrator_and_no_star(path):
    given = rights.documents(path, "vn1")
    for one in given:
        assert one.get("roleRef", {}).get("name") != "cluster-admin"
        for rule in one.get("rules", ()):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert rule.get("nonResourceURLs") is None


@pytest.mark.parametrize(
    ("identity", "path"),
    [("leastPrivilege", rights.NODE_IDENTITY), ("serviceAccount", rights.SERVICE_ACCOUNT)],
)
def test_the_chart_and_kustomize_grant_what_the_plain_manifest_does(identity, path, tmp_path):
    values = {**forms.FULL, "identity": identity}
    plain = rights.documents(path, values["nodename"])
    for rendered in (
        forms.render_chart(values, tmp_path).stdout,
        forms.render_kustomize(values, tmp_path),
    ):
        found = forms.objects(rendered)
        of_deployment = {("Deployment", "kube-system", "virtual-kubelet"): None}
        if identity == "serviceAccount":
            of_deployment["ConfigMap", "kube-system", "virtual-kubelet-config"] = None
        assert {key: one for key, one in found.items() if key not in of_deployment} == forms.objects(
            yaml.safe_dump_all(plain)
        )
