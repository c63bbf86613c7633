"""Whose signing requests the stack approves, and which certificates it keeps."""

import base64
import datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kci.kube import models
from kci.stack import certificates, node

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
CLIENT, SERVING = node.plan_requests("vn1", "10.88.0.1")
PEM = b"-----BEGIN CERTIFICATE REQUEST-----"


def seen(**changes):
    spec = models.CertificateSigningRequestSpec(
        request=base64.b64encode(PEM).decode(),
        signer_name=SERVING.signer,
        usages=SERVING.usages,
        username="admin",
    )
    return models.CertificateSigningRequest(spec=msgspec.structs.replace(spec, **changes))


def test_its_own_request_is_approved():
    assert not node.refusal(seen(), PEM, SERVING, "admin")


@pytest.mark.parametrize(
    "changes",
    [
        {"username": "mallory"},
        {"signer_name": CLIENT.signer},
        {"usages": (*SERVING.usages, "cert sign")},
        {"request": base64.b64encode(b"another name").decode()},
    ],
)
def test_a_request_that_differs_in_anything_is_not(changes):
    assert node.refusal(seen(**changes), PEM, SERVING, "admin")


def test_the_requests_are_what_the_signers_demand():
    for request in (CLIENT, SERVING):
        pem = certificates.request_pem(ec.generate_private_key(ec.SECP256R1()), request.leaf)
        subject = x509.load_pem_x509_csr(pem).subject.rfc4514_string()
        assert subject == "CN=system:node:vn1,O=system:nodes"
    assert set(SERVING.leaf.server_names) == {"vn1", "10.88.0.1"}


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """The serving certificate, its key, and the authority it came from, as PEM."""
    folder = tmp_path_factory.mktemp("pki")
    certificates.ensure(folder, (), NOW)
    authority_pem = certificates.certificate_path(folder, "ca").read_bytes()
    authority = certificates.Issuer(
        x509.load_pem_x509_certificate(authority_pem),
        certificates.load_key(certificates.key_path(folder, "ca").read_bytes()),
    )
    made = certificates.issue(SERVING.leaf, authority, NOW)
    other = certificates.certificate_path(folder, "etcd-ca").read_bytes()
    pem = made.certificate.public_bytes(serialization.Encoding.PEM)
    return pem, certificates.key_pem(made.key), authority_pem, other


def test_a_certificate_is_kept_while_it_serves_this_node_in_this_cluster(issued):
    certificate, key, authority, other = issued
    assert node.is_kept(certificate, key, SERVING, authority, NOW)
    assert not node.is_kept(certificate, key, SERVING, other, NOW)
    assert not node.is_kept(certificate, key, CLIENT, authority, NOW)
    assert not node.is_kept(certificate, key, SERVING, authority, NOW + datetime.timedelta(days=300))
    assert not node.is_kept(certificate, b"damaged", SERVING, authority, NOW)
    moved = node.plan_requests("vn1", "10.89.0.1")[1]
    assert not node.is_kept(certificate, key, moved, authority, NOW)
