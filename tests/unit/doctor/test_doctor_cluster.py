"""What the doctor says of a cluster: who asks, rights, signing requests."""

import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from kci.doctor.findings import cluster, finding
from kci.kit import pki
from kci.kube import models, signing_requests

WELL, WARNING, WRONG = finding.Level.WELL, finding.Level.WARNING, finding.Level.WRONG
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


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


def test_an_account_needs_the_client_ca_only_where_no_file_has_it():
    assert len(cluster.rights_of_account(reads_client_ca=False)) == 2
    with_ca = cluster.rights_of_account(reads_client_ca=True)[-1]
    assert "kube-system/extension-apiserver-authentication" in str(with_ca)


def test_a_node_without_the_right_to_services_is_told_the_binding_to_make():
    user = "system:node:vk"
    assert cluster.judge_services(user, may=True, is_needed=True).level is WELL
    needed = cluster.judge_services(user, may=False, is_needed=True)
    assert needed.level is WRONG
    assert needed.remedy == (
        "kubectl create clusterrolebinding kci-node-proxier-vk --clusterrole=system:node-proxier "
        "--user=system:node:vk"
    )
    assert cluster.judge_services(user, may=False, is_needed=False).level is WARNING


def request(name, *, node="vk", what=1, conditions=(), certificate=""):
    one = signing_requests.plan(node, "10.0.0.1")[what]
    sent = signing_requests.request_pem(pki.new_key(), one)
    return models.CertificateSigningRequest(
        metadata=models.ObjectMeta(name=name),
        spec=models.CertificateSigningRequestSpec(
            request=base64.b64encode(sent).decode(), signer_name=one.signer, username="somebody"
        ),
        status=models.CertificateSigningRequestStatus(certificate=certificate, conditions=conditions),
    )


def condition(kind):
    return (models.PodCondition(type=kind, status="True", message="by me"),)


def test_requests_of_the_node_that_wait_are_told_with_the_line_that_approves_them():
    others = request("others", node="another")
    (well,) = cluster.judge_requests([others], "vk")
    assert well.level is WELL
    (well,) = cluster.judge_requests(
        [request("got", certificate="x", conditions=condition("Approved"))], "vk"
    )
    assert well.level is WELL
    found = cluster.judge_requests(
        [
            others,
            request("first", what=0),
            request("slow", conditions=condition("Approved")),
            request("no", conditions=condition("Denied")),
        ],
        "vk",
    )
    assert [one.level for one in found] == [WRONG, WRONG, WARNING]
    assert found[0].remedy.endswith("kubectl certificate approve first")
    assert "--cluster-signing-cert-file" in found[1].remedy
    assert "refused (denied: by me)" in found[2].text


def test_a_request_that_is_none_of_a_nodes_is_passed_over():
    strange = models.CertificateSigningRequest(
        spec=models.CertificateSigningRequestSpec(request="AAAA", signer_name=signing_requests.SERVING_SIGNER)
    )
    foreign = models.CertificateSigningRequest(
        spec=models.CertificateSigningRequestSpec(request="", signer_name="example.com/signer")
    )
    assert not cluster.is_of_node(strange, "vk")
    assert not cluster.is_of_node(foreign, "vk")


@pytest.mark.parametrize("data", [None, {}, {"client-ca-file": ""}])
def test_a_cluster_without_a_ca_of_clients_is_told(data):
    assert cluster.judge_client_ca(data).level is WRONG


def test_a_cluster_with_a_ca_of_clients_is_well():
    assert cluster.judge_client_ca({"client-ca-file": "PEM"}).level is WELL
