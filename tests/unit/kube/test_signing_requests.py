"""What a node asks for, whose signing requests are approved, and which certificates are kept."""

import base64
import datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from kci.kit import pki
from kci.kube import models, signing_requests
from kci.stack import certificates

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
CLIENT, SERVING = signing_requests.plan("vn1", "10.88.0.1")
PEM = b"-----BEGIN CERTIFICATE REQUEST-----"


def seen(*conditions, certificate=b"", **changes):
    spec = models.CertificateSigningRequestSpec(
        request=base64.b64encode(PEM).decode(),
        signer_name=SERVING.signer,
        usages=SERVING.usages,
        username="admin",
    )
    status = models.CertificateSigningRequestStatus(
        certificate=base64.b64encode(certificate).decode(),
        conditions=tuple(
            models.PodCondition(type=kind, status="True", message=f"{kind}!") for kind in conditions
        ),
    )
    return models.CertificateSigningRequest(spec=msgspec.structs.replace(spec, **changes), status=status)


def test_its_own_request_is_approved():
    assert not signing_requests.refusal(seen(), PEM, SERVING, "admin")


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
    assert signing_requests.refusal(seen(**changes), PEM, SERVING, "admin")


def test_the_requests_are_what_the_signers_demand():
    for request in (CLIENT, SERVING):
        pem = signing_requests.request_pem(pki.new_key(), request)
        assert x509.load_pem_x509_csr(pem).subject.rfc4514_string() == "CN=system:node:vn1,O=system:nodes"
    assert set(SERVING.server_names) == {"vn1", "10.88.0.1"}
    assert CLIENT.server_names == ()


@pytest.mark.parametrize(
    ("conditions", "certificate", "outlook"),
    [
        ((), b"", signing_requests.Outlook.WAITS),
        (("Approved",), b"", signing_requests.Outlook.APPROVED),
        (("Approved",), b"x", signing_requests.Outlook.ISSUED),
        (("Denied",), b"", signing_requests.Outlook.REFUSED),
        (("Approved", "Failed"), b"", signing_requests.Outlook.REFUSED),
    ],
)
def test_what_became_of_a_request_is_read_from_its_conditions(conditions, certificate, outlook):
    found, why = signing_requests.outlook(seen(*conditions, certificate=certificate))
    assert found is outlook
    assert why == (f"{conditions[-1].lower()}: {conditions[-1]}!" if outlook.value == "refused" else "")


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """The serving certificate with its key, the authority it came from and another one."""
    folder = tmp_path_factory.mktemp("pki")
    certificates.ensure(folder, (), NOW)
    authority_pem = certificates.certificate_path(folder, "ca").read_bytes()
    authority = certificates.Issuer(
        x509.load_pem_x509_certificate(authority_pem),
        pki.load_key(certificates.key_path(folder, "ca").read_bytes()),
    )
    leaf = certificates.Leaf(
        "serving", "ca", SERVING.user, signing_requests.GROUP, server_names=SERVING.server_names
    )
    made = certificates.issue(leaf, authority, NOW)
    pem = made.certificate.public_bytes(serialization.Encoding.PEM)
    other = certificates.certificate_path(folder, "etcd-ca").read_bytes()
    return signing_requests.Pair(pem, pki.key_pem(made.key)), authority_pem, other


def test_a_certificate_is_kept_while_it_serves_this_node_in_this_cluster(issued):
    pair, authority, other = issued

    def is_kept(pair, request, authority, now=NOW):
        return signing_requests.is_kept(pair, request, authority, now, renew_at=0.6)

    assert is_kept(pair, SERVING, authority)
    assert not is_kept(pair, SERVING, other)
    assert not is_kept(pair, SERVING, b"no certificate")
    assert not is_kept(pair, CLIENT, authority)
    assert not is_kept(pair, SERVING, authority, NOW + datetime.timedelta(days=300))
    assert not is_kept(signing_requests.Pair(pair.certificate_pem, b"damaged"), SERVING, authority)
    moved = signing_requests.plan("vn1", "10.89.0.1")[1]
    assert not is_kept(pair, moved, authority)


def test_what_is_issued_must_be_what_was_asked_for(issued):
    pair, _, _ = issued
    key = pki.load_key(pair.key_pem)
    assert signing_requests.issued(seen(certificate=pair.certificate_pem), SERVING, key) == pair
    for request, other_key, certificate in (
        (CLIENT, key, pair.certificate_pem),
        (SERVING, pki.new_key(), pair.certificate_pem),
        (SERVING, key, b"damaged"),
    ):
        assert isinstance(signing_requests.issued(seen(certificate=certificate), request, other_key), str)


@given(share=st.floats(0.1, 0.9), known_s=st.integers(0, 400 * 24 * 3600))
def test_a_renewal_comes_within_the_life_that_is_left_since_it_is_had(issued, share, known_s):
    pair, _, _ = issued
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert begin < signing_requests.renewal(pair, since=None, share=share) < end
    since = NOW + datetime.timedelta(seconds=known_s)
    renewal = signing_requests.renewal(pair, since=since, share=share)
    assert min(since, end) <= renewal <= end


def test_a_short_life_counts_from_when_it_was_had_not_from_where_it_was_dated_back_to(issued):
    pair, _, _ = issued
    late = NOW + datetime.timedelta(days=364)
    assert signing_requests.renewal(pair, since=late, share=0.8) > late
    assert signing_requests.renewal(pair, since=None, share=0.8) < late
    assert not signing_requests.is_over(pair, late)
    assert signing_requests.is_over(pair, NOW + datetime.timedelta(days=366))
