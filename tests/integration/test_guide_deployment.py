"""The program as the guide deploys it, with its arguments, its variables and its ServiceAccount and nothing
else: at a real API server, with the controllers that approve and sign certificates.
"""

import asyncio
import contextlib
import datetime
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time

import aiohttp
import pytest
import yaml
from cryptography import x509
from vnode_fixture import WITHIN_S, is_ready

from kci.kit import secret, tasks
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import errors, resources, signing_requests, transport
from kci.provider import role

pytestmark = pytest.mark.integration

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"

SECRETS = "/var/run/secrets/kubernetes.io/serviceaccount"
NAMESPACE = "kube-system"
KINDS = {
    "ServiceAccount": resources.SERVICE_ACCOUNTS,
    "ClusterRole": resources.CLUSTER_ROLES,
    "ClusterRoleBinding": resources.CLUSTER_ROLE_BINDINGS,
    **{
        kind: resources.Resource(group, "v1", plural, kind, resources.Raw, namespaced=kind.startswith("Role"))
        for kind, plural, group in (
            ("Role", "roles", "rbac.authorization.k8s.io"),
            ("RoleBinding", "rolebindings", "rbac.authorization.k8s.io"),
            ("ValidatingAdmissionPolicy", "validatingadmissionpolicies", "admissionregistration.k8s.io"),
            (
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
                "admissionregistration.k8s.io",
            ),
        )
    },
}
REQUESTS = resources.CERTIFICATE_SIGNING_REQUESTS
# Long enough for a node to be looked at, short enough to see its certificates renewed.
SHORT_LIFE_S = 12
RENEWED_WITHIN_S = 60


@pytest.fixture
def signing(api_server, request):
    """Certificates live for an hour, or as long as the test says."""
    with api_server.signing(life_s=getattr(request, "param", 3600)):
        yield


def documents(name):
    """Of a manifest that users apply."""
    return [*yaml.safe_load_all((DEPLOY / name).read_text())]


def filled(argument, values):
    return re.sub(r"\$\{(.*?)\}", lambda found: values[found[1]], argument)


class Deployed:
    """The guide's container, by hand: in a mount namespace of its own, where the kubelet's files lie."""

    def __init__(self, line, folder):
        self.line, self.name = line, line.name
        self.account = f"sa-{line.name}"
        self._made = []
        self._folder = folder / "serviceaccount"
        self._log = folder / "virtual-kubelet.log"

    async def create(self, body):
        resource, metadata = KINDS[body["kind"]], body["metadata"]
        namespace = metadata.get("namespace", "")
        self._made.append((resource, metadata["name"], namespace))
        await self.line.admin.create(resource, body, namespace=namespace)

    async def bind(self, manifest):
        """What this manifest says of the account, under a name of the test's own; returns its token."""
        for document in documents(manifest):
            text = filled(json.dumps(document), {"nodename_string": self.line.name})
            for name in (
                "virtual-kubelet-sa",
                "virtual-kubelet-rb",
                "virtual-kubelet-account",
                "virtual-kubelet",
            ):
                text = re.sub(rf'(["\\:]){name}(["\\-])', rf"\g<1>{self.account}\g<2>", text)
            await self.create(json.loads(text))
        return await self.take_token()

    async def take_token(self):
        path = resources.SERVICE_ACCOUNTS.object_path(self.account, NAMESPACE, "token")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
        token = json.loads(await self.line.admin.request("POST", path, body=body))["status"]["token"]
        self._folder.mkdir()
        (self._folder / "token").write_text(token)
        (self._folder / "ca.crt").write_text(self.line.api_server.ca_pem)
        return token

    @contextlib.contextmanager
    def running(self, *more, is_guides_own=False):
        """`is_guides_own`: with the flag that the guide's manifest repeats."""
        line = self.line
        (container,) = [
            document["spec"]["template"]["spec"]["containers"][0]
            for document in documents("guide/vk.yaml")
            if document["kind"] == "Deployment"
        ]
        values = {
            "nodename_string": line.name,
            "cluster-dns_string": "198.18.0.10",
            "virtual-node-dns_string": "198.18.0.53",
            "cluster-domain_string": "cluster.local",
        }
        flags = [filled(argument, values) for argument in container["args"]]
        if is_guides_own:
            flags = [flag.replace("--virtual-node-dns", "--cluster-dns") for flag in flags]
        # Where there is no cloud and 10250 may be taken: KCI_ENDPOINT and KUBELET_PORT besides.
        environment = {
            **{one["name"]: line.environment.get(one["name"], "") for one in container["env"]},
            "KCI_KUBE_PROXY": "false",
            "KCI_ENDPOINT": line.environment["KCI_ENDPOINT"],
            "KUBELET_PORT": line.environment["KUBELET_PORT"],
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(line.api_server.port),
        }
        program = shlex.join([sys.executable, "-m", "kci.provider.main", *flags, *more])
        script = (
            f"mount -t tmpfs none /run && mkdir -p {SECRETS} && "
            f"cp {shlex.quote(str(self._folder))}/* {SECRETS} && exec {program}"
        )
        with (
            self._log.open("ab") as log,
            subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script], env=environment, stderr=log
            ) as running,
        ):
            try:
                yield running
            finally:
                running.terminate()
                running.wait(timeout=WITHIN_S)

    @property
    def log(self):
        return self._log.read_text()

    async def node(self):
        return await self.line.until(self.line.node, is_ready)

    async def kubelet_answer(self, path="/pods"):
        """What the API server's identity gets at the kubelet API; None while TLS does not come about."""
        context = transport.tls_context(self.line.api_server.kubelet_client())
        port = self.line.environment["KUBELET_PORT"]
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector) as session:
            try:
                async with asyncio.timeout(WITHIN_S), session.get(path) as answer:
                    return answer.status
            except aiohttp.ClientError:
                return None

    async def shown(self):
        """The certificate that the kubelet API shows now."""
        context = transport.tls_context(self.line.api_server.admin)
        async with asyncio.timeout(WITHIN_S):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", int(self.line.environment["KUBELET_PORT"]), ssl=context
            )
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
        return x509.load_der_x509_certificate(found)

    async def requests(self, signer=""):
        found = (await self.line.admin.list_all(REQUESTS)).items
        return [
            one
            for one in found
            if one.metadata.name.startswith(f"kci-{self.name}-") and signer in one.spec.signer_name
        ]

    async def events(self, reason):
        path = f"/api/v1/events?fieldSelector=involvedObject.name={self.name},reason={reason}"
        return json.loads(await self.line.admin.request("GET", path))["items"]

    async def approve(self, request):
        """As kubectl does it."""
        approved = {"type": "Approved", "status": "True", "reason": "KubectlApprove", "message": "by hand"}
        await self.line.admin.patch(
            REQUESTS, request.metadata.name, {"status": {"conditions": [approved]}}, subresource="approval"
        )

    async def approve_as_told(self, signer, reason):
        """By who reads what to type."""
        (waiting,) = await self.line.until(lambda: self.requests(signer), bool)
        typed = f"kubectl certificate approve {waiting.metadata.name}"
        (told, *_) = await self.line.until(lambda: self.events(reason), bool)
        assert typed in told["message"]
        assert typed in self.log
        await self.approve(waiting)
        return waiting

    async def clean(self):
        for resource, name, namespace in self._made:
            await self.line.admin.delete(resource, name, namespace=namespace)


@pytest.fixture
async def deployed(line, signing, tmp_path):
    one = Deployed(line, tmp_path)
    yield one
    await one.clean()


async def wanted(line, namespace):
    """What the machine is asked to run, of the one pod."""
    await line.bind(namespace)
    await line.groups(1)
    await line.until_running()
    (found,) = line.service.kcilet.wanted.values()
    return found


def life_of(kubeconfig):
    return x509.load_pem_x509_certificate(configs.parse(kubeconfig).client_certificate_pem.encode())


@pytest.mark.guide("form deployment", "form node", "env KCI_CLUSTER_SERVER", "env KCI_REQUEST_INTERNAL")
async def test_as_cluster_admin_it_becomes_a_node_by_itself_and_hands_on_no_more_than_that(
    deployed, line, namespace
):
    token = await deployed.bind("guide/vk-sa-rb.yaml")
    with deployed.running(is_guides_own=True):
        node = await deployed.node()
        await line.until(line.node, lambda found: not role.missing(found))
        assert node.metadata.labels["type"] == "virtual-kubelet"
        assert [taint.key for taint in node.spec.taints if "provider" in taint.key] == []
        await line.until(deployed.kubelet_answer, lambda status: status == 200)
        assert set(
            (await deployed.shown())
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value.get_values_for_type(x509.DNSName)
        ) == {line.name}
        found = await wanted(line, namespace)
        given = configs.parse(found.cluster.kubeconfig)
        subject = life_of(found.cluster.kubeconfig).subject.rfc4514_string()
        assert subject == f"CN=system:node:{line.name},O=system:nodes"
        assert given.token is None
        assert token not in found.cluster.kubeconfig
        assert given.server == f"https://127.0.0.1:{line.api_server.port}"
        lease = await line.admin.get(resources.LEASES, line.name, namespace="kube-node-lease")
        assert lease.spec.holder_identity
    assert token not in deployed.log
    # What it asked for and has is cleared away again.
    assert await deployed.requests() == []


@pytest.mark.parametrize("signing", [SHORT_LIFE_S], indirect=True)
async def test_its_certificates_are_renewed_without_a_restart(deployed, line, namespace):
    await deployed.bind("guide/vk-sa-rb.yaml")
    with deployed.running() as program:
        await deployed.node()
        await line.until(deployed.kubelet_answer, lambda status: status == 200)
        first, began_s = await deployed.shown(), time.monotonic()
        handed = life_of((await wanted(line, namespace)).cluster.kubeconfig)
        async with asyncio.timeout(RENEWED_WITHIN_S):
            while time.monotonic() < began_s + 2 * SHORT_LIFE_S:
                # Never without one.
                assert await deployed.kubelet_answer() == 200
                await asyncio.sleep(0.5)
        assert (await deployed.shown()).not_valid_after_utc > first.not_valid_after_utc
        await line.bind(namespace, name="later")
        await line.groups(2)
        await line.until(
            line.service.alice.list_container_groups,
            lambda found: [group.status for group in found] == ["Running", "Running"],
        )
        ends = {
            life_of(one.cluster.kubeconfig).not_valid_after_utc for one in line.service.kcilet.wanted.values()
        }
        assert max(ends) > handed.not_valid_after_utc
        assert is_ready(await line.node())
        assert program.poll() is None


@pytest.mark.guide("form deployment")
async def test_an_account_that_may_only_ask_waits_says_what_to_type_and_goes_on(deployed, line, tmp_path):
    token = await deployed.bind("least-privilege/node-identity/rights.yaml")

    with deployed.running():
        asked = await deployed.approve_as_told("client-kubelet", "IdentityNotIssued")
        assert asked.spec.username == f"system:serviceaccount:{NAMESPACE}:{deployed.account}"
        await deployed.node()
        assert await deployed.kubelet_answer() is None
        asked = await deployed.approve_as_told("kubelet-serving", "ServingCertificateNotIssued")
        assert asked.spec.username == f"system:node:{line.name}"
        await line.until(deployed.kubelet_answer, lambda status: status == 200)
        await line.until(line.node, lambda found: not role.missing(found))
    account = configs.ClusterConfig(
        server=line.config.server, ca_pem=line.config.ca_pem, token=secret.Secret(token)
    )
    user = signing_requests.Request(
        "other", "kubernetes.io/kube-apiserver-client", ("digital signature", "client auth"), "somebody"
    )
    pem = signing_requests.request_pem(signing_requests.new_key(), user)
    async with clients.Client(account) as client:
        with pytest.raises(errors.InvalidError, match="the identity of a node only"):
            await client.create(REQUESTS, signing_requests.to_object(f"{deployed.account}-other", user, pem))


@pytest.mark.parametrize("signing", [SHORT_LIFE_S], indirect=True)
async def test_once_approved_a_node_renews_its_identity_by_itself(deployed, line):
    await deployed.bind("least-privilege/node-identity/rights.yaml")
    with deployed.running() as program:
        await deployed.approve_as_told("client-kubelet", "IdentityNotIssued")
        await deployed.node()
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2 * SHORT_LIFE_S)

        async def renewed_at():
            lease = await line.admin.get(resources.LEASES, line.name, namespace="kube-node-lease")
            return datetime.datetime.fromisoformat(lease.spec.renew_time)

        # Nobody approves anything, and the first identity has run out long before.
        async with asyncio.timeout(RENEWED_WITHIN_S):
            while await renewed_at() < later:  # noqa: ASYNC110  (another program's state)
                await asyncio.sleep(0.5)
        assert program.poll() is None
    assert f'"requester": "system:node:{line.name}"' in deployed.log


async def test_while_it_waits_for_its_identity_it_can_be_stopped_and_its_start_limited(deployed, line):
    await deployed.bind("least-privilege/node-identity/rights.yaml")
    with deployed.running() as program:
        await line.until(lambda: deployed.events("IdentityNotIssued"), bool)
    assert program.returncode == 0
    with deployed.running("--startup-timeout=2s") as program:
        assert await tasks.in_thread(program.wait, WITHIN_S) == 1
    assert "it has no identity within --startup-timeout" in deployed.log


async def test_kept_certificates_are_used_again_and_anothers_identity_is_not(deployed, line, tmp_path):
    await deployed.bind("guide/vk-sa-rb.yaml")
    state = tmp_path / "state"
    with deployed.running(f"--state-dir={state}"):
        await deployed.node()
        await line.until(deployed.kubelet_answer, lambda status: status == 200)
    assert {file.name for file in state.iterdir()} == {"node-client.pem", "node-serving.pem"}
    kept = {file: file.read_bytes() for file in state.iterdir()}
    assert "certificate kept" not in deployed.log
    with deployed.running(f"--state-dir={state}"):
        await line.until(deployed.kubelet_answer, lambda status: status == 200)
    assert {file: file.read_bytes() for file in state.iterdir()} == kept
    assert deployed.log.count("certificate kept") == 2
    # Another cluster's, for a node of the same name.
    files = line.authority.issue(f"system:node:{line.name}", "system:nodes")
    client = state / "node-client.pem"
    client.write_bytes(b"".join(file.read_bytes() for file in files))
    with deployed.running(f"--state-dir={state}"):
        await line.until(deployed.kubelet_answer, lambda status: status == 200)
    assert "not known to this cluster" in deployed.log
    assert not client.read_bytes().startswith(files[0].read_bytes())


async def test_the_program_that_runs_the_node_is_refused_on_it(line, namespace):
    async with line.running():
        env = [{"name": "VKUBELET_POD_IP", "value": "10.0.0.1"}]
        container = {"name": "vk", "image": "vk", "args": [f"--nodename={line.name}"], "env": env}
        await line.bind(namespace, name="vk", containers=[container])
        pod = await line.until(
            lambda: line.admin.get(resources.PODS, "vk", namespace=namespace),
            lambda found: found.status.reason,
        )
        assert (pod.status.phase, pod.status.reason) == ("Pending", "OwnNode")
        assert await line.service.alice.list_container_groups() == []


async def test_a_node_without_its_clients_ca_says_so_at_once(line):
    kubeconfig = configs.render(line.config)
    file = line.settings.client_ca_file.with_name("kubeconfig")
    file.write_text(kubeconfig)
    flags = [flag for flag in line.flags if not flag.startswith("--client-ca-file")]
    with line.process(*flags, f"--kubeconfig={file}", **line.environment) as program:
        _, told = await tasks.in_thread(program.communicate, None, WITHIN_S)
    assert program.returncode == 1
    assert "give --client-ca-file" in told
