"""The CA by which the kubelet API knows its clients, as the cluster publishes it, followed while it changes.

The API server keeps it in a ConfigMap for servers that stand behind it (k8s.io/apiserver v0.36
pkg/server/options, authentication_dynamic_request_header.go); it is read again every minute, as those do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from kci.kit import backoff as backoffs
from kci.kube import errors, resources

log = structlog.get_logger(__name__)

NAMESPACE, NAME, KEY = "kube-system", "extension-apiserver-authentication", "client-ca-file"
LOOK_EVERY_S = 60.0
BACKOFF = backoffs.Backoff(initial_s=0.5, cap_s=LOOK_EVERY_S)
_WHERE = f"the ConfigMap {NAMESPACE}/{NAME}"
_REMEDY = (
    "let the node's account read it (Role kube-system/extension-apiserver-authentication-reader), or give "
    "--client-ca-file"
)


class Api(Protocol):
    """What is needed of the cluster's client."""

    async def get(self, resource: resources.Resource[Any], name: str, *, namespace: str = "") -> Any: ...


async def follow(
    client: Api,
    use: Callable[[str], None],
    *,
    tell: Callable[[str], None],
    look_every_s: float = LOOK_EVERY_S,
) -> None:
    """`use` gets the CA (PEM), first and whenever it changed; it raises ValueError for what is none. `tell`
    is told what is wrong, and nothing when that is over. What was in use stays in use meanwhile.
    """
    used, failures = "", 0
    while True:
        try:
            found = await _read(client)
            if found != used:
                use(found)
                log.info("client CA taken", source=_WHERE)
                used = found
        except (errors.KubeError, ValueError) as error:
            failures += 1
            log.info("the client CA was not read", error=str(error))
            remedy = f"; {_REMEDY}" if isinstance(error, errors.ForbiddenError) else ""
            tell(f"cannot know the kubelet API's clients: {error}{remedy}")
        else:
            failures = 0
            tell("")
        await asyncio.sleep(BACKOFF.delay_s(failures) if failures and not used else look_every_s)


async def _read(client: Api) -> str:
    published = await client.get(resources.CONFIG_MAPS, NAME, namespace=NAMESPACE)
    text = str(published.data.get(KEY, ""))
    if not text:
        raise ValueError(f"{_WHERE} names no {KEY}: start the API server with --client-ca-file")
    return text
