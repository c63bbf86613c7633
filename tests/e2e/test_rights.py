"""What the virtual node and its instances use of what they are granted: exactly that, in each form (R52).

One pod's life with all that it is made of, and what goes wrong with others, under three identities, one after
the other in one cluster: the node identity that `kci up` gives, the same asked for by an account (form A of
deploy/least-privilege), and a ServiceAccount that acts as the node (form B). The API server's audit log says
what was asked for, and with which answer. What the forms refuse is in tests/integration/test_rights.py.
"""

import contextlib
import json
import pathlib
import shlex
import subprocess
import sys
import urllib.parse

import line as lines
import pytest
import rights
import yaml
from line import IDLE, eventually, pod

from kci.kube import config as configs
from kci.provider import role
from kci.stack import certificates

pytestmark = [pytest.mark.e2e, pytest.mark.requirement("R52")]

STACKS_NODE = "virtual-kubelet"
NAMESPACE = "kube-system"
ACCOUNT, INSTANCES = "virtual-kubelet-sa", "virtual-kubelet-instances"
TOKEN_FILES = "/var/run/secrets/kubernetes.io/serviceaccount"
PORT = 10251
KUBE_PROXY = "k8s.ksyun.com/kci-kube-proxy-enabled"
KEYS = "user-temp-aksk"
KEYS_ROLES = rights.DEPLOY / "kustomize" / "temporary-keys" / "roles.yaml"
# Kubernetes' own roles are larger than what we use of them: whoever has them is a node, or a kube-proxy.
OF_KUBERNETES = ("system:node", "system:node-proxier")
RENEWAL = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"
REQUESTS = "certificatesigningrequests.certificates.k8s.io"
# Granted, and used on no straight way.
UNUSED = {
    f"get configmaps {NAMESPACE}/{KEYS}": "looked at once more when the service calls the keys expired",
    "patch events": "the same Event told again; of the node that takes a service that is down for long",
    f"create {REQUESTS}/selfnodeclient": "asked about by kube-controller-manager, not used by the node",
}
# Tried, since that is how to find out whether one may; without it all works.
TRIED = {
    f"patch {REQUESTS}/approval": "a guide's node approves its own serving certificate",
    f"delete {REQUESTS}": "a guide's node removes its requests; the cluster does it later",
    "list configmaps": "who may not watch an object reads it by its name",
    "list secrets": "the same",
}


@pytest.fixture(scope="module")
def stack():
    """A stack whose API server tells everything that nodes and accounts ask for."""
    stack = lines.new_line()
    try:
        stack.kci("up", "--detach", "--netns", stack.netns, "--audit")
        yield stack
    finally:
        stack.kci("down", "--purge", check=False)


class Deployed:
    """A second virtual node, run as a Deployment would: with a ServiceAccount's files, and variables."""

    def __init__(self, line, name, folder):
        self.line, self.name = line, name
        self._folder = folder
        self._log = folder / "virtual-kubelet.log"
        self._server = configs.load(line.kubeconfig).server
        self._ca = certificates.certificate_path(line.where.pki, "ca")

    def token(self, account):
        return self.line.kubectl(
            "create", "token", account, "--namespace", NAMESPACE, "--duration=1h"
        ).strip()

    def instance_kubeconfig(self):
        """What an administrator makes for form B, as docs/how-to/deploy-the-node.md says; the flag that names
        it.
        """
        kubeconfig, config = self._folder / "kubeconfig", self._folder / "config.yaml"
        for words in (
            (
                "set-cluster",
                "c",
                "--server",
                self._server,
                "--certificate-authority",
                self._ca,
                "--embed-certs",
            ),
            ("set-credentials", "u", "--token", self.token(INSTANCES)),
            ("set-context", "c", "--cluster", "c", "--user", "u"),
            ("use-context", "c"),
        ):
            command = (lines.find_kubectl(), "config", "--kubeconfig", kubeconfig, *words)
            subprocess.run(command, capture_output=True, timeout=30, check=True)
        config.write_text(json.dumps({"kciletKubeconfigPath": str(kubeconfig)}))
        return f"--provider-config={config}"

    @contextlib.contextmanager
    def running(self, *flags, **variables):
        files = self._folder / "serviceaccount"
        files.mkdir(exist_ok=True)
        (files / "token").write_text(self.token(ACCOUNT))
        (files / "ca.crt").write_text(self._ca.read_text())
        flags = [
            "--provider=kingsoftcloud",
            f"--nodename={self.name}",
            "--enable-node-lease",
            f"--state-dir={self._folder / 'state'}",
            *flags,
        ]
        script = (
            f"mount -t tmpfs none /run && mkdir -p {TOKEN_FILES} && "
            f"cp {shlex.quote(str(files))}/* {TOKEN_FILES} && "
            f"exec {shlex.join([sys.executable, '-P', '-m', 'kci.provider.main', *flags])}"
        )
        command = self.line.inside("unshare", "--mount", "sh", "-c", script)
        with (
            self._log.open("ab") as log,
            subprocess.Popen(
                command, env={**self._environment(), **variables}, stdout=log, stderr=log
            ) as running,
        ):
            try:
                yield
            finally:
                running.terminate()
                running.wait(timeout=30)

    def _environment(self):
        """The stack's node's, but for what a Deployment would not give or gives otherwise."""
        process = self.line.process("virtual-kubelet")
        text = pathlib.Path(f"/proc/{process.pid}/environ").read_text().rstrip("\0")
        server = urllib.parse.urlsplit(self._server)
        others = {
            "KCI_ACCESS_KEY",
            "KCI_SECRET_KEY",
            "KCI_CLUSTER_SERVER",
            "VKUBELET_IDENTITY_FILE",
        }
        return {
            **{
                name: value
                for name, value in (one.split("=", 1) for one in text.split("\0"))
                if name not in others
            },
            "TEMP_AKSK_CM": KEYS,
            "KUBELET_PORT": str(PORT),
            "KUBERNETES_SERVICE_HOST": server.hostname,
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }

    def approve(self, what):
        """As an administrator does who waits for the request."""

        def waiting():
            found = self.line.get("certificatesigningrequests")["items"]
            names = [one["metadata"]["name"] for one in found if not one["status"].get("conditions")]
            return [name for name in names if name.startswith(f"kci-{self.name}-{what}-")]

        (name,) = eventually(waiting, what=f"{self.name} asks for its {what} certificate")
        self.line.kubectl("certificate", "approve", name)

    def wait_told(self, reason):
        selector = f"involvedObject.name={self.name},reason={reason}"
        eventually(lambda: self.line.get("events", "--field-selector", selector)["items"], what=reason)

    def wait_ready(self):
        eventually(lambda: node(self.line, self.name), what=f"the node {self.name} is there")
        self.line.wait_ready(f"node/{self.name}")

    def wait_role(self):
        eventually(
            lambda: role.LABELS.items() <= node(self.line, self.name)["metadata"]["labels"].items(),
            what="the node shows its role",
        )

    def remove(self):
        self.line.kubectl("delete", "node", self.name, "--ignore-not-found")


def node(line, name):
    found = line.get("nodes", "--field-selector", f"metadata.name={name}")["items"]
    return found[0] if found else None


@pytest.fixture
def granted(stack, request):
    """The rights of a form, in the cluster: what the manifests say, filled in for a node of that name."""
    path, name = request.param
    objects = rights.documents(path, name)
    objects += yaml.safe_load_all(KEYS_ROLES.read_text().replace("NAME", KEYS))
    if path == rights.SERVICE_ACCOUNT:
        objects.append(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "virtual-kubelet-contents", "namespace": "default"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "virtual-kubelet-contents",
                },
                "subjects": [{"kind": "ServiceAccount", "name": INSTANCES, "namespace": NAMESPACE}],
            }
        )
    stack.apply(*objects)
    yield objects
    stack.kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(objects))


@pytest.fixture
def keys(stack):
    """Temporary keys of the stack's service, without anybody's right to them."""
    command = stack.inside(
        str(lines.BIN / "kci"), "credentials", "issue", "--state-dir", str(stack.state_dir)
    )
    issued = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    stack.apply(*(one for one in json.loads(issued)["items"] if one["kind"] == "ConfigMap"))


def rules_of_kubernetes(line):
    names = (*OF_KUBERNETES, RENEWAL)
    return {name: line.get("clusterrole", name)["rules"] for name in names}


def work(line, name):
    """A pod's life on this node, from what it is made of to its end, and others that come to nothing."""

    def on(what, command=IDLE, **spec):
        return pod(f"{name}-{what}", command, nodeSelector={"kubernetes.io/hostname": name}, **spec)

    parts = {"name": "parts"}
    line.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": parts, "data": {"COLOR": "blue"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": parts, "stringData": {"word": "open"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": parts, "spec": {"ports": [{"port": 80}]}},
        on(
            "worker",
            f"test -e /once/it || {{ touch /once/it; exit 1; }}; {IDLE}",
            metadata={"annotations": {KUBE_PROXY: "true"}},
            container={
                "envFrom": [{"configMapRef": parts}],
                "env": [{"name": "WORD", "valueFrom": {"secretKeyRef": {**parts, "key": "word"}}}],
                "volumeMounts": [
                    {"name": what, "mountPath": f"/{what}"} for what in ("once", "config", "secret")
                ],
            },
            volumes=[
                {"name": "once", "emptyDir": {}},
                {"name": "config", "configMap": parts},
                {"name": "secret", "secret": {"secretName": "parts"}},
            ],
        ),
        on("waiting", volumes=[{"name": "missing", "configMap": {"name": "missing"}}]),
        on("refused", hostNetwork=True),
    )
    worker = f"{name}-worker"
    line.wait_ready(f"pod/{worker}")
    assert lines.restarts(line.get("pod", worker)) == 1
    shown = "echo $COLOR $WORD; cat /config/COLOR /secret/word; test -s " + f"{TOKEN_FILES}/token"
    assert line.kubectl("exec", worker, "--", "sh", "-c", shown).split() == ["blue", "open", "blueopen"]
    assert line.kubectl("logs", worker) == ""
    assert status_of_kubelet_api(line, name) == 403
    eventually(lambda: line.get("pod", f"{name}-refused")["status"].get("reason"), what="it is refused")
    line.kubectl("label", "node", name, "kubernetes.io/os-")
    eventually(lambda: "kubernetes.io/os" in node(line, name)["metadata"]["labels"], what="its label is back")
    told = ("events", "--field-selector", f"involvedObject.name={name}-waiting,reason=FailedMount")
    eventually(lambda: any(one["count"] > 1 for one in line.get(*told)["items"]), what="it is told again")


def end(line, name):
    line.kubectl("delete", "pods", *(f"{name}-{what}" for what in ("worker", "waiting", "refused")))


def status_of_kubelet_api(line, name):
    """What somebody gets there who has a token, and no rights."""
    token = line.kubectl("create", "token", "default").strip()
    status = node(line, name)["status"]
    (address,) = (one["address"] for one in status["addresses"] if one["type"] == "InternalIP")
    url = f"https://{address}:{status['daemonEndpoints']['kubeletEndpoint']['Port']}/pods"
    code = (
        "import http.client, ssl, sys, urllib.parse as p; u = p.urlsplit(sys.argv[1]);"
        "c = http.client.HTTPSConnection(u.netloc, context=ssl._create_unverified_context(), timeout=10);"
        "c.request('GET', u.path, headers={'Authorization': 'Bearer ' + sys.argv[2]});"
        "print(c.getresponse().status)"
    )
    command = line.inside(sys.executable, "-c", code, url, token)
    return int(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)


def check(line, user, has, begin=0):
    """What it used is what it has, since the log had so many entries."""
    uses = [use for use in rights.used(line.where.audit_log)[begin:] if use.user == user]
    allowed = {use for use in uses if use.is_allowed and use.resource not in rights.EVERYBODYS}
    assert allowed, f"{user} did nothing"
    assert sorted(str(use) for use in allowed if not any(right.covers(use) for right in has)) == []
    idle = [right for right in has if not any(right.covers(use) for use in allowed)]
    of_kubernetes = {right.role for right in has} & set(OF_KUBERNETES)
    assert of_kubernetes - {right.role for right in set(has) - set(idle)} == set()
    idle = [right for right in idle if right.role not in OF_KUBERNETES]
    assert (
        sorted(str(one) for one in idle if not {f"{one.verb} {one.resource}", str(one)} & UNUSED.keys()) == []
    )
    # The Node authorizer learns of a pod a moment after the node.
    refused = {use for use in uses if not use.is_allowed} - {replace_answer(use) for use in allowed}
    assert sorted(str(use) for use in refused if f"{use.verb} {use.resource}" not in TRIED) == []


def replace_answer(use):
    return rights.Use(use.user, use.verb, use.resource, use.namespace, use.name, is_allowed=False)


def node_rights(line, objects, name):
    """The Node authorizer's, which are those of a ClusterRole that nobody is bound to, and our bindings'."""
    known = rules_of_kubernetes(line)
    of_node = rights.rights(known["system:node"], role="system:node")
    return {*of_node, *rights.granted(objects, f"system:node:{name}", known=known)}


def test_the_node_of_kci_up_needs_what_every_node_has(stack):
    work(stack, STACKS_NODE)
    stack.wait_back("virtual-kubelet", stack.kill("virtual-kubelet"))
    end(stack, STACKS_NODE)
    bindings = [
        one
        for one in stack.get("clusterrolebindings")["items"]
        if any(subject["name"] == f"system:node:{STACKS_NODE}" for subject in one.get("subjects", ()))
    ]
    check(stack, f"system:node:{STACKS_NODE}", node_rights(stack, bindings, STACKS_NODE))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("granted", [(rights.NODE_IDENTITY, "asks")], indirect=True, ids=["node identity"])
def test_an_account_that_asks_for_the_nodes_identity_needs_all_it_has(stack, granted, tmp_path):
    deployed = Deployed(stack, "asks", tmp_path)
    with deployed.running():
        deployed.approve("client")
        deployed.wait_told("ServingCertificateNotIssued")
        deployed.approve("serving")
        deployed.wait_ready()
        work(stack, "asks")
        deployed.wait_role()
        end(stack, "asks")
    deployed.remove()
    check(stack, account(ACCOUNT), rights.granted(granted, account(ACCOUNT)))
    check(stack, "system:node:asks", node_rights(stack, granted, "asks"))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("granted", [(rights.SERVICE_ACCOUNT, "acts")], indirect=True, ids=["account"])
def test_an_account_that_acts_as_the_node_needs_all_it_has(stack, granted, tmp_path):
    begin = len(rights.used(stack.where.audit_log))
    deployed = Deployed(stack, "acts", tmp_path)
    kubeconfig = deployed.instance_kubeconfig()
    # In a cluster, the kubeconfig's server is not the address that the program's own pod is told.
    server = {"KCI_CLUSTER_SERVER": urllib.parse.urlsplit(configs.load(stack.kubeconfig).server).netloc}
    with deployed.running(kubeconfig, **server):
        deployed.wait_ready()
        deployed.approve("serving")
        work(stack, "acts")
        deployed.wait_role()
    with deployed.running(kubeconfig, **server):
        # Whoever begins anew looks at what is there.
        stack.wait_back("kcilet", stack.kill("kcilet"))
        end(stack, "acts")
    deployed.remove()
    for name in (ACCOUNT, INSTANCES):
        check(stack, account(name), rights.granted(granted, account(name)), begin)


def account(name):
    return f"system:serviceaccount:{NAMESPACE}:{name}"
