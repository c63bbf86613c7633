"""Whether instances may read the Services that their pods reach, and the binding that lets them.

The Node authorizer lets a node read Services, but no EndpointSlices: those are the ClusterRole
system:node-proxier's, as a kube-proxy has it. `kci up` binds the node's user to it. Where an administrator
started the node by hand, as the guide has it, the node makes the binding itself if it may.
"""

from __future__ import annotations

import asyncio

import structlog

from kci.kit import backoff as backoffs
from kci.kube import access, errors, resources
from kci.kube import client as clients
from kci.kube import config as configs

log = structlog.get_logger(__name__)

ROLE = "system:node-proxier"
BACKOFF = backoffs.Backoff(initial_s=1.0, cap_s=60.0, jitter=0.3)
LISTING = access.Attributes(
    verb="list", group=resources.ENDPOINT_SLICES.group, resource=resources.ENDPOINT_SLICES.plural
)


async def ensure(
    client: clients.Client,
    handed_on: configs.ClusterConfig,
    *,
    is_needed: bool,
    backoff: backoffs.Backoff = BACKOFF,
) -> None:
    """Once it is settled whether the identity that is handed on may read Services. If it may not and neither
    may we let it: a warning where pods need it (`is_needed`) unless they say otherwise.
    """
    failures = 0
    while True:
        try:
            await _ensure(client, handed_on, is_needed=is_needed)
            return
        except errors.KubeError as error:
            failures += 1
            delay_s = backoff.delay_s(failures)
            log.info("right to Services not found out", next_try_s=round(delay_s, 2), error=str(error))
            await asyncio.sleep(delay_s)


async def _ensure(client: clients.Client, handed_on: configs.ClusterConfig, *, is_needed: bool) -> None:
    async with clients.Client(handed_on) as theirs:
        if await theirs.review_own_access(LISTING):
            return
        user = (await theirs.review_self()).name
    try:
        _ = await client.create(resources.CLUSTER_ROLE_BINDINGS, binding(user))
        log.info("instances may read Services now", user=user, role=ROLE)
    except errors.AlreadyExistsError:
        log.warning("a binding is there, and does not help", **_told(user))
    except errors.ForbiddenError:
        if is_needed:
            log.warning("pods cannot reach ClusterIP services: instances may not read them", **_told(user))
        else:
            log.info("instances may not read Services", **_told(user))


def binding(user: str) -> resources.Raw:
    """Named as the one that `kci up` makes."""
    kind = resources.CLUSTER_ROLE_BINDINGS
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": f"kci-node-proxier-{user.rpartition(':')[2]}"},
        "roleRef": {"apiGroup": kind.group, "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"apiGroup": kind.group, "kind": "User", "name": user}],
    }


def _told(user: str) -> dict[str, str]:
    name = binding(user)["metadata"]["name"]
    remedy = f"kubectl create clusterrolebinding {name} --clusterrole={ROLE} --user={user}"
    return {"user": user, "remedy": remedy}
