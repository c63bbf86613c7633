"""The cluster as one caller sees it: who he is, what he and the node may do, which requests wait. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Sequence

from cryptography import x509

from kci.doctor.findings import finding
from kci.kube import access, models, signing_requests
from kci.provider import service_access
from kci.stack import typed

EXPIRES_SOON = datetime.timedelta(days=14)


@dataclasses.dataclass(frozen=True)
class Right:
    """What somebody must be allowed, and for what."""

    attributes: access.Attributes
    why: str

    def __str__(self) -> str:
        one = self.attributes
        what = f"{one.resource}/{one.subresource}" if one.subresource else one.resource
        named = f" {one.namespace}/{one.name}".replace(" /", " ") if one.name else ""
        where = f" in {one.namespace}" if one.namespace and not one.name else ""
        return f"{one.verb} {what}{named}{where} ({self.why})"


@dataclasses.dataclass(frozen=True)
class Caller:
    """Whom the API server takes an identity for; `certificate_pem` is its, if it has one."""

    user: str
    certificate_pem: str = ""


@dataclasses.dataclass(frozen=True)
class ServiceAccount:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def user(self) -> access.User:
        """Whom the API server takes it for."""
        groups = (
            "system:serviceaccounts",
            f"system:serviceaccounts:{self.namespace}",
            "system:authenticated",
        )
        return access.User(name=f"system:serviceaccount:{self.namespace}:{self.name}", groups=groups)


# Of the manifests in deploy/.
SERVICE_ACCOUNT = ServiceAccount("kube-system", "virtual-kubelet-sa")
_RIGHTS = "deploy/least-privilege/node-identity/rights.yaml"


def rights_of_node(node_name: str) -> list[Right]:
    """What the virtual node does as system:node:<name>, as far as it can be asked: of pods, ConfigMaps and
    Secrets the Node authorizer allows those that are bound to the node.
    """
    leases = {"group": "coordination.k8s.io", "resource": "leases", "namespace": "kube-node-lease"}
    reviews = "subjectaccessreviews"
    return [
        Right(access.Attributes(verb="create", resource="nodes"), "to register"),
        Right(access.Attributes(verb="get", resource="nodes", name=node_name), "to know itself"),
        Right(
            access.Attributes(verb="patch", resource="nodes", subresource="status", name=node_name),
            "to say that it is Ready",
        ),
        Right(access.Attributes(verb="create", **leases), "its heartbeat"),
        Right(access.Attributes(verb="patch", name=node_name, **leases), "its heartbeat"),
        Right(access.Attributes(verb="create", resource="events"), "to tell what goes wrong"),
        Right(
            access.Attributes(verb="create", group="authentication.k8s.io", resource="tokenreviews"),
            "to know who calls its kubelet API",
        ),
        Right(
            access.Attributes(verb="create", group="authorization.k8s.io", resource=reviews),
            "to know what he may do",
        ),
    ]


def rights_of_account(node_name: str, *, reads_client_ca: bool, finds_server: bool) -> list[Right]:
    """What an account does that asks for the node's identity (deploy/least-privilege/node-identity).
    `finds_server`: nobody told the node where instances reach the API server.
    """
    requests = {"group": "certificates.k8s.io", "resource": "certificatesigningrequests"}
    found = [
        Right(access.Attributes(verb="create", **requests), "to ask for the node's identity"),
        Right(access.Attributes(verb="get", **requests), "to get it"),
        Right(access.Attributes(verb="patch", resource="nodes", name=node_name), "to show the node's role"),
    ]
    found += [
        Right(
            access.Attributes(verb=verb, resource="events", namespace="default"), "to tell what it waits for"
        )
        for verb in ("create", "patch")
    ]
    if reads_client_ca:
        attributes = access.Attributes(
            verb="get",
            resource="configmaps",
            namespace="kube-system",
            name="extension-apiserver-authentication",
        )
        found.append(Right(attributes, "the CA of the kubelet API's clients"))
    if finds_server:
        attributes = access.Attributes(
            verb="list", group="discovery.k8s.io", resource="endpointslices", namespace="default"
        )
        found.append(Right(attributes, "where instances reach the API server"))
    return found


def remedy_of_account(user: str, node_name: str) -> str:
    if user != SERVICE_ACCOUNT.user.name:
        return f"give {user} what {SERVICE_ACCOUNT} has in {_RIGHTS} (docs/how-to/deploy-the-node.md)"
    return f"sed 's/${{nodename_string}}/{node_name}/g' {_RIGHTS} | kubectl apply -f -"


def rights_to_read(resource: str, namespace: str, name: str) -> list[Right]:
    """What somebody does who follows one object."""
    return [
        Right(access.Attributes(verb=verb, resource=resource, namespace=namespace, name=name), "the key pair")
        for verb in ("get", "list", "watch")
    ]


def to_services() -> Right:
    attributes = access.Attributes(verb="list", group="discovery.k8s.io", resource="endpointslices")
    return Right(attributes, "to reach Services")


def judge_version(version: str) -> finding.Finding:
    if not version.startswith("v"):
        return finding.wrong(
            f"what answers is no API server: it calls its version {version!r}",
            "correct clusters[].cluster.server of the kubeconfig",
        )
    return finding.well(f"the API server is {version}")


def judge_caller(seen: Caller, now: datetime.datetime) -> finding.Finding:
    if seen.user == "system:anonymous":
        return finding.wrong(
            "the API server takes us for nobody (system:anonymous)",
            "give a kubeconfig with a client certificate or a token: kubectl config view --minify",
        )
    if seen.certificate_pem:
        end = x509.load_pem_x509_certificate(seen.certificate_pem.encode()).not_valid_after_utc
        if now >= end:
            return finding.wrong(
                f"the client certificate of {seen.user or 'the kubeconfig'} ended at {end:%Y-%m-%d %H:%M}Z",
                "get a new kubeconfig from whoever gave this one",
            )
        if end - now < EXPIRES_SOON:
            return finding.warning(
                f"the client certificate of {seen.user} ends on {end:%Y-%m-%d %H:%M} UTC",
                "get a new kubeconfig in time",
            )
        return finding.well(f"we are {seen.user}, by a certificate good until {end:%Y-%m-%d}")
    return finding.well(f"we are {seen.user}")


def judge_unknown(certificate_pem: str, now: datetime.datetime) -> finding.Finding:
    """The API server does not know who we are (401)."""
    if (
        certificate_pem
        and (told := judge_caller(Caller("", certificate_pem), now)).level is finding.Level.WRONG
    ):
        return told
    return finding.wrong(
        "the API server does not know who we are (401)",
        "get a new kubeconfig: its token has ended, or its certificate is another cluster's",
    )


def judge_rights(user: str, denied: Sequence[Right], count: int, *, remedy: str) -> list[finding.Finding]:
    if not denied:
        return [finding.well(f"{user} may do all {count} things that it must")]
    return [finding.wrong(f"{user} may not {right}", remedy) for right in denied]


def judge_services(user: str, place: typed.Place, *, may: bool, is_needed: bool) -> finding.Finding:
    if may:
        return finding.well(f"{user} may read the EndpointSlices of Services")
    name = service_access.binding(user)["metadata"]["name"]
    remedy = place.inside(
        f"kubectl create clusterrolebinding {name} --clusterrole={service_access.ROLE} --user={user}"
    )
    text = f"{user} is not bound to {service_access.ROLE}, so pods do not reach ClusterIP services"
    if is_needed:
        return finding.wrong(text, remedy)
    return finding.warning(f"{text} where their annotation asks for it", remedy)


def judge_absence(account: ServiceAccount) -> finding.Finding:
    """There is neither the account nor the node."""
    return finding.wrong(
        f"there is no ServiceAccount {account}, so no virtual node runs with it",
        "make it as docs/how-to/deploy-the-node.md says, or name the Deployment's: --service-account",
    )


def judge_requests(
    seen: Iterable[models.CertificateSigningRequest], node_name: str, account: str, place: typed.Place
) -> list[finding.Finding]:
    """Signing requests of this node that wait, or came to nothing. Whoever else than the node and its account
    asks in its name is somebody to be warned of.
    """
    known = {account, signing_requests.user_of(node_name)}
    found, count = [], 0
    for one in seen:
        if signing_requests.node_of(one) != node_name:
            continue
        count += 1
        name, signer = one.metadata.name, one.spec.signer_name
        look = place.inside(f"kubectl describe csr {name}")
        outlook, why = signing_requests.outlook(one)
        if one.spec.username not in known:
            if outlook in {signing_requests.Outlook.WAITS, signing_requests.Outlook.APPROVED}:
                found.append(_warn_of_stranger(one, known, look))
            continue
        match outlook:
            case signing_requests.Outlook.WAITS:
                text = f"the request {name} of {one.spec.username} for {signer} waits for approval"
                # Typed as it stands it approves nothing: somebody looks first.
                remedy = (
                    f"{look}; then, if subject and names are the node's alone, approve it: "
                    f"{place.inside(f'kubectl certificate approve {name}')}"
                )
                found.append(finding.wrong(text, remedy))
            case signing_requests.Outlook.APPROVED:
                text = f"the request {name} is approved, and nobody issues a certificate of {signer}"
                found.append(
                    finding.wrong(
                        text, "start kube-controller-manager with --cluster-signing-cert-file and -key-file"
                    )
                )
            case signing_requests.Outlook.REFUSED:
                # The node asks again by itself.
                found.append(
                    finding.warning(
                        f"the request {name} for {signer} was refused ({why})",
                        f"{place.inside(f'kubectl delete csr {name}')}; the node asks again, approve that "
                        "one",
                    )
                )
            case signing_requests.Outlook.ISSUED:
                pass
    return found or [
        finding.well(f"no request of the node waits ({count} issued)" if count else "none waits")
    ]


def _warn_of_stranger(
    seen: models.CertificateSigningRequest, known: Collection[str], look: str
) -> finding.Finding:
    name = seen.metadata.name
    return finding.warning(
        f"somebody else asks in the node's name: {seen.spec.username} sent the request {name} for "
        f"{seen.spec.signer_name}, and not {' or '.join(sorted(known))}",
        f"do not approve it, look who that is: {look}",
    )


def judge_client_ca(data: dict[str, str] | None) -> finding.Finding:
    if data is None or not data.get("client-ca-file"):
        return finding.wrong(
            "kube-system/extension-apiserver-authentication names no CA of clients, so nobody can use the "
            "node's kubelet API",
            "start the API server with --client-ca-file, or give the node --client-ca-file",
        )
    return finding.well("the cluster tells the CA of the kubelet API's clients")
