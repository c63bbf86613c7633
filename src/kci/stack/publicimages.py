"""Whether public registries answer: decided once at a start, so that no pull waits to find it out."""

from __future__ import annotations

import asyncio
import ssl

from kci.stack import settings

# The registry behind docker.io, which names without a registry mean.
HOST, PORT = "registry-1.docker.io", 443
TIMEOUT_S = 2.0


async def decide(wanted: settings.Images, *, has_default_route: bool) -> tuple[bool, str]:
    """Whether images come from the local registry, and the same in words."""
    match wanted:
        case settings.Images.LOCAL:
            return True, "local registry (asked for)"
        case settings.Images.PUBLIC:
            return False, "public registries (asked for)"
        case settings.Images.AUTO:
            if not has_default_route:
                return True, "local registry (no way out of this network)"
            if await _answers():
                return False, "public registries"
            return True, "local registry (public ones do not answer)"


async def _answers() -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(HOST, PORT, ssl=ssl.create_default_context())
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
