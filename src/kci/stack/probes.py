"""Asking a part whether it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import aiohttp

from kci.stack import commands

TIMEOUT_S = 2.0


async def ask(probe: commands.Probe) -> str:
    """Empty if the part is ready, else why not, in words."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            match probe:
                case commands.HttpProbe():
                    return await _ask_http(probe)
                case commands.TcpProbe():
                    await _close(await asyncio.open_connection(probe.host, probe.port))
                case commands.SocketProbe():
                    await _close(await asyncio.open_unix_connection(str(probe.path)))
            return ""
    except TimeoutError:
        return f"no answer within {TIMEOUT_S:g} s"
    except (OSError, aiohttp.ClientError, ssl.SSLError) as error:
        return str(error)


async def _close(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    connection[1].close()
    with contextlib.suppress(OSError):
        await connection[1].wait_closed()


async def _ask_http(probe: commands.HttpProbe) -> str:
    connector = (
        aiohttp.UnixConnector(str(probe.socket))
        if probe.socket
        else aiohttp.TCPConnector(ssl=_context(probe) if probe.ca else True)
    )
    # deadline: that of `ask`.
    async with aiohttp.ClientSession(connector=connector) as session, session.get(probe.url) as answer:
        if answer.status == 200:
            return ""
        text = (await answer.text(errors="replace"))[-200:].strip()
        return f"answered {answer.status}: {text}"


def _context(probe: commands.HttpProbe) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=probe.ca)
    if probe.certificate:
        context.load_cert_chain(probe.certificate, probe.key)
    return context
