"""How the node gets its certificates, at a cluster that approves, waits, denies, forgets, or is away."""

import asyncio
import base64
import datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from kci.kit import pki
from kci.kube import access, errors, models, signing_requests
from kci.provider import client_authority, node_certificates

CLIENT, SERVING = signing_requests.plan("vn1", "10.0.0.1")
NODE_USER = signing_requests.user_of("vn1")
LIFE = datetime.timedelta(days=365)
WITHIN_S = 20


class Clock:
    def __init__(self):
        self.shift = datetime.timedelta()

    def now(self):
        return datetime.datetime.now(datetime.UTC) + self.shift


class Cluster:
    """Signs what is approved. `approves`: by itself, like kube-controller-manager."""

    def __init__(self, *, approves=False, clock=None, life=LIFE):
        self.requests, self.created = {}, []
        self.approves, self.is_away, self.forges = approves, False, False
        self.clock, self.life = clock or Clock(), life
        self._key = pki.new_key()

    def client(self, user, *, may_approve=False):
        return Client(self, user, may_approve=may_approve)

    def see(self, name):
        seen = self.requests[name]
        if self.approves:
            seen = self.approve(name)
        return seen

    def approve(self, name, kind="Approved"):
        seen = self.requests[name]
        condition = models.PodCondition(type=kind, status="True", reason="Tested")
        certificate = "" if kind != "Approved" else base64.b64encode(self._sign(seen)).decode()
        status = models.CertificateSigningRequestStatus(certificate=certificate, conditions=(condition,))
        self.requests[name] = msgspec.structs.replace(seen, status=status)
        return self.requests[name]

    def _sign(self, seen):
        request = x509.load_pem_x509_csr(base64.b64decode(seen.spec.request))
        now = self.clock.now()
        public_key = pki.new_key().public_key() if self.forges else request.public_key()
        issuer = pki.subject("ca")
        builder = x509.CertificateBuilder(
            issuer,
            request.subject,
            public_key,
            x509.random_serial_number(),
            now - datetime.timedelta(minutes=5),
            now + self.life,
        )
        for extension in request.extensions:
            builder = builder.add_extension(extension.value, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Client:
    """node_certificates.Api of one user."""

    def __init__(self, cluster, user, *, may_approve):
        self.cluster, self.user, self.may_approve = cluster, user, may_approve

    async def review_self(self):
        return access.User(name=self.user)

    async def create(self, _resource, body):
        self._answer()
        spec = models.CertificateSigningRequestSpec(
            request=body["spec"]["request"],
            signer_name=body["spec"]["signerName"],
            usages=tuple(body["spec"]["usages"]),
            username=self.user,
        )
        name = body["metadata"]["name"]
        self.cluster.created.append(name)
        self.cluster.requests[name] = models.CertificateSigningRequest(
            metadata=models.ObjectMeta(name=name), spec=spec
        )
        return self.cluster.requests[name]

    async def get(self, _resource, name):
        self._answer()
        if name not in self.cluster.requests:
            raise errors.NotFoundError(f"no {name}")
        return self.cluster.see(name)

    async def patch(self, _resource, name, _patch, *, subresource):
        assert subresource == "approval"
        if not self.may_approve:
            raise errors.ForbiddenError("no")
        return self.cluster.approve(name)

    async def delete(self, _resource, name):
        if not self.may_approve:
            raise errors.ForbiddenError("no")
        self.cluster.requests.pop(name, None)

    def _answer(self):
        if self.cluster.is_away:
            raise errors.UnreachableError("away")


class Told:
    def __init__(self):
        self.last, self.all = "", []

    def __call__(self, trouble):
        self.last = trouble
        self.all.append(trouble)


async def until(look):
    async with asyncio.timeout(WITHIN_S):
        while not look():  # noqa: ASYNC110  (a state of doubles)
            await asyncio.sleep(0.005)


def issuer(cluster, told, *, approver=None, user=NODE_USER):
    return node_certificates.Issuer(cluster.client(user), approver=approver, node_name="vn1", tell=told)


async def test_what_the_cluster_approves_is_taken_and_nothing_is_told():
    cluster, told = Cluster(approves=True), Told()
    pair = await issuer(cluster, told, user="system:serviceaccount:kube-system:sa").issue(CLIENT)
    assert signing_requests.is_identity(pair.certificate_pem, "vn1")
    assert told.all == [""]


async def test_its_own_serving_request_is_approved_by_who_may():
    cluster, told = Cluster(), Told()
    pair = await issuer(cluster, told, approver=cluster.client("sa", may_approve=True)).issue(SERVING)
    assert signing_requests.is_for(pair, SERVING)
    assert (told.all, cluster.requests) == ([""], {})


async def test_who_may_not_approve_says_what_to_type_and_goes_on_once_somebody_did():
    cluster, told = Cluster(), Told()
    asking = issuer(cluster, told, approver=cluster.client("sa"))
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        task = group.create_task(asking.issue(SERVING))
        await until(lambda: told.last)
        (name,) = cluster.created
        assert f"kubectl certificate approve {name}" in told.last
        assert "may not approve" in told.last
        cluster.is_away = True
        await asyncio.sleep(0.2)
        cluster.is_away = False
        cluster.approve(name)
        assert signing_requests.is_for(await task, SERVING)
    assert told.last == ""
    assert cluster.created == [name]


@pytest.mark.parametrize("end", ["Denied", "Failed", "removed", "forged"])
async def test_what_came_to_nothing_is_asked_for_again(end):
    cluster, told = Cluster(), Told()
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        task = group.create_task(issuer(cluster, told).issue(CLIENT))
        await until(lambda: cluster.created)
        (first,) = cluster.created
        if end == "removed":
            del cluster.requests[first]
        else:
            cluster.forges = end == "forged"
            cluster.approve(first, "Approved" if end == "forged" else end)
        await until(lambda: len(cluster.created) == 2)
        assert "cannot get a certificate" in told.last
        cluster.forges = False
        cluster.approve(cluster.created[1])
        assert signing_requests.is_for(await task, CLIENT)


def test_what_waits_is_told_when_a_person_can_do_something():
    def trouble(outlook, waited_s, why=""):
        return node_certificates.trouble(
            node_certificates.Waiting("r1", CLIENT.signer, outlook, waited_s, why)
        )

    waits, approved = signing_requests.Outlook.WAITS, signing_requests.Outlook.APPROVED
    assert trouble(waits, 1.0) == trouble(approved, 10.0) == ""
    assert "kubectl certificate approve r1" in trouble(waits, 5.0)
    assert "kubectl certificate approve r1" in trouble(waits, 0.0, "not ours")
    assert "--cluster-signing-cert-file" in trouble(approved, 30.0)


# ---- kept and renewed ------------------------------------------------------------------------------


def keeper(cluster, used, file, clock=None):
    async def use(pair):
        used.append(pair)

    return node_certificates.Keeper(
        CLIENT, issuer(cluster, Told()), file=file, use=use, clock=clock or cluster.clock
    )


async def test_a_kept_certificate_is_used_until_it_is_old_or_anothers(tmp_path):
    cluster, used, file = Cluster(approves=True), [], tmp_path / "state" / "client.pem"
    await keeper(cluster, used, file).obtain()
    assert (file.stat().st_mode & 0o777) == 0o600
    await keeper(cluster, used, file).obtain()
    assert used[0] == used[1]
    assert len(cluster.created) == 1
    cluster.clock.shift = LIFE * 0.75
    await keeper(cluster, used, file).obtain()
    assert used[2] != used[1]
    for damage in (b"", b"half a certificate", used[0].key_pem):
        file.write_bytes(damage)
        await keeper(cluster, used, file).obtain()
    assert len(cluster.created) == 5


async def test_a_state_folder_that_cannot_be_written_keeps_no_node_from_running(tmp_path):
    cluster, used = Cluster(approves=True), []
    (tmp_path / "state").write_text("no folder")
    await keeper(cluster, used, tmp_path / "state" / "client.pem").obtain()
    assert len(used) == 1


async def test_a_short_life_is_renewed_before_its_end_again_and_again():
    cluster, used = Cluster(approves=True, life=datetime.timedelta(seconds=2)), []
    async with asyncio.timeout(WITHIN_S):
        task = asyncio.create_task(keeper(cluster, used, None).run())  # noqa: TID251
        await until(lambda: len(used) == 3)
        _ = task.cancel()
    ends = [x509.load_pem_x509_certificate(pair.certificate_pem).not_valid_after_utc for pair in used]
    assert ends == sorted(ends)
    assert ends[-1] - ends[0] >= datetime.timedelta(seconds=2)


# ---- the client CA ---------------------------------------------------------------------------------


class Published:
    def __init__(self):
        self.text, self.error = "", None

    async def get(self, _resource, name, *, namespace=""):
        assert (namespace, name) == ("kube-system", "extension-apiserver-authentication")
        if self.error is not None:
            raise self.error
        return models.ConfigMap(data={"client-ca-file": self.text} if self.text else {})


async def test_the_client_ca_is_followed_and_what_is_none_is_told():
    published, told, used = Published(), Told(), []

    def use(pem):
        if pem == "no CA":
            raise ValueError("no CA")
        used.append(pem)

    async with asyncio.timeout(WITHIN_S):
        task = asyncio.create_task(  # noqa: TID251
            client_authority.follow(published, use, tell=told, look_every_s=0.01)
        )
        await until(lambda: "names no client-ca-file" in told.last)
        published.text = "first"
        await until(lambda: used == ["first"])
        published.error = errors.ForbiddenError("no")
        await until(lambda: "extension-apiserver-authentication-reader" in told.last)
        published.error, published.text = None, "no CA"
        await until(lambda: "no CA" in told.last)
        published.text = "second"
        await until(lambda: used == ["first", "second"] and not told.last)
        _ = task.cancel()
