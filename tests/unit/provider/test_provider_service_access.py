"""Whether instances may read Services is found out in the end, whatever answers at first."""

import asyncio

from aiohttp import test_utils, web

from kci.kit import backoff, secret
from kci.kube import client as clients
from kci.kube import config as configs
from kci.provider import service_access

QUICK = backoff.Backoff(initial_s=0.001, cap_s=0.01)


class ApiServer:
    """Answers reviews; `garbage` first answers are no JSON, as of a proxy before it."""

    def __init__(self, *, allowed, garbage=0):
        self.allowed, self.garbage = allowed, garbage
        self.asked, self.bound = [], []

    async def handle(self, request):
        if self.garbage > 0:
            self.garbage -= 1
            return web.Response(text="<html>")
        body = await request.json()
        match body["kind"]:
            case "SelfSubjectAccessReview":
                self.asked.append(body["spec"]["resourceAttributes"])
                return web.json_response({"status": {"allowed": self.allowed}})
            case "SelfSubjectReview":
                return web.json_response({"status": {"userInfo": {"username": "system:node:vn"}}})
            case _:
                self.bound.append(body)
                return web.json_response(body, status=201)


async def ensure(api_server):
    async with test_utils.RawTestServer(api_server.handle) as server:
        config = configs.ClusterConfig(server=str(server.make_url("")), token=secret.Secret("T"))
        async with clients.Client(config) as client, asyncio.timeout(10):
            await service_access.ensure(client, config, is_needed=True, backoff=QUICK)


async def test_who_may_read_services_is_bound_to_nothing():
    api_server = ApiServer(allowed=True)
    await ensure(api_server)
    assert api_server.bound == []
    (asked,) = api_server.asked
    assert (asked["verb"], asked["group"], asked["resource"]) == (
        "list",
        "discovery.k8s.io",
        "endpointslices",
    )


async def test_an_answer_that_is_no_review_is_asked_for_again():
    api_server = ApiServer(allowed=False, garbage=3)
    await ensure(api_server)
    (bound,) = api_server.bound
    assert bound["subjects"][0]["name"] == "system:node:vn"
