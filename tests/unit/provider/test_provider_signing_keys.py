"""What the program does with the keys that its settings name, before a small API server."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import test_utils, web

from kci.client import errors
from kci.contract import signing
from kci.kit import secret
from kci.kube import client as clients
from kci.kube import config, resources
from kci.provider import credentials, key_settings, signing_keys

NAME = "user-temp-aksk"
NO_KEY = secret.Secret("")
IN_CLUSTER = key_settings.InCluster((credentials.Reference(resources.CONFIG_MAPS, NAME),), NO_KEY)


class Server:
    """Has one ConfigMap, or none, and keeps the Events it is told."""

    def __init__(self):
        self.data = None
        self.version = 1
        self.events = []
        self.told = asyncio.Event()
        self._changed = asyncio.Event()

    def put(self, **data):
        self.data, self.version = data, self.version + 1
        self._changed.set()

    async def handle(self, request):
        if request.method == "POST":
            self.events.append(await request.json())
            self.told.set()
            return web.json_response(self.events[-1], status=201)
        if "watch" in request.query:
            return await self._watch(request)
        if request.path.endswith(NAME):
            if self.data is None:
                return web.json_response({"code": 404, "reason": "NotFound"}, status=404)
            return web.json_response(self._object())
        items = [self._object()] if self.data else []
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request):
        assert request.path == "/api/v1/namespaces/kube-system/configmaps"
        assert request.query["fieldSelector"] == f"metadata.name={NAME}"
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await self._changed.wait()
            self._changed.clear()
            event = {"type": "MODIFIED", "object": self._object()}
            await response.write(json.dumps(event).encode() + b"\n")

    def _object(self):
        meta = {"name": NAME, "namespace": "kube-system", "uid": "u", "resourceVersion": str(self.version)}
        return {"metadata": meta, "data": self.data}

    @contextlib.asynccontextmanager
    async def following(self, keys):
        async with test_utils.RawTestServer(self.handle, handler_cancellation=True) as server:
            url = f"http://127.0.0.1:{server.port}"
            async with (
                clients.Client(config.ClusterConfig(server=url)) as client,
                signing_keys.followed(keys, client, node_name="vn") as source,
            ):
                yield source


@pytest.mark.guide("env TEMP_AKSK_CM")
async def test_an_absent_config_map_is_waited_for_and_told_on_the_node():
    server = Server()
    async with server.following(IN_CLUSTER) as source, asyncio.timeout(20):
        with pytest.raises(errors.MissingCredentialsError, match="there is none"):
            await source.get()
        await server.told.wait()
        (event,) = server.events
        assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Node", "vn")
        assert (event["type"], event["reason"]) == ("Warning", "CredentialsNotUsable")
        assert "ConfigMap kube-system/user-temp-aksk: there is none" in event["message"]
        assert "ak, sk, securityToken" in event["message"]
        server.put(ak="AK1", sk="SK1")
        while True:
            with contextlib.suppress(errors.MissingCredentialsError):
                assert (await source.get()).access_key == "AK1"
                break
            await asyncio.sleep(0.01)


async def test_fixed_keys_and_folders_need_no_cluster(tmp_path):
    server = Server()
    fixed = signing.Credentials("AK", secret.Secret("SK"))
    async with server.following(key_settings.Fixed(fixed)) as source:
        assert await source.get() == fixed
    for name in ("ak", "sk"):
        (tmp_path / name).write_text(f"{name}\n")
    async with server.following(key_settings.InFolder(tmp_path, NO_KEY)) as source:
        assert await source.get() == signing.Credentials("ak", secret.Secret("sk"))
    assert server.events == []
