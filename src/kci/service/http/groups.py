"""The actions on container groups."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from aiohttp import web

from kci.contract import groups as api
from kci.contract import packages, starts
from kci.service.app import changes, groups
from kci.service.http import answers, verification

_WRITE_TIMEOUT_S = 30.0


class GroupActions:
    """Request in, use case, answer out."""

    def __init__(self, service: groups.GroupService) -> None:
        self._service = service

    async def create(self, caller: verification.Verified, request: api.CreateContainerGroup) -> api.Created:
        return api.Created(container_group_id=await self._service.create(caller.identity, request))

    async def describe(
        self, caller: verification.Verified, request: api.DescribeContainerGroup
    ) -> api.ContainerGroups:
        return await self._service.describe(caller.identity.tenant_id, request)

    async def delete(self, caller: verification.Verified, request: api.DeleteContainerGroup) -> api.Done:
        group_id = api.check_group_id(request.container_group_id)
        await self._service.delete(caller.identity, group_id, fence=request.fence)
        return api.Done()

    async def describe_start(
        self, caller: verification.Verified, request: starts.DescribeContainerGroupStart
    ) -> starts.GroupStart:
        group_id = api.check_group_id(request.container_group_id)
        return await self._service.describe_start(caller.identity.tenant_id, group_id)

    async def describe_packages(
        self, _caller: verification.Verified, _request: packages.DescribeKciPackages
    ) -> packages.PackageList:
        return packages.PackageList(packages=self._service.offered.packages)

    async def watch(
        self, http: web.Request, caller: verification.Verified, request: api.WatchContainerGroups
    ) -> web.StreamResponse:
        """JSON lines until the watcher leaves or the service stops. One that does not read is cut off."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        async with contextlib.aclosing(self._service.watch(caller.identity.tenant_id, request)) as lines:
            # The first line comes before the answer begins: what fails until then is an error's answer.
            first = _to_line(await anext(lines))
            await response.prepare(http)
            with answers.started(http), contextlib.suppress(changes.FeedClosedError):
                await _write(response, first)
                async for change in lines:
                    await _write(response, _to_line(change))
        return response


async def _write(response: web.StreamResponse, line: bytes) -> None:
    async with asyncio.timeout(_WRITE_TIMEOUT_S):
        await response.write(line)


def _to_line(change: api.GroupChange | None) -> bytes:
    if change is None:
        return b"\n"
    if change.group is not None:
        return msgspec.json.encode(change.group) + b"\n"
    line = api.GroupLine(container_group_id=change.group_id, absent=change.absent, synced=change.synced)
    return msgspec.json.encode(line) + b"\n"
