"""From the settings to what signs: the kind of source that was chosen, followed and told of on the node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from kci.client import credentials as kci_credentials
from kci.kit import clock, tasks
from kci.kube import client as clients
from kci.kube import events
from kci.provider import credentials, key_settings

COMPONENT = "virtual-kubelet"
REASON: Final = "CredentialsNotUsable"


@contextlib.asynccontextmanager
async def followed(
    keys: key_settings.Keys, client: clients.Client, *, node_name: str
) -> AsyncIterator[kci_credentials.CredentialSource]:
    """Follows the keys inside the block. What is wrong with them is an Event of the node, told whether this
    copy acts or not: the one that acts next needs them as well.
    """
    recorder = events.EventRecorder(client, component=COMPONENT, host=node_name)

    def tell(trouble: str) -> None:
        node = events.of_node(node_name)
        recorder.record(node, type=events.WARNING, reason=REASON, message=trouble)

    wall = clock.SystemClock()
    async with tasks.background("credential events", recorder.run()):
        match keys:
            case key_settings.Fixed():
                yield kci_credentials.Static(keys.credentials)
            case key_settings.InFolder():
                yield credentials.Folder(keys.path, cipher_key=keys.cipher_key, clock=wall, on_trouble=tell)
            case key_settings.InCluster():
                source = credentials.Cluster(
                    client, keys.references, cipher_key=keys.cipher_key, clock=wall, on_trouble=tell
                )
                async with tasks.background("credentials", source.run()):
                    yield source
