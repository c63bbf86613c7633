"""The rule that no call waits on the outside without a limit in time (scripts/deadlines.py)."""

import deadlines
import pytest


@pytest.mark.requirement("R15")
@pytest.mark.parametrize(
    "call",
    [
        "await asyncio.open_connection(host, port)",
        "await loop.sock_connect(connection, address)",
        "aiohttp.ClientSession(connector=connector)",
        "aiohttp.ClientTimeout(total=None, connect=5.0)",
        "subprocess.run(argv, check=True)",
        "await asyncio.get_running_loop().getaddrinfo(host, port)",
        "async with service, other.open(): await asyncio.open_connection(host, port)",
    ],
)
def test_a_call_without_a_limit_is_found(call):
    assert deadlines.unlimited(f"async def f():\n    {call}\n") == [2]


@pytest.mark.parametrize(
    "call",
    [
        "async with asyncio.timeout(3): await asyncio.open_connection(host, port)",
        "async with opened, asyncio.timeout_at(3): await loop.sock_connect(connection, address)",
        "aiohttp.ClientSession(timeout=limits)",
        "aiohttp.ClientTimeout(total=None, sock_read=60)",
        "subprocess.run(argv, timeout=10)",
        "await reader.run()",
        "await asyncio.open_connection(host, port)  # deadline: the caller's",
        "# deadline: the caller's\n    await asyncio.open_connection(host, port)",
    ],
)
def test_a_call_with_a_limit_is_none(call):
    assert deadlines.unlimited(f"async def f():\n    {call}\n") == []


def test_what_is_only_defined_within_a_limit_has_none():
    text = """
async def f():
    async with asyncio.timeout(3):
        async def later():
            await asyncio.open_connection(host, port)
"""
    assert deadlines.unlimited(text) == [5]
