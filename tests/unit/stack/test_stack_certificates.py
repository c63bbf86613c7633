import datetime
import pathlib
import stat
import tempfile

import hypothesis
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from kci.kube import signing_requests
from kci.stack import certificates, node

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LEAVES = certificates.plan_leaves(
    gateway="10.88.0.1", first_service_address="10.152.0.1", cluster_domain="cluster.local"
)


def load(folder, name):
    return x509.load_pem_x509_certificate(certificates.certificate_path(folder, name).read_bytes())


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    certificates.ensure(folder, LEAVES, NOW)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_api_server_serves_all_names_that_clients_know_it_by(pki):
    assert certificates.server_names(load(pki, "apiserver")) == {
        "10.88.0.1",
        "127.0.0.1",
        "10.152.0.1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    }


def test_every_certificate_comes_from_its_authority_and_no_other(pki):
    for leaf in LEAVES:
        issued_by = {
            authority.name
            for authority in certificates.AUTHORITIES
            if certificates.is_issued_by(load(pki, leaf.name), load(pki, authority.name))
        }
        assert issued_by == {leaf.authority}


def test_only_root_reads_the_files(pki):
    assert {stat.S_IMODE(path.stat().st_mode) for path in pki.iterdir()} == {0o600}


def test_a_second_start_keeps_everything(pki):
    before = content(pki)
    certificates.ensure(pki, LEAVES, NOW + datetime.timedelta(days=100))
    assert content(pki) == before


def test_what_nearly_expired_is_renewed_under_the_same_authority(tmp_path):
    certificates.ensure(tmp_path, LEAVES, NOW)
    before = content(tmp_path)
    certificates.ensure(tmp_path, LEAVES, NOW + datetime.timedelta(days=300))
    after = content(tmp_path)
    assert after["ca.crt"] == before["ca.crt"]
    assert all(after[f"{leaf.name}.crt"] != before[f"{leaf.name}.crt"] for leaf in LEAVES)


def test_a_new_gateway_renews_the_certificates_that_name_it_and_no_other(tmp_path):
    certificates.ensure(tmp_path, LEAVES, NOW)
    before = content(tmp_path)
    moved = certificates.plan_leaves(
        gateway="10.89.0.1", first_service_address="10.152.0.1", cluster_domain="cluster.local"
    )
    certificates.ensure(tmp_path, moved, NOW)
    after = content(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {
        f"{name}.{kind}" for name in ("apiserver", "metrics-server") for kind in ("crt", "key")
    }


def test_a_damaged_key_is_replaced_with_its_certificate(tmp_path):
    certificates.ensure(tmp_path, LEAVES, NOW)
    certificates.key_path(tmp_path, "admin").write_text("damaged")
    certificates.ensure(tmp_path, LEAVES, NOW)
    key = certificates.load_key(certificates.key_path(tmp_path, "admin").read_bytes())
    assert key.public_key() == load(tmp_path, "admin").public_key()


CLIENT = signing_requests.plan("vk", "10.88.0.1")[0]
GAPS = st.lists(st.timedeltas(datetime.timedelta(0), certificates.START_EVERY), max_size=30)


def issued_by_cluster(folder, now):
    """As kube-controller-manager issues it: for a year."""
    ca = load(folder, "ca")
    key = certificates.load_key(certificates.key_path(folder, "ca").read_bytes())
    leaf = certificates.Leaf("client", "ca", CLIENT.user, signing_requests.GROUP, client=True)
    issued = certificates.issue(leaf, certificates.Issuer(ca, key), now)
    return signing_requests.Pair(
        issued.certificate.public_bytes(serialization.Encoding.PEM), certificates.key_pem(issued.key)
    )


@hypothesis.settings(max_examples=20)
@given(gaps=GAPS)
def test_no_certificate_ends_between_two_starts_at_the_documented_interval(gaps):
    """Over years, so that authorities are renewed as well; the node's own included."""
    now, own = NOW, None
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for gap in (*gaps, datetime.timedelta(0)):
            certificates.ensure(folder, LEAVES[:1], now)
            ca_pem = certificates.certificate_path(folder, "ca").read_bytes()
            if own is None or not signing_requests.is_kept(own, CLIENT, ca_pem, now, renew_at=node.RENEW_AT):
                own = issued_by_cluster(folder, now)
            kept = [x509.load_pem_x509_certificate(file.read_bytes()) for file in folder.glob("*.crt")]
            kept.append(x509.load_pem_x509_certificate(own.certificate_pem))
            assert min(one.not_valid_after_utc for one in kept) >= now + certificates.START_EVERY
            now += gap


def test_the_interval_is_the_documented_one():
    page = pathlib.Path(__file__).parents[3] / "docs" / "operations.md"
    days = certificates.START_EVERY.days
    assert f"started at least every {days} days" in page.read_text()
    assert f"from {days} days before their end" in page.read_text()
