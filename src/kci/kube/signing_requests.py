"""The certificates of a node, and the CertificateSigningRequests by which it gets them. Pure.

A node has two: the identity by which it calls the API server, and what its kubelet API serves with. Both
name the user system:node:<name> of the group system:nodes, as the signers demand
(k8s.io/kubernetes v1.36 pkg/apis/certificates/helpers.go). Kubernetes approves the first for whoever may ask
for it, and never the second. Who sends, approves and waits is elsewhere: `kci up` for its node, the virtual
node for itself.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kci.kit import pki
from kci.kube import models, resources

USER_PREFIX, GROUP = "system:node:", "system:nodes"
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"


@dataclasses.dataclass(frozen=True)
class Request:
    """A certificate that a node needs; `what` tells its two apart in names of files and objects."""

    what: str
    signer: str
    usages: tuple[str, ...]
    user: str
    server_names: tuple[str, ...] = ()

    @property
    def subject(self) -> x509.Name:
        return pki.subject(self.user, GROUP)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate, with those that lead to its authority if there are any, and its key, as PEM."""

    certificate_pem: bytes
    key_pem: bytes = dataclasses.field(repr=False)


class Outlook(enum.Enum):
    """What has become of a request."""

    WAITS = "waits for approval"
    APPROVED = "approved"
    ISSUED = "issued"
    # Denied, or its signer failed: this one will come to nothing.
    REFUSED = "refused"


def user_of(node_name: str) -> str:
    return USER_PREFIX + node_name


def plan(node_name: str, address: str) -> tuple[Request, Request]:
    """Identity and serving certificate of a node whose kubelet API listens on this address."""
    user = user_of(node_name)
    return (
        Request("client", CLIENT_SIGNER, ("digital signature", "client auth"), user),
        Request("serving", SERVING_SIGNER, ("digital signature", "server auth"), user, (node_name, address)),
    )


def is_identity(certificate_pem: bytes, node_name: str) -> bool:
    """Whether this client certificate is the identity of that node."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError:
        return False
    return certificate.subject == pki.subject(user_of(node_name), GROUP)


def new_key() -> ec.EllipticCurvePrivateKey:
    return pki.new_key()


def request_pem(key: ec.EllipticCurvePrivateKey, request: Request) -> bytes:
    return pki.request_pem(key, request.subject, request.server_names)


def to_object(name: str, request: Request, sent_pem: bytes) -> dict[str, Any]:
    kind = resources.CERTIFICATE_SIGNING_REQUESTS
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(sent_pem).decode(),
            "signerName": request.signer,
            "usages": list(request.usages),
        },
    }


def approval(reason: str, message: str) -> dict[str, Any]:
    """The merge patch of the subresource `approval` that approves a request."""
    condition = {"type": "Approved", "status": "True", "reason": reason, "message": message}
    return {"status": {"conditions": [condition]}}


def refusal(seen: models.CertificateSigningRequest, sent_pem: bytes, request: Request, requester: str) -> str:
    """Why a signing request found in the cluster must not be approved; empty if it is what was sent. What was
    sent names subject, DNS names and addresses: the same bytes, the same names.
    """
    if seen.spec.username != requester:
        return f"it was sent by {seen.spec.username}, not by {requester}"
    if seen.spec.signer_name != request.signer or set(seen.spec.usages) != set(request.usages):
        return "its signer or usages are not those asked for"
    if base64.b64decode(seen.spec.request) != sent_pem:
        return "its content is not what was sent"
    return ""


def outlook(seen: models.CertificateSigningRequest) -> tuple[Outlook, str]:
    """What has become of it, and why if it was refused."""
    conditions = {condition.type: condition for condition in seen.status.conditions}
    for kind in ("Denied", "Failed"):
        if kind in conditions:
            told = conditions[kind].message or conditions[kind].reason
            return Outlook.REFUSED, f"{kind.lower()}: {told}" if told else kind.lower()
    if seen.status.certificate:
        return Outlook.ISSUED, ""
    return (Outlook.APPROVED if "Approved" in conditions else Outlook.WAITS), ""


def issued(
    seen: models.CertificateSigningRequest, request: Request, key: ec.EllipticCurvePrivateKey
) -> Pair | str:
    """The certificate of a request that was issued, or in words what is wrong with it."""
    pair = Pair(base64.b64decode(seen.status.certificate), pki.key_pem(key))
    return pair if is_for(pair, request) else "what was issued is not what was asked for"


def is_for(pair: Pair, request: Request) -> bool:
    """Whether it is this request's certificate, for this user and these names, no more and no less."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
        key = pki.load_key(pair.key_pem)
    except ValueError:
        return False
    return (
        key.public_key() == certificate.public_key()
        and certificate.subject == request.subject
        and pki.server_names(certificate) == set(request.server_names)
    )


def is_kept(
    pair: Pair, request: Request, authority_pem: bytes, now: datetime.datetime, *, renew_at: float
) -> bool:
    """Whether a stored certificate still serves: for this request, from one of these authorities, and with
    less than this share of its life behind it.
    """
    if not is_for(pair, request):
        return False
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
    try:
        authorities = x509.load_pem_x509_certificates(authority_pem)
    except ValueError:
        return False
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return (
        any(pki.is_issued_by(certificate, authority) for authority in authorities)
        and now < certificate.not_valid_before_utc + life * renew_at
    )


def is_over(pair: Pair, now: datetime.datetime) -> bool:
    return now >= x509.load_pem_x509_certificate(pair.certificate_pem).not_valid_after_utc


def renewal(pair: Pair, *, since: datetime.datetime | None, share: float) -> datetime.datetime:
    """When to ask for the next: after this share of its life. A signer dates certificates back by minutes,
    which is most of a short life: where it is known since when we have it, its life began then.
    """
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
    begin = certificate.not_valid_before_utc
    if since is not None:
        begin = min(max(begin, since), certificate.not_valid_after_utc)
    return begin + (certificate.not_valid_after_utc - begin) * share


def node_of(asked: models.CertificateSigningRequest) -> str:
    """The node whose certificate it asks for, whoever sent it; empty if it is none of a node's."""
    if asked.spec.signer_name not in {CLIENT_SIGNER, SERVING_SIGNER}:
        return ""
    try:
        request = x509.load_pem_x509_csr(base64.b64decode(asked.spec.request))
    except ValueError:
        return ""
    names = [str(name.value) for name in request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return names[0].removeprefix(USER_PREFIX) if len(names) == 1 and names[0].startswith(USER_PREFIX) else ""
