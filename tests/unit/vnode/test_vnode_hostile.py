"""Hostile WebSocket bytes at the node's port: the connection is cut, the process ended, little is kept."""

import asyncio
import contextlib
import struct
import tracemalloc

import pytest
from fakes import kubelet_api, kubelet_peers

PATHS = {
    "exec": "/exec/default/web/c?command=sh&input=1&output=1",
    "tunnel": "/portForward/default/web",
    "channels": "/portForward/default/web?port=80",
}
PROTOCOLS = {
    "exec": "v5.channel.k8s.io",
    "tunnel": "SPDY/3.1+portforward.k8s.io",
    "channels": "v4.channel.k8s.io",
}
MASK = bytes(4)


def frame(first, content=b"", *, length=None):
    """A masked frame; `length` may lie about the content's."""
    size = len(content) if length is None else length
    if size < 126:
        return bytes((first, 0x80 | size)) + MASK + content
    if size < 65536:
        return bytes((first, 0x80 | 126)) + struct.pack(">H", size) + MASK + content
    return bytes((first, 0x80 | 127)) + struct.pack(">Q", size) + MASK + content


HOSTILE = {
    "a ping in two parts": frame(0x09, b"x"),
    "a ping that is too long": frame(0x89, bytes(126)),
    "a message of many exabytes": frame(0x82, length=(1 << 63) - 1),
    "a length with its top bit set": frame(0x82, length=1 << 63),
    "a message over the limit": frame(0x82, bytes(2 << 20)),
    "one over the limit in many parts": frame(0x02, bytes(60_000)) + frame(0x00, bytes(60_000)) * 40,
    "a compressed message, which was not agreed on": frame(0xC2, b"x"),
    "reserved bits": frame(0xB2, b"x"),
    "an unknown kind": frame(0x83, b"x"),
    "a continuation of nothing": frame(0x80, b"x"),
    "a close with half a code": frame(0x88, b"\x03"),
    "a close with a code that does not exist": frame(0x88, struct.pack(">H", 5)),
    "text that is no text": frame(0x81, b"\xff\xfe\xff"),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return kubelet_peers.Authority(tmp_path_factory.mktemp("pki"))


@contextlib.asynccontextmanager
async def raw(api, kind):
    """An upgraded connection, and the head of the answer."""
    host, port = api.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=api.context("admin"))
    try:
        writer.write(
            f"GET {PATHS[kind]} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Protocol: {PROTOCOLS[kind]}\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        yield head, reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("head", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Half: "])
async def test_who_does_not_say_what_they_want_is_cut_off_and_holds_up_nobody(authority, head):
    async with asyncio.timeout(10), kubelet_api.running(authority, silence_s=0.3) as api:
        api.streams.endless = True
        async with api.admin() as session, session.get("/containerLogs/default/web/c?follow=true") as log:
            await log.content.readline()
            host, port = api.url.removeprefix("https://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port), ssl=api.context("admin"))
            writer.write(head)
            assert await reader.read() == b""
            writer.transport.abort()
            # A stream is silent for as long as it likes.
            assert not api.streams.closed.is_set()


@pytest.mark.requirement("R42")
@pytest.mark.parametrize("kind", PATHS)
async def test_compression_is_never_agreed_on(authority, kind):
    async with kubelet_api.running(authority) as api, raw(api, kind) as (head, _, _):
        assert " 101 " in head
        assert "sec-websocket-extensions" not in head


@pytest.mark.requirement("R42")
@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("arriving", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_frames_cut_the_connection_and_nothing_else(authority, kind, arriving):
    async with kubelet_api.running(authority) as api:
        tracemalloc.start()
        try:
            async with raw(api, kind) as (_, reader, writer):
                with contextlib.suppress(ConnectionError):
                    writer.write(arriving)
                    # As a peer that answers the goodbye, so that nobody waits for it.
                    writer.write(frame(0x88, struct.pack(">H", 1000)))
                    async with asyncio.timeout(20):
                        _ = await reader.read()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 16 << 20
        for opened in (*api.streams.execs, *api.streams.ports):
            await asyncio.wait_for(opened.closed.wait(), 10)
        # The node serves on.
        async with api.admin() as session, session.get("/healthz") as answer:
            assert answer.status == 200
