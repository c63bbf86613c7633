"""Where public images come from: asked as containerd will ask, once at the start."""

import asyncio
import contextlib

import pytest

from kci.stack import publicimages, settings

AUTO = settings.Images.AUTO


@contextlib.asynccontextmanager
async def proxied(answer):
    """A proxy that answers each CONNECT so, and what it was asked."""
    asked = []

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield publicimages.choose_proxy({"https_proxy": f"http://us%40er:pass@127.0.0.1:{port}"}), asked


async def test_without_a_way_out_public_registries_are_not_even_asked():
    is_local, _ = await publicimages.decide(AUTO, has_default_route=False, proxy=None)
    assert is_local
    is_local, _ = await publicimages.decide(settings.Images.PUBLIC, has_default_route=False, proxy=None)
    assert not is_local


async def test_behind_a_proxy_that_connects_public_images_are_pulled():
    async with proxied(b"HTTP/1.1 200 Connection established\r\n\r\n") as (proxy, asked):
        # It may be the only way out, and in this network.
        is_local, words = await publicimages.decide(AUTO, has_default_route=False, proxy=proxy)
    assert (is_local, words) == (False, f"public registries (by the proxy {proxy})")
    assert "pass" not in words
    (request,) = asked
    assert request.splitlines() == [
        "CONNECT registry-1.docker.io:443 HTTP/1.1",
        "Host: registry-1.docker.io:443",
        "Proxy-Authorization: Basic dXNAZXI6cGFzcw==",
        "",
    ]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 Who\r\n\r\n", b"", b"SSH-2.0\r\n"])
async def test_behind_a_proxy_that_does_not_connect_images_are_the_local_ones(answer):
    async with proxied(answer) as (proxy, _):
        is_local, words = await publicimages.decide(AUTO, has_default_route=True, proxy=proxy)
    assert is_local
    assert f"do not answer by the proxy {proxy}" in words


async def test_behind_a_proxy_that_is_away_images_are_the_local_ones():
    async with proxied(b"") as (proxy, _):
        pass
    is_local, _ = await publicimages.decide(AUTO, has_default_route=True, proxy=proxy)
    assert is_local


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "p:1"),
        ({"https_proxy": "p:3128"}, "p:3128"),
        ({"https_proxy": "http://p"}, "p:80"),
        ({"https_proxy": "socks5://p"}, "p:1080"),
        ({"https_proxy": "http://p:1", "no_proxy": "10.0.0.0/8,.example.com"}, "p:1"),
        ({"https_proxy": "http://p:1", "NO_PROXY": "localhost, docker.io"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": ".docker.io:443"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": "docker.io:80,ker.io,"}, "p:1"),
        ({"https_proxy": "http://p:port"}, None),
        ({"https_proxy": "odd://p"}, None),
    ],
)
def test_the_proxy_is_the_one_that_containerd_takes(variables, chosen):
    found = publicimages.choose_proxy(variables)
    assert (found and str(found)) == chosen
