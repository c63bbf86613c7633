"""The node's role: what `kubectl get node` shows as ROLES, `agent` in the guide.

NodeRestriction keeps a node from giving itself a role, so the account does it, where there is one that may.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog

from kci.kit import crashpoints
from kci.kube import client as clients
from kci.kube import errors, models, resources

log = structlog.get_logger(__name__)

# Upstream's label, which selectors of today's users name, and the one that replaced it.
LABELS = {"kubernetes.io/role": "agent", "node-role.kubernetes.io/agent": ""}


def missing(node: models.Node) -> dict[str, str]:
    return {key: value for key, value in LABELS.items() if node.metadata.labels.get(key) != value}


async def keep(account: clients.Client, registered: AsyncIterator[models.Node | None]) -> None:
    """For each registration of the node. Nothing depends on it, so what fails is only told."""
    async for node in registered:
        labels = missing(node) if node is not None else {}
        if node is None or not labels:
            continue
        name = node.metadata.name
        try:
            crashpoints.reached("provider.set_role.before")
            await account.patch(
                resources.NODES, name, {"metadata": {"uid": node.metadata.uid, "labels": labels}}
            )
            crashpoints.reached("provider.set_role.after")
        except errors.KubeError as error:
            remedy = " ".join(f"{key}={value}" for key, value in labels.items())
            log.info("the node shows no role", error=str(error), remedy=f"kubectl label node {name} {remedy}")
