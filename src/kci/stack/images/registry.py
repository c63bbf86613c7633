"""A read-only image registry on loopback: what containerd asks when it pulls the stack's images.

    python -m kci.stack.images.registry --listen 127.0.0.1:PORT --store DIR

containerd comes here as to a mirror and says in the query parameter `ns` which host it means.
The store is read at each request, so images may be added while this runs.
API: OCI distribution-spec 1.1 (pull only).
"""

from __future__ import annotations

import argparse
import asyncio
import pathlib
import sys

import aiohttp.web
import msgspec
import structlog

from kci.kit import errors, logs, tasks
from kci.stack.images import catalogue, layout, oci

_DIGEST_HEADER = "Docker-Content-Digest"
_STOP_S = 1.0
log = structlog.get_logger(__name__)


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Errors(msgspec.Struct, frozen=True):
    errors: tuple[_Error, ...]


def application(store: layout.Layout) -> aiohttp.web.Application:
    """The registry's routes over a store; GET and HEAD."""
    registry = _Registry(store)
    app = aiohttp.web.Application()
    app.router.add_get("/v2/", registry.base)
    app.router.add_get("/v2/{name:.+}/manifests/{reference}", registry.manifest)
    app.router.add_get("/v2/{name:.+}/blobs/{digest}", registry.blob)
    return app


class _Registry:
    def __init__(self, store: layout.Layout) -> None:
        self._store = store

    async def base(self, _request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        return aiohttp.web.json_response({})

    async def manifest(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        name, reference = request.match_info["name"], request.match_info["reference"]
        host = request.query.get("ns", catalogue.OWN_HOST)
        held = await tasks.in_thread(self._store.references)
        wanted = f"{host}/{name}"
        for full, found in held.items():
            repository, _, tag = full.rpartition(":")
            if repository == wanted and reference in {tag, found.digest}:
                return await self._answer(found.digest, oci.MANIFEST_TYPE)
        return _refusal("MANIFEST_UNKNOWN", f"{wanted} has no {reference} here")

    async def blob(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        return await self._answer(request.match_info["digest"], "application/octet-stream")

    async def _answer(self, digest: str, media_type: str) -> aiohttp.web.StreamResponse:
        path = await tasks.in_thread(self._store.blob_path, digest)
        if path is None:
            return _refusal("BLOB_UNKNOWN", f"there is no {digest} here")
        return aiohttp.web.FileResponse(path, headers={"Content-Type": media_type, _DIGEST_HEADER: digest})


def _refusal(code: str, message: str) -> aiohttp.web.Response:
    body = msgspec.json.encode(_Errors((_Error(code, message),)))
    return aiohttp.web.Response(status=404, body=body, content_type="application/json")


async def serve(stop: asyncio.Event, *, host: str, port: int, store: pathlib.Path) -> int:
    """Serve until `stop`. UserError if the address cannot be had."""
    runner = aiohttp.web.AppRunner(application(layout.Layout(store)), shutdown_timeout=_STOP_S)
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, host, port).start()
        log.info("image registry ready", listen=f"{host}:{port}", store=str(store))
        await stop.wait()
    except OSError as error:
        raise errors.UserError(f"cannot listen on {host}:{port} for the image registry: {error}") from error
    finally:
        await runner.cleanup()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="kci-registry", description="Serve a store of images, read-only.")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--store", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--log-level", default="info", choices=logs.LEVELS)
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdigit():
        parser.error("--listen takes HOST:PORT")
    logs.configure(options.log_level)
    try:
        return tasks.run_program(lambda stop: serve(stop, host=host, port=int(port), store=options.store))
    except errors.UserError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
