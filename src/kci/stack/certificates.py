"""Certificates of a local control plane: planned as plain values, issued with `cryptography`.

What exists is kept as long as it fits its plan, its authority and the clock; everything else is
issued anew. Keys are ECDSA P-256. Every file is readable by root alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from kci.kit import files, pki

AUTHORITY_LIFE = datetime.timedelta(days=3650)
LIFE = datetime.timedelta(days=365)
# A stack that runs for months is not renewed meanwhile: what its start keeps lives until the next start, if
# that is no later than this (docs/operations.md).
START_EVERY = datetime.timedelta(days=180)
# Clocks of machines that joined a moment ago may be behind.
BACKDATE = datetime.timedelta(minutes=5)


@dataclasses.dataclass(frozen=True)
class Authority:
    name: str
    common_name: str


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A certificate wanted: `name` is its files' name, `authority` the name of who issues it."""

    name: str
    authority: str
    common_name: str
    organization: str = ""
    server_names: tuple[str, ...] = ()
    client: bool = False


@dataclasses.dataclass(frozen=True)
class Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


CLUSTER_CA = Authority("ca", "kci cluster")
FRONT_PROXY_CA = Authority("front-proxy-ca", "kci front proxy")
ETCD_CA = Authority("etcd-ca", "kci etcd")
AUTHORITIES = (CLUSTER_CA, FRONT_PROXY_CA, ETCD_CA)
SERVICE_ACCOUNT = "service-account"
# As whom the API server speaks for others to aggregated API servers.
FRONT_PROXY_CLIENT = "front-proxy-client"
# For who reads them here.
key_pem, load_key, is_issued_by, server_names = pki.key_pem, pki.load_key, pki.is_issued_by, pki.server_names


def plan_leaves(*, gateway: str, first_service_address: str, cluster_domain: str) -> tuple[Leaf, ...]:
    """Every certificate of the control plane."""
    loopback = ("127.0.0.1", "localhost")
    service = "kubernetes.default.svc"
    api_names = (
        gateway,
        *loopback,
        first_service_address,
        "kubernetes",
        "kubernetes.default",
        service,
        f"{service}.{cluster_domain}",
    )
    return (
        Leaf("apiserver", "ca", "kube-apiserver", server_names=api_names),
        Leaf(
            "apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client", "system:masters", client=True
        ),
        Leaf("admin", "ca", "kubernetes-admin", "system:masters", client=True),
        Leaf("controller-manager", "ca", "system:kube-controller-manager", client=True),
        Leaf("scheduler", "ca", "system:kube-scheduler", client=True),
        Leaf("coredns", "ca", "system:coredns", client=True),
        # The health ports of controller-manager and scheduler, on loopback.
        Leaf("loopback", "ca", "localhost", server_names=loopback),
        # For who asks it, and for itself at the API server and at nodes.
        Leaf(
            "metrics-server",
            "ca",
            "system:metrics-server",
            server_names=("metrics-server.kube-system.svc", gateway),
            client=True,
        ),
        Leaf(FRONT_PROXY_CLIENT, "front-proxy-ca", FRONT_PROXY_CLIENT, client=True),
        Leaf("etcd", "etcd-ca", "etcd", server_names=loopback, client=True),
        Leaf("apiserver-etcd-client", "etcd-ca", "kube-apiserver", client=True),
    )


def certificate_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / f"{name}.crt"


def key_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / f"{name}.key"


def ensure(folder: pathlib.Path, leaves: Sequence[Leaf], now: datetime.datetime) -> None:
    """Have all authorities, these leaves and the service account key on disk and fit for use."""
    issuers = {authority.name: _ensure_authority(folder, authority, now) for authority in AUTHORITIES}
    for leaf in leaves:
        issuer = issuers[leaf.authority]
        kept = _load(folder, leaf.name)
        if kept is None or not fits(kept.certificate, leaf, issuer.certificate, now):
            _store(folder, leaf.name, issue(leaf, issuer, now))
    _ensure_service_account_key(folder)


def fits(
    certificate: x509.Certificate, leaf: Leaf, authority: x509.Certificate, now: datetime.datetime
) -> bool:
    """Whether a certificate still is what the plan says, from this authority, and lives long enough."""
    if certificate.not_valid_after_utc - now < START_EVERY or certificate.not_valid_before_utc > now:
        return False
    return pki.is_issued_by(certificate, authority) and is_for(certificate, leaf)


def is_for(certificate: x509.Certificate, leaf: Leaf) -> bool:
    """Whether it names whom the plan names, no more and no less."""
    return certificate.subject == _subject(leaf) and pki.server_names(certificate) == set(leaf.server_names)


def issue(leaf: Leaf, issuer: Issuer, now: datetime.datetime) -> Issuer:
    key = pki.new_key()
    usages = [oid.ExtendedKeyUsageOID.SERVER_AUTH] if leaf.server_names else []
    if leaf.client:
        usages.append(oid.ExtendedKeyUsageOID.CLIENT_AUTH)
    builder = (
        _builder(_subject(leaf), key, issuer.certificate.subject, now, LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
        )
    )
    if leaf.server_names:
        builder = builder.add_extension(pki.alternative_names(leaf.server_names), critical=False)
    return Issuer(builder.sign(issuer.key, hashes.SHA256()), key)


def _ensure_authority(folder: pathlib.Path, authority: Authority, now: datetime.datetime) -> Issuer:
    kept = _load(folder, authority.name)
    if kept and kept.certificate.not_valid_after_utc - now >= START_EVERY:
        return kept
    key = pki.new_key()
    subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, authority.common_name)])
    certificate = (
        _builder(subject, key, subject, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    issuer = Issuer(certificate, key)
    _store(folder, authority.name, issuer)
    return issuer


def _ensure_service_account_key(folder: pathlib.Path) -> None:
    private, public = key_path(folder, SERVICE_ACCOUNT), folder / f"{SERVICE_ACCOUNT}.pub"
    if private.exists() and public.exists():
        return
    key = pki.new_key()
    files.write_atomic(
        public,
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
    files.write_atomic(private, key_pem(key))


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(leaf: Leaf) -> x509.Name:
    return pki.subject(leaf.common_name, leaf.organization)


def _load(folder: pathlib.Path, name: str) -> Issuer | None:
    """None where a file is missing or damaged: it is made anew then."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path(folder, name).read_bytes())
        key = load_key(key_path(folder, name).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return Issuer(certificate, key) if key.public_key() == certificate.public_key() else None


def _store(folder: pathlib.Path, name: str, issued: Issuer) -> None:
    # The key first: a certificate without its key would be kept by nobody, the reverse is issued anew.
    files.write_atomic(key_path(folder, name), key_pem(issued.key))
    files.write_atomic(
        certificate_path(folder, name), issued.certificate.public_bytes(serialization.Encoding.PEM)
    )
