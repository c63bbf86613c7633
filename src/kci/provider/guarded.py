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
from kci.provider import circuit
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
            raise provider.UnavailableError(
                "KciUnavailable",
                "cannot reach the container instance service, which did not answer several times",
                retry_after_s=wait_s,
            )
        try:
            yield
        except errors.TryLaterError as error:
            self._circuit.failed(_now_s(), retry_after_s=error.retry_after_s)
            raise
        except errors.UnreachableError:
            self._circuit.failed(_now_s())
            raise
        except errors.KciError:
            self._circuit.answered()
            raise
        else:
            self._circuit.answered()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
