"""The service killed while it works: what it acknowledged stays, and what it began goes on."""

import pytest
import service_crashes


@pytest.mark.requirement("R03")
async def test_what_was_acknowledged_survives_a_dozen_kills(tmp_path, runs):
    await service_crashes.survive(tmp_path, runs.random(), runs.scale(quick=12, faults=12, release=12))
