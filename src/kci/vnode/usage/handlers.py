"""The kubelet API's paths that tell what pods use. Who comes here may do so already (vnode/auth.py)."""

from __future__ import annotations

import msgspec
import structlog
from aiohttp import web

from kci.vnode import provider
from kci.vnode.usage import keeper, resource_metrics, summary

log = structlog.get_logger(__name__)


class Handlers:
    """aiohttp's handlers; `add_to` says for which paths."""

    def __init__(self, usage: keeper.UsageKeeper, *, node_name: str) -> None:
        self._usage = usage
        self._node_name = node_name

    def add_to(self, router: web.UrlDispatcher) -> None:
        # Both, as the kubelet has it.
        router.add_get("/stats/summary", self._summary, allow_head=False)
        router.add_post("/stats/summary", self._summary)
        router.add_get("/metrics/resource", self._resource, allow_head=False)

    async def _summary(self, request: web.Request) -> web.Response:
        try:
            view = await self._usage.view()
        except provider.ProviderError as error:
            return web.Response(status=500, text=f"Internal Error: {error}")
        only = request.query.getall("only_cpu_and_memory", []) == ["true"]
        told = summary.to_summary(view, node_name=self._node_name, only_cpu_and_memory=only)
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")

    async def _resource(self, _request: web.Request) -> web.Response:
        view = None
        try:
            view = await self._usage.view()
        except provider.ProviderError as error:
            # The kubelet's way: the answer says so, and what scrapes it goes on.
            log.warning("cannot tell what pods use", error=str(error))
        body = resource_metrics.to_text(view).encode()
        return web.Response(body=body, headers={"Content-Type": resource_metrics.CONTENT_TYPE})
