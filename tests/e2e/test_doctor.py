"""`kci doctor` on a running line: all is well, and what a test breaks is found, with what mends it."""

import contextlib
import datetime
import json
import pathlib
import signal
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from line import eventually

from kci.kit import pki
from kci.kube import signing_requests
from kci.stack import layout, processes, record

pytestmark = pytest.mark.e2e

NODE = "virtual-kubelet"
# What a stack has none of: its node is given identity, CA and keys.
NOT_OF_A_STACK = {"client CA", "rights of the account", "temporary keys"}


class Report:
    """What one run said."""

    def __init__(self, done):
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)
        self.code = done.returncode
        self.findings = told["findings"]
        assert told["ok"] is (self.code == 0)

    def of(self, *levels):
        return [one for one in self.findings if one["level"] in levels]

    def one(self, area, name, *, has=""):
        """The finding that is not well, or the first."""
        found = [
            one for one in self.findings if (one["area"], one["name"]) == (area, name) and has in one["text"]
        ]
        assert found, f"{area} {name} {has}: {self.findings}"
        return next((one for one in found if one["level"] != "ok"), found[0])


def examine(line):
    argv = [sys.executable, "-m", "kci.cli.main", "doctor", "--state-dir", str(line.state_dir), "-o", "json"]
    return Report(subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False))


def examine_cluster(line, env_file, *flags, kubeconfig=None):
    argv = [sys.executable, "-m", "kci.cli.main", "doctor", "-o", "json"]
    argv += ["--kubeconfig", str(kubeconfig or line.kubeconfig)]
    if env_file is not None:
        argv += ["--env-file", str(env_file)]
    done = subprocess.run(
        line.inside(*argv, "--", *flags), capture_output=True, text=True, timeout=90, check=False
    )
    return Report(done)


def shell(line, command):
    """What the doctor says to type, typed where its user is: on the machine."""
    bin_dir = pathlib.Path(sys.executable).parent
    script = f"export PATH={bin_dir}:$PATH KUBECONFIG={line.kubeconfig}; {command}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def assert_all_well(report):
    assert report.of("wrong") == []
    # Of the machine that the tests run on, whose clock is its own affair.
    assert {one["area"] for one in report.of("warning")} <= {"machine"}
    assert report.code == 0


def test_a_stack_that_runs_is_well_in_every_respect(line):
    report = examine(line)
    assert_all_well(report)
    assert {one["name"] for one in report.of("not looked at")} == NOT_OF_A_STACK
    assert {one["area"] for one in report.findings} == {"machine", "stack", "cluster", "node", "kci"}
    shown = line.kci("doctor")
    assert "the node virtual-kubelet is Ready" in shown
    assert f"{len(report.findings)} looked into" in shown


def test_what_is_broken_around_a_running_stack_is_found_and_mended_by_what_is_to_be_typed(line):
    where = layout.Layout(line.state_dir)
    status = json.loads(line.kci("status", "-o", "json"))
    service_range = record.read_choices(where).service_cidr
    key = pki.new_key()
    request = signing_requests.plan(NODE, status["gateway"])[1]
    sent = signing_requests.request_pem(key, request)
    own, others = (signing_requests.to_object(name, request, sent) for name in ("of-doctor", "of-others"))
    with contextlib.ExitStack() as mended:
        mended.callback(line.run_kubectl, "delete", "csr", "of-doctor", "of-others", "--ignore-not-found")
        mended.callback(line.run_kubectl, "uncordon", NODE)
        line.kubectl(
            "--kubeconfig",
            str(where.node_pki / "kubeconfig"),
            "create",
            "-f",
            "-",
            stdin=json.dumps(own),
        )
        line.kubectl("create", "-f", "-", stdin=json.dumps(others))
        line.kubectl("cordon", NODE)
        line.kubectl("taint", "node", NODE, "virtual-kubelet.io/provider-")
        line.kubectl("delete", "clusterrolebinding", f"kci-node-proxier-{NODE}")
        shell(line, " ".join(line.inside("sysctl", "-w", "net.ipv4.ip_forward=0")))
        shell(line, " ".join(line.inside("ip", "route", "del", "unreachable", service_range)))
        certificate = where.pki / "scheduler.crt"
        mended.callback(certificate.write_bytes, certificate.read_bytes())
        certificate.write_bytes(ended(certificate.read_bytes()))

        broken = examine(line)
        assert broken.code == 1
        seen = [
            broken.one("cluster", "certificate requests", has="of-doctor"),
            broken.one("cluster", "right to Services", has="system:node-proxier"),
            broken.one("node", "Node", has="cordoned"),
            broken.one("node", "taints", has="virtual-kubelet.io/provider"),
            broken.one("stack", "links and routes", has="ip_forward"),
            broken.one("stack", "links and routes", has=service_range),
        ]
        levels = [one["level"] for one in seen]
        assert levels == ["wrong", "warning", "warning", "warning", "wrong", "wrong"], seen
        assert "scheduler.crt ended" in broken.one("stack", "certificates")["text"]
        look, _, approve = seen.pop(0)["remedy"].partition("; then, ")
        assert "Requesting User:" in shell(line, look)
        shell(line, approve.rpartition(": ")[2])
        stranger = broken.one("cluster", "certificate requests", has="of-others")
        assert (stranger["level"], "do not approve" in stranger["remedy"]) == ("warning", True)
        line.kubectl("delete", "csr", "of-others")
        # A kind of answer that nothing was broken of stands as it did.
        assert broken.one("kci", "keys")["level"] == "ok"
        for one in seen:
            shell(line, one["remedy"])
    assert_all_well(eventually(lambda: is_quiet(examine(line)), what="all is well again"))


def is_quiet(report):
    assert report.of("wrong") == []
    return report


def ended(certificate_pem):
    """The same certificate, whose time is over."""
    old, key = x509.load_pem_x509_certificate(certificate_pem), pki.new_key()
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(key.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now - datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def test_programs_that_ended_are_found_by_what_they_leave_undone(line):
    state = record.read_state(line.where)
    kubelet, agent = line.process("virtual-kubelet"), line.process("kcilet")
    with line.paused(state.supervisor):
        for process, number in ((kubelet, signal.SIGTERM), (agent, signal.SIGKILL)):
            processes.send(process, number)
            eventually(lambda process=process: not processes.is_alive(process), what="it has ended")
        not_ready = {"type": "Ready", "status": "False", "reason": "Broken", "message": "by a test"}
        patch = json.dumps({"status": {"conditions": [not_ready]}})
        line.kubectl("patch", "node", NODE, "--subresource=status", "--type=strategic", "-p", patch)
        report = examine(line)
    line.wait_back("virtual-kubelet", kubelet)
    line.wait_back("kcilet", agent)
    assert report.code == 1
    assert report.one("stack", "programs", has="kcilet does not run")["remedy"].endswith("kcilet.log")
    assert "virtual-kubelet.log" in report.one("stack", "programs", has="virtual-kubelet does not")["remedy"]
    assert "nobody holds the Lease" in report.one("node", "Lease")["text"]
    assert "is not Ready: Broken: by a test" in report.one("node", "Node")["text"]
    assert "connection refused" in report.one("node", "kubelet API")["text"]
    assert "is not reached from here" in report.one("node", "serving certificate")["text"]
    line.wait_ready(f"node/{NODE}")


def listed(line, file):
    """The same as kubectl lists them of a Deployment that has them."""
    env = [
        {"name": name, "value": value}
        for name, value in (text.split("=", 1) for text in file.read_text().splitlines())
    ]
    labels = {"app": "of-doctor"}
    container = {"name": "vk", "image": "busybox:latest", "env": env}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    line.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "of-doctor", "namespace": "kube-system"},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        }
    )
    try:
        words = ("-n", "kube-system", "set", "env", "deployment/of-doctor", "--list")
        file.write_text(line.kubectl(*words))
    finally:
        line.kubectl("-n", "kube-system", "delete", "deployment", "of-doctor")
    return file


@pytest.fixture
def told(line, tmp_path):
    """The virtual node's variables in a file, as the guide has them, and its flags."""
    status = json.loads(line.kci("status", "-o", "json"))
    identity = record.read_or_make_identity(line.where)
    variables = dict(
        text.split("=", 1) for text in pathlib.Path(status["env_file"]).read_text().splitlines()
    ) | {
        "KCI_CLUSTER_ID": identity.cluster_id,
        "KCI_SUBNET_ID": identity.subnet_id,
        "KCI_SECURITY_GROUP_IDS": identity.security_group_id,
    }

    def write(**changed):
        file = tmp_path / "node.env"
        kept = {name: value for name, value in (variables | changed).items() if value is not None}
        file.write_text("".join(f"{name}={value}\n" for name, value in kept.items()))
        return file

    return write, (f"--nodename={NODE}", f"--cluster-dns={status['gateway']}")


@pytest.fixture
def guides_account(line):
    """As where a Deployment runs."""
    file = str(pathlib.Path(__file__).parents[2] / "deploy" / "guide" / "vk-sa-rb.yaml")
    line.kubectl("apply", "-f", file)
    yield "virtual-kubelet-rb"
    line.kubectl("delete", "-f", file, "--ignore-not-found")


def test_a_cluster_is_examined_by_its_kubeconfig_and_what_its_node_is_told(line, told, guides_account):
    write, flags = told
    report = examine_cluster(line, listed(line, write()), *flags)
    assert_all_well(report)
    assert {one["area"] for one in report.of("not looked at")} <= {"machine", "stack", "kci"}
    assert report.one("node", "serving certificate")["level"] == "ok"
    account = report.one("cluster", "rights of the account")
    assert account["level"] == "ok"
    assert "system:serviceaccount:kube-system:virtual-kubelet-sa may do" in account["text"]

    line.kubectl("delete", "clusterrolebinding", guides_account)
    wrong = examine_cluster(
        line,
        write(KCI_SECRET_KEY="wrong", KCI_SECURITY_GROUP_IDS="", VKUBELET_TAINT_KEY="example.com/other"),
        *flags,
        "--cluster-domain=other.local",
    )
    account = wrong.one("cluster", "rights of the account", has="may not create certificatesigningrequests")
    assert (account["level"], "node-identity/rights.yaml" in account["remedy"]) == ("wrong", True)
    assert "refuses the keys" in wrong.one("kci", "keys")["text"]
    assert "KCI_SECRET_KEY" in wrong.one("kci", "keys")["remedy"]
    assert "does not know kubernetes.default.svc.other.local" in wrong.one("node", "cluster DNS")["text"]
    assert wrong.one("node", "taints")["level"] == "warning"

    away = examine_cluster(
        line, write(KCI_ENDPOINT="http://nowhere.invalid", KCI_REGION=None, KCI_KUBE_PROXY="yes"), *flags
    )
    assert "its name has no address" in away.one("kci", "endpoint")["text"]
    assert "KCI_REGION" in away.one("node", "settings", has="KCI_REGION")["text"]
    assert "KCI_KUBE_PROXY" in away.one("node", "settings", has="KCI_KUBE_PROXY")["text"]


def test_temporary_keys_subnets_and_the_nodes_own_view_are_examined(line, told):
    write, flags = told
    keys = {"KCI_ACCESS_KEY": None, "KCI_SECRET_KEY": None, "TEMP_AKSK_CM": "of-doctor"}
    own = line.where.node_pki / "kubeconfig"
    missing = examine_cluster(line, write(**keys), *flags, kubeconfig=own)
    assert missing.one("kci", "temporary keys")["level"] == "wrong"
    issued = subprocess.run(
        line.inside(
            sys.executable, "-m", "kci.cli.main", "credentials", "issue", "--name", "of-doctor",
            "--state-dir", str(line.state_dir),
        ),
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    try:
        line.kubectl("apply", "-f", "-", stdin=issued)
        good = examine_cluster(
            line, write(**keys, KCI_SUBNET_ID="11111111-2222-3333-4444-555555555555"), *flags, kubeconfig=own
        )
        assert good.one("kci", "temporary keys")["level"] == "ok"
        assert good.one("kci", "keys")["level"] == "ok"
        assert "the service has no subnet 11111111" in good.one("kci", "subnet")["text"]
        # What a node's own identity may not see is said, and is no fault.
        assert "give an administrator's kubeconfig" in good.one("node", "kubelet API")["text"]
        patch = json.dumps({"data": {"expired_at": "2020-01-01T00:00:00"}})
        line.kubectl("-n", "kube-system", "patch", "configmap", "of-doctor", "-p", patch)
        late = examine_cluster(line, write(**keys), *flags, kubeconfig=own)
        assert "ended at 2020-01-01" in late.one("kci", "temporary keys")["text"]
        assert late.one("kci", "keys")["level"] == "wrong"
    finally:
        for kind in ("configmap/of-doctor", "role/of-doctor-reader", "rolebinding/of-doctor-reader"):
            line.run_kubectl("-n", "kube-system", "delete", kind)
