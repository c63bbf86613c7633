"""What the doctor says of a cluster: who asks, rights, signing requests."""

import base64
import datetime
import itertools
import pathlib
import subprocess

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from kci.doctor.findings import cluster, finding
from kci.kit import pki
from kci.kube import access, models, signing_requests
from kci.stack import typed

HERE = typed.USUAL
WELL, WARNING, WRONG = finding.Level.WELL, finding.Level.WARNING, finding.Level.WRONG
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
ROOT = pathlib.Path(__file__).resolve().parents[3]
RIGHTS = ROOT / "deploy" / "least-privilege" / "node-identity" / "rights.yaml"


def certificate_pem(end):
    key = pki.new_key()
    name = pki.subject("somebody")
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(end - 400 * DAY)
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        (cluster.Caller("admin"), WELL, "we are admin"),
        (cluster.Caller("admin", certificate_pem(NOW + 90 * DAY)), WELL, "good until 2026-08-30"),
        (cluster.Caller("admin", certificate_pem(NOW + 9 * DAY)), WARNING, "ends on 2026-06-10"),
        (cluster.Caller("admin", certificate_pem(NOW)), WRONG, "ended at 2026-06-01"),
        (cluster.Caller("system:anonymous"), WRONG, "kubectl config view --minify"),
    ],
)
def test_who_asks_is_told(seen, level, has):
    found = cluster.judge_caller(seen, NOW)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


def test_an_identity_that_the_cluster_does_not_know_is_told_with_its_end_if_that_is_why():
    assert "ended at" in cluster.judge_unknown(certificate_pem(NOW - DAY), NOW).text
    assert "(401)" in cluster.judge_unknown(certificate_pem(NOW + DAY), NOW).text
    assert cluster.judge_unknown("", NOW).level is WRONG


def test_what_answers_is_an_api_server_or_not():
    assert cluster.judge_version("v1.36.3").level is WELL
    assert "certificate" not in cluster.judge_version("").remedy
    assert cluster.judge_version("").level is WRONG


def test_rights_that_are_missing_are_named_with_what_they_are_for():
    rights = cluster.rights_of_node("vk")
    (well,) = cluster.judge_rights("system:node:vk", [], len(rights), remedy="do")
    assert well.level is WELL
    found = cluster.judge_rights("system:node:vk", rights[2:5], len(rights), remedy="do")
    assert [one.text for one in found] == [
        "system:node:vk may not patch nodes/status vk (to say that it is Ready)",
        "system:node:vk may not create leases in kube-node-lease (its heartbeat)",
        "system:node:vk may not patch leases kube-node-lease/vk (its heartbeat)",
    ]
    assert {(one.level, one.remedy) for one in found} == {(WRONG, "do")}


def test_an_account_needs_what_the_manifests_of_least_privilege_give_it():
    rights = cluster.rights_of_account("vk", reads_client_ca=True, finds_server=True)
    assert len(rights) == len({(one.attributes) for one in rights})
    assert {one.attributes for one in rights} == set(granted("vk"))


def granted(node_name):
    """What the account's roles in rights.yaml allow."""
    text = RIGHTS.read_text().replace("${nodename_string}", node_name)
    roles = [one for one in yaml.safe_load_all(text) if one["kind"] in {"ClusterRole", "Role"}]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            for group, resource, name, verb in itertools.product(
                rule["apiGroups"], rule["resources"], rule.get("resourceNames", [""]), rule["verbs"]
            ):
                yield access.Attributes(
                    verb=verb,
                    group=group,
                    resource=resource,
                    name=name,
                    namespace=role["metadata"].get("namespace", ""),
                )


def test_an_account_needs_no_more_than_what_nobody_else_tells():
    few = cluster.rights_of_account("vk", reads_client_ca=False, finds_server=False)
    all_ = cluster.rights_of_account("vk", reads_client_ca=True, finds_server=True)
    assert [str(one) for one in all_[len(few) :]] == [
        "get configmaps kube-system/extension-apiserver-authentication (the CA of the kubelet API's clients)",
        "list endpointslices in default (where instances reach the API server)",
    ]


def test_the_remedy_of_an_account_makes_manifests_for_this_node():
    remedy = cluster.remedy_of_account(cluster.SERVICE_ACCOUNT.user.name, "vk")
    make, pipe, apply = remedy.rpartition(" | ")
    assert (pipe, apply) == (" | ", "kubectl apply -f -")
    made = subprocess.run(
        ["sh", "-c", make], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    ).stdout
    assert "${" not in made
    assert "system:node:vk" in made
    others = cluster.remedy_of_account("system:serviceaccount:kube-system:other", "vk")
    assert "give system:serviceaccount:kube-system:other what" in others


def test_an_account_that_is_not_there_is_told_with_the_option_that_names_another():
    found = cluster.judge_absence(cluster.ServiceAccount("kube-system", "vk-sa"))
    assert found.level is WRONG
    assert "kube-system/vk-sa" in found.text
    assert "--service-account" in found.remedy


def test_a_node_without_the_right_to_services_is_told_the_binding_to_make():
    user = "system:node:vk"
    assert cluster.judge_services(user, HERE, may=True, is_needed=True).level is WELL
    needed = cluster.judge_services(user, HERE, may=False, is_needed=True)
    assert needed.level is WRONG
    assert needed.remedy == (
        "kubectl create clusterrolebinding kci-node-proxier-vk --clusterrole=system:node-proxier "
        "--user=system:node:vk"
    )
    assert cluster.judge_services(user, HERE, may=False, is_needed=False).level is WARNING


ACCOUNT = cluster.SERVICE_ACCOUNT.user.name


def request(name, *, node="vk", what=1, conditions=(), certificate="", by=ACCOUNT):
    one = signing_requests.plan(node, "10.0.0.1")[what]
    sent = signing_requests.request_pem(pki.new_key(), one)
    return models.CertificateSigningRequest(
        metadata=models.ObjectMeta(name=name),
        spec=models.CertificateSigningRequestSpec(
            request=base64.b64encode(sent).decode(), signer_name=one.signer, username=by
        ),
        status=models.CertificateSigningRequestStatus(certificate=certificate, conditions=conditions),
    )


def condition(kind):
    return (models.PodCondition(type=kind, status="True", message="by me"),)


def test_requests_of_the_node_that_wait_are_told_with_the_line_that_approves_them():
    others = request("others", node="another")
    (well,) = cluster.judge_requests([others], "vk", ACCOUNT, HERE)
    assert well.level is WELL
    (well,) = cluster.judge_requests(
        [request("got", certificate="x", conditions=condition("Approved"))], "vk", ACCOUNT, HERE
    )
    assert well.level is WELL
    found = cluster.judge_requests(
        [
            others,
            request("first", what=0),
            request("slow", conditions=condition("Approved")),
            request("no", conditions=condition("Denied")),
            request("own", by="system:node:vk"),
        ],
        "vk",
        ACCOUNT,
        HERE,
    )
    assert [one.level for one in found] == [WRONG, WRONG, WARNING, WRONG]
    assert found[0].remedy.endswith("kubectl certificate approve first")
    assert found[3].remedy.endswith("kubectl certificate approve own")
    assert "--cluster-signing-cert-file" in found[1].remedy
    assert "refused (denied: by me)" in found[2].text


def test_whoever_pastes_the_remedy_of_a_request_approves_nothing(tmp_path):
    (found,) = cluster.judge_requests([request("first")], "vk", ACCOUNT, HERE)
    assert found.remedy.startswith("kubectl describe csr first; ")
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\necho "$*" >> "$0.calls"\n')
    kubectl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", found.remedy], env=environment, capture_output=True, timeout=20, check=False)
    calls = tmp_path / "kubectl.calls"
    assert "approve" not in (calls.read_text() if calls.exists() else "")


@pytest.mark.parametrize("what", [0, 1])
@pytest.mark.parametrize("conditions", [(), condition("Approved")])
def test_a_request_that_somebody_else_sent_in_the_nodes_name_is_a_warning_not_to_approve_it(what, conditions):
    mallory = "system:serviceaccount:dev:mallory"
    evil = request("evil", what=what, conditions=conditions, by=mallory)
    (found,) = cluster.judge_requests([evil], "vk", ACCOUNT, HERE)
    assert found.level is WARNING
    assert f"somebody else asks in the node's name: {mallory} sent the request evil" in found.text
    assert found.remedy == "do not approve it, look who that is: kubectl describe csr evil"


def test_a_request_of_somebody_else_that_was_refused_is_nobodys_to_delete():
    evil = request("evil", conditions=condition("Denied"), by="mallory")
    assert [one.level for one in cluster.judge_requests([evil], "vk", ACCOUNT, HERE)] == [WELL]


def test_a_request_that_is_none_of_a_nodes_is_passed_over():
    strange = models.CertificateSigningRequest(
        spec=models.CertificateSigningRequestSpec(request="AAAA", signer_name=signing_requests.SERVING_SIGNER)
    )
    foreign = models.CertificateSigningRequest(
        spec=models.CertificateSigningRequestSpec(request="", signer_name="example.com/signer")
    )
    assert signing_requests.node_of(strange) == ""
    assert signing_requests.node_of(foreign) == ""


@pytest.mark.parametrize("data", [None, {}, {"client-ca-file": ""}])
def test_a_cluster_without_a_ca_of_clients_is_told(data):
    assert cluster.judge_client_ca(data).level is WRONG


def test_a_cluster_with_a_ca_of_clients_is_well():
    assert cluster.judge_client_ca({"client-ca-file": "PEM"}).level is WELL
