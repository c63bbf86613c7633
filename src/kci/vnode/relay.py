"""Carries an exec between a client's WebSocket and the provider's stream.

The provider's side speaks v5.channel.k8s.io. A client that speaks v4 has no close message: it is not
sent one, and one that it sends means nothing. All else is the same bytes in both (kit/channels.py).
"""

from __future__ import annotations

import contextlib

import aiohttp
from aiohttp import web

from kci.kit import channels, tasks
from kci.kube import models
from kci.vnode import provider

# In order of our liking.
PROTOCOLS = (channels.V5, channels.V4)
# kubectl sends 32 KiB at most; a message is one allocation.
MAX_MESSAGE_BYTES = 1024 * 1024
CLOSE_TIMEOUT_S = 5.0


class NotOpened:
    """provider.ExecStream of a command that could not be started: all it has is the reason."""

    def __init__(self, reason: str) -> None:
        self._left: list[bytes] = [channels.frame(channels.Channel.STATUS, channels.error_status(reason))]

    async def send(self, message: bytes) -> None:
        """Nobody reads it."""

    async def receive(self) -> bytes | None:
        return self._left.pop() if self._left else None

    async def close(self) -> None:
        """There is nothing open."""


async def carry(
    client: web.WebSocketResponse, stream: provider.ExecStream, options: models.PodExecOptions
) -> None:
    """Until either side ends; both are closed then."""
    # An empty message tells the client that the command's streams are there (apiserver's wsstream does so).
    await client.send_bytes(channels.frame(_first_output(options)))
    await tasks.first_of(_to_client(client, stream), _to_provider(client, stream), name="exec relay")


def choose_protocol(offered: list[str]) -> str | None:
    return next((protocol for protocol in PROTOCOLS if protocol in offered), None)


async def _to_client(client: web.WebSocketResponse, stream: provider.ExecStream) -> None:
    ended = False
    while (message := await stream.receive()) is not None:
        kind = message[0] if message else None
        if kind == channels.Channel.CLOSE and client.ws_protocol != channels.V5:
            continue
        ended = ended or kind == channels.Channel.STATUS
        await client.send_bytes(message)
    if not ended:
        lost = channels.error_status("the instance's stream ended before the command did")
        await client.send_bytes(channels.frame(channels.Channel.STATUS, lost))


async def _to_provider(client: web.WebSocketResponse, stream: provider.ExecStream) -> None:
    async for message in client:
        if message.type is not aiohttp.WSMsgType.BINARY:
            # Text is not part of the protocol.
            continue
        if _is_for_provider(message.data, client.ws_protocol):
            # That the other end is gone is for `_to_client` to tell: ending here would leave the client
            # without a status, which it takes for success.
            with contextlib.suppress(ConnectionError):
                await stream.send(message.data)


def _is_for_provider(message: bytes, protocol: str | None) -> bool:
    if not message:
        return False
    match message[0]:
        case channels.Channel.STDIN | channels.Channel.RESIZE:
            return True
        case channels.Channel.CLOSE:
            return protocol == channels.V5
        case _:
            return False


def _first_output(options: models.PodExecOptions) -> channels.Channel:
    if options.stdout:
        return channels.Channel.STDOUT
    return channels.Channel.STDERR if options.stderr else channels.Channel.STATUS
