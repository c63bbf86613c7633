"""Fixtures for the drivers, inside a node's namespaces (see ../test_drivers_on_node.py)."""

import pytest
from drivers import machine as machines


@pytest.fixture
async def machine():
    """All drivers on the node; what a test leaves is removed and looked for."""
    async with machines.open_machine() as opened:
        yield opened
