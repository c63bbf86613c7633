"""The virtual node's identity in its cluster, as the administrator gives it.

The node gets a client certificate `system:node:<name>` and a serving certificate by signing requests,
which the stack approves after it has checked that they are its own: Kubernetes never approves
serving certificates by itself. Both are kept while they are valid long enough; while the stack runs nobody
renews them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import datetime
import pathlib
import secrets
import socket
import urllib.parse
from typing import Any

from kci.kit import files, pki, secret, tasks
from kci.kube import client as kube
from kci.kube import config, resources, signing_requests
from kci.kube import errors as kube_errors
from kci.stack import certificates, errors, layout, programs

TYPE_LABEL, VIRTUAL = "type", "virtual-kubelet"
ROLE_LABEL = "node-role.kubernetes.io/agent"
LEASE_NAMESPACE = "kube-node-lease"
ISSUE_TIMEOUT_S = 30.0
INTERVAL_S = 0.05
LOOK_UP_S = 5.0
# The share of its life after which a certificate is asked for anew at the next start. Of a year, which our
# own control plane gives, more than certificates.START_EVERY is left then. A given cluster may give less.
RENEW_AT = 0.5


async def ensure_identity(
    where: layout.Layout,
    administrator: config.ClusterConfig,
    *,
    node_name: str,
    gateway: str,
    client_authority_pem: bytes | None,
) -> pathlib.Path:
    """Have client and serving certificate and client CA on disk; returns the node's kubeconfig.

    The CA that verifies clients is asked of the cluster if it is not given.
    """
    async with kube.Client(administrator, user_agent="kci-stack") as client:
        authority_pem = client_authority_pem or await _client_authority(client)
        await tasks.in_thread(
            files.write_atomic,
            certificates.certificate_path(where.node_pki, programs.CLIENT_CA),
            authority_pem,
        )
        # A cluster that signs serving certificates by another CA is asked for one at each start.
        await tasks.wait_all(
            (
                _ensure_certificate(client, where, request, authority_pem, node_name)
                for request in signing_requests.plan(node_name, gateway)
            ),
            name="node certificates",
        )
        await _bind_to_services(client, node_name)
    return await tasks.in_thread(_write_kubeconfig, where, administrator)


async def wait_ready(
    administrator: config.ClusterConfig, node_name: str, *, since: datetime.datetime, timeout_s: float
) -> None:
    """Wait until the node says Ready, by a heartbeat after `since` (an earlier run may have left it
    Ready), and give it the role that only an administrator may give.
    """
    reason = "it was not looked at"
    try:
        async with asyncio.timeout(timeout_s), kube.Client(administrator, user_agent="kci-stack") as client:
            # A look each time: to the API server it is cheaper than a watch that lasts a moment.
            while reason := await _look(client, node_name, since):  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL_S)
            await client.patch(resources.NODES, node_name, {"metadata": {"labels": {ROLE_LABEL: ""}}})
    except TimeoutError as error:
        raise errors.PartFailedError(
            "node", f"cannot get the node {node_name} Ready within {timeout_s:g} s: {reason}"
        ) from error
    except kube_errors.KubeError as error:
        raise errors.PartFailedError("node", f"cannot get the node {node_name} Ready: {error}") from error


async def delete_node(administrator: config.ClusterConfig, node_name: str) -> None:
    """Remove the Node object, its Lease and its right to Services; safe if they are not there."""
    async with kube.Client(administrator, user_agent="kci-stack") as client:
        with contextlib.suppress(kube_errors.NotFoundError):
            name = services_binding(node_name)["metadata"]["name"]
            await client.delete(resources.CLUSTER_ROLE_BINDINGS, name)
        with contextlib.suppress(kube_errors.NotFoundError):
            await client.delete(resources.NODES, node_name)
        with contextlib.suppress(kube_errors.NotFoundError):
            await client.delete(resources.LEASES, node_name, namespace=LEASE_NAMESPACE)


async def check_cluster(administrator: config.ClusterConfig, node_name: str) -> None:
    """StackError if the cluster does not answer us, or a node of that name is not a virtual one."""
    try:
        async with kube.Client(administrator, user_agent="kci-stack", timeout_s=10.0) as client:
            node = await client.get(resources.NODES, node_name)
    except kube_errors.NotFoundError:
        return
    except kube_errors.KubeError as error:
        raise errors.StackError(
            f"cannot use the cluster {administrator.server}: {error}; "
            "check that --kubeconfig is an administrator's of a running cluster, which is reached from here "
            "(and from --netns)"
        ) from error
    if node.metadata.labels.get(TYPE_LABEL) != VIRTUAL:
        raise errors.StackError(
            f"cannot use the name {node_name}: the cluster has a node of that name that is not virtual; "
            "choose another with --node-name"
        )


async def find_api_addresses(server: str) -> list[str]:
    """Those of IPv4 that an API server's name has now; none if it cannot be told in time."""
    host = urllib.parse.urlsplit(server).hostname or ""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOK_UP_S):
            found = await loop.getaddrinfo(host, None, family=socket.AF_INET)
    except (OSError, TimeoutError):
        return []
    return sorted({str(one[4][0]) for one in found})


def services_binding(node_name: str) -> dict[str, Any]:
    """What lets the node's user read the Services and EndpointSlices that its pods reach."""
    kind = resources.CLUSTER_ROLE_BINDINGS
    group = {"apiGroup": kind.group}
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": f"kci-node-proxier-{node_name}"},
        "roleRef": {**group, "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{**group, "kind": "User", "name": f"system:node:{node_name}"}],
    }


async def _bind_to_services(client: kube.Client, node_name: str) -> None:
    try:
        _ = await client.create(resources.CLUSTER_ROLE_BINDINGS, services_binding(node_name))
    except kube_errors.AlreadyExistsError:
        pass
    except kube_errors.KubeError as error:
        raise errors.StackError(
            f"cannot let the node {node_name} read Services: {error}; --kubeconfig must be an administrator's"
        ) from error


async def _client_authority(client: kube.Client) -> bytes:
    """The CA by which the cluster knows clients: the API server's own certificate is signed by it too."""
    name = "extension-apiserver-authentication"
    try:
        published = await client.get(resources.CONFIG_MAPS, name, namespace="kube-system")
    except kube_errors.KubeError as error:
        raise errors.StackError(
            f"cannot read the cluster's client CA from the ConfigMap kube-system/{name}: {error}; "
            "--kubeconfig must be an administrator's"
        ) from error
    text = published.data.get("client-ca-file", "")
    if not text:
        raise errors.StackError(
            f"cannot guard the node's kubelet API: the ConfigMap kube-system/{name} names no client CA"
        )
    return text.encode()


async def _ensure_certificate(
    client: kube.Client,
    where: layout.Layout,
    request: signing_requests.Request,
    authority_pem: bytes,
    node_name: str,
) -> None:
    certificate_file = certificates.certificate_path(where.node_pki, request.what)
    key_file = certificates.key_path(where.node_pki, request.what)
    if await tasks.in_thread(_is_stored, certificate_file, key_file, request, authority_pem):
        return
    key = pki.new_key()
    try:
        async with asyncio.timeout(ISSUE_TIMEOUT_S):
            certificate = await _issue(client, request, signing_requests.request_pem(key, request))
    except TimeoutError as error:
        raise errors.StackError(
            f"cannot get a certificate for the node {node_name}: the cluster does not issue those of "
            f"{request.signer}; its controller-manager needs --cluster-signing-cert-file"
        ) from error
    except kube_errors.KubeError as error:
        raise errors.StackError(
            f"cannot get a certificate for the node {node_name}: {error}; "
            "--kubeconfig must be an administrator's"
        ) from error
    await tasks.in_thread(files.write_atomic, key_file, pki.key_pem(key))
    await tasks.in_thread(files.write_atomic, certificate_file, certificate)


async def _issue(client: kube.Client, request: signing_requests.Request, request_pem: bytes) -> bytes:
    """Send, check, approve and fetch one signing request, and remove it again."""
    requests = resources.CERTIFICATE_SIGNING_REQUESTS
    requester = (await client.review_self()).name
    name = f"kci-{request.what}-{secrets.token_hex(4)}"
    seen = await client.create(requests, signing_requests.to_object(name, request, request_pem))
    try:
        while not seen.status.certificate:
            if not any(condition.type == "Approved" for condition in seen.status.conditions):
                why = signing_requests.refusal(seen, request_pem, request, requester)
                if why:
                    raise errors.StackError(f"cannot approve the signing request {name}: {why}")
                await _approve(client, name)
            await asyncio.sleep(INTERVAL_S)
            seen = await client.get(requests, name)
        return base64.b64decode(seen.status.certificate)
    finally:
        with contextlib.suppress(kube_errors.KubeError):
            await client.delete(requests, name)


async def _approve(client: kube.Client, name: str) -> None:
    patch = signing_requests.approval(
        "KciStack", "The stack that asked for it has checked requester, names and addresses."
    )
    # kube-controller-manager may have approved it in the meantime.
    with contextlib.suppress(kube_errors.ConflictError):
        await client.patch(
            resources.CERTIFICATE_SIGNING_REQUESTS,
            name,
            patch,
            subresource="approval",
        )


async def _look(client: kube.Client, node_name: str, since: datetime.datetime) -> str:
    """Empty if the node is Ready now, else why not."""
    try:
        lease = await client.get(resources.LEASES, node_name, namespace=LEASE_NAMESPACE)
        node = await client.get(resources.NODES, node_name)
    except kube_errors.NotFoundError as error:
        return str(error)
    renewed = lease.spec.renew_time
    if not renewed or datetime.datetime.fromisoformat(renewed) < since:
        return "its Lease has no new heartbeat"
    for condition in node.status.conditions:
        if condition.type == "Ready":
            return "" if condition.status == "True" else f"it says {condition.message or condition.reason}"
    return "it has no Ready condition yet"


def _is_stored(
    certificate_file: pathlib.Path,
    key_file: pathlib.Path,
    request: signing_requests.Request,
    authority_pem: bytes,
) -> bool:
    try:
        certificate, key = certificate_file.read_bytes(), key_file.read_bytes()
    except FileNotFoundError:
        return False
    pair = signing_requests.Pair(certificate, key)
    now = datetime.datetime.now(datetime.UTC)
    return signing_requests.is_kept(pair, request, authority_pem, now, renew_at=RENEW_AT)


def _write_kubeconfig(where: layout.Layout, administrator: config.ClusterConfig) -> pathlib.Path:
    node = dataclasses.replace(
        administrator,
        client_certificate_pem=certificates.certificate_path(
            where.node_pki, programs.NODE_CLIENT
        ).read_text(),
        client_key_pem=secret.Secret(certificates.key_path(where.node_pki, programs.NODE_CLIENT).read_text()),
        token=None,
        token_file=None,
    )
    path = where.node_pki / "kubeconfig"
    files.write_atomic(path, config.render(node))
    return path
