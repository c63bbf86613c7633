"""Whether public registries answer: decided once at a start, so that no pull waits to find it out.

They are asked as containerd will ask them, by the proxy of the environment if there is one.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import ssl
import urllib.parse
from collections.abc import Mapping

from kci.stack import settings

# The registry behind docker.io, which names without a registry mean.
HOST, PORT = "registry-1.docker.io", 443
TIMEOUT_S = 2.0
# Go takes the first that is set, and no ALL_PROXY (golang.org/x/net/http/httpproxy).
_PROXY, _NO_PROXY = ("HTTPS_PROXY", "https_proxy"), ("NO_PROXY", "no_proxy")
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclasses.dataclass(frozen=True)
class Proxy:
    """`authorization` is the header's value; empty if the proxy asks for none."""

    scheme: str
    host: str
    port: int
    authorization: str = dataclasses.field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def choose_proxy(variables: Mapping[str, str]) -> Proxy | None:
    """The one by which containerd pulls from docker.io; None if it does that directly. What is no proxy's
    address Go passes over.
    """
    text = next((variables[name] for name in _PROXY if variables.get(name)), "")
    exempt = next((variables[name] for name in _NO_PROXY if variables.get(name)), "")
    if any(_covers(one.strip().lower()) for one in exempt.split(",")):
        return None
    try:
        url = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:
        return None
    if not url.hostname or not port:
        return None
    user = ":".join(urllib.parse.unquote(one or "") for one in (url.username, url.password))
    encoded = base64.b64encode(user.encode()).decode()
    return Proxy(url.scheme, url.hostname, port, f"Basic {encoded}" if url.username else "")


def _covers(exempt: str) -> bool:
    """Whether this entry of NO_PROXY is for docker.io's registry: its name, a domain above it, or all."""
    name = exempt.removesuffix(f":{PORT}").removeprefix("*.")
    return exempt == "*" or name == HOST or (bool(name) and HOST.endswith(f".{name.removeprefix('.')}"))


async def decide(
    wanted: settings.Images, *, has_default_route: bool, proxy: Proxy | None
) -> tuple[bool, str]:
    """Whether images come from the local registry, and the same in words."""
    match wanted:
        case settings.Images.LOCAL:
            return True, "local registry (asked for)"
        case settings.Images.PUBLIC:
            return False, "public registries (asked for)"
        case settings.Images.AUTO if proxy is not None:
            if await _answers(proxy):
                return False, f"public registries (by the proxy {proxy})"
            return True, f"local registry (public ones do not answer by the proxy {proxy})"
        case settings.Images.AUTO:
            if not has_default_route:
                return True, "local registry (no way out of this network)"
            if await _answers(None):
                return False, "public registries"
            return True, "local registry (public ones do not answer)"


async def _answers(proxy: Proxy | None) -> bool:
    host, port = (HOST, PORT) if proxy is None else (proxy.host, proxy.port)
    tls = ssl.create_default_context() if proxy is None or proxy.scheme == "https" else None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            try:
                return proxy is None or await _leads_there(proxy, reader, writer)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False


async def _leads_there(proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the proxy connects us. A SOCKS proxy is there, and that must do."""
    if proxy.scheme not in {"http", "https"}:
        return True
    target = f"{HOST}:{PORT}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
    status = (await reader.readline()).split()
    return len(status) > 1 and status[0].startswith(b"HTTP/") and status[1].startswith(b"2")
