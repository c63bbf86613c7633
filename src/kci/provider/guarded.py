"""The node's calls to KCI, each through the circuit of its endpoint, and each sent once.

Streams of users (exec, logs) do not go through it: who waits for them sees the error itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Protocol

from kci.client import errors
from kci.contract import capabilities, groups, ids, packages
from kci.provider import circuit, faults
from kci.vnode import provider


class Api(Protocol):
    """What the node needs of the client."""

    async def create_container_group(self, request: groups.CreateContainerGroup) -> ids.GroupId: ...

    async def delete_container_group(
        self, group_id: ids.GroupId, *, fence: groups.Fence | None = None
    ) -> None: ...

    async def list_container_groups(self) -> list[groups.ContainerGroup]: ...

    def watch_container_groups(
        self, *, cluster_id: str = "", node_name: str = ""
    ) -> AsyncGenerator[groups.GroupChange, None]: ...

    async def describe_capabilities(self) -> capabilities.Capabilities: ...

    async def describe_kci_packages(self) -> packages.Table: ...


class GuardedApi:
    """The same calls; UnavailableError without sending anything while the endpoint is known to be down."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._circuit = circuit.Circuit()
        # Why the last call that failed did.
        self._refused: errors.RefusedError | None = None

    async def create_container_group(self, request: groups.CreateContainerGroup) -> ids.GroupId:
        with self._call():
            return await self._api.create_container_group(request)

    async def delete_container_group(
        self, group_id: ids.GroupId, *, fence: groups.Fence | None = None
    ) -> None:
        with self._call():
            await self._api.delete_container_group(group_id, fence=fence)

    async def list_container_groups(self) -> list[groups.ContainerGroup]:
        with self._call():
            return await self._api.list_container_groups()

    async def describe_capabilities(self) -> capabilities.Capabilities:
        with self._call():
            return await self._api.describe_capabilities()

    async def describe_kci_packages(self) -> packages.Table:
        with self._call():
            return await self._api.describe_kci_packages()

    async def watch_container_groups(
        self, *, cluster_id: str = "", node_name: str = ""
    ) -> AsyncGenerator[groups.GroupChange, None]:
        with self._call():
            changes = self._api.watch_container_groups(cluster_id=cluster_id, node_name=node_name)
            async with contextlib.aclosing(changes) as lines:
                async for line in lines:
                    self._circuit.answered()
                    yield line

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        wait_s = self._circuit.ask(_now_s())
        if wait_s > 0:
            raise self._unavailable(wait_s)
        try:
            yield
        except (errors.TryLaterError, errors.UnreachableError, errors.RefusedError) as error:
            self._refused = error if isinstance(error, errors.RefusedError) else None
            retry_after_s = error.retry_after_s if isinstance(error, errors.TryLaterError) else 0.0
            self._circuit.failed(_now_s(), retry_after_s=retry_after_s)
            if self._refused is not None and self._circuit.is_open:
                raise self._unavailable(0.0) from error
            raise
        except errors.KciError:
            self._circuit.answered()
            raise
        else:
            self._circuit.answered()

    def _unavailable(self, wait_s: float) -> provider.UnavailableError:
        """In the same words for all who wait, so that their pods say the same until it is over."""
        if self._refused is None:
            text = "cannot reach the container instance service, which did not answer several times"
            return provider.UnavailableError("KciUnavailable", text, retry_after_s=wait_s)
        reason = faults.reason_of(self._refused)
        if isinstance(self._refused, errors.MissingCredentialsError):
            text = str(self._refused)
        else:
            text = (
                f"cannot use the container instance service, which refuses this node's calls ({reason}): "
                "correct its keys, what they may do, or its clock"
            )
        return provider.UnavailableError(reason, text, retry_after_s=wait_s)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
